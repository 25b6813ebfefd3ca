//! A queue of a network interface without the kernel's stack (AF_XDP; Linux, Documentation/networking/af_xdp.rst).
//!
//! A program at the interface sends the frames of a queue to a socket of ours, which has packet memory of its own
//! (UMEM) and four rings that it shares with the kernel: received frames and empty chunks, frames to send and chunks
//! that were sent. Each frame is copied once between packet memory and the guest. The kernel does no work on such
//! frames, so that checksums are finished and frames cut here.
//!
//! Whatever needs rights was opened before. An interface that goes down loses frames and nothing else; one that is
//! deleted leaves a queue without a socket, until it is given another ([`XdpPort::connect`]).

mod area;
mod batch;
mod budget;
mod chunks;
mod groups;
mod port;
mod ring;
mod rx;
mod socket;
mod steering;
mod tx;

use std::io;
use std::sync::Arc;

use super::{Rx, Tx};

pub use port::XdpPort;
pub use rx::XdpRx;
pub use socket::{XdpError, XdpSocket};
pub use steering::XdpSteering;
pub use tx::XdpTx;

/// The halves of queue number `queue`, which has no socket yet, and the way to give it one. `coalesce` says whether
/// received packets are joined for a guest that takes such frames.
///
/// # Errors
/// When the kernel gives no epoll or timer.
pub fn af_xdp_pair(queue: u32, coalesce: bool) -> io::Result<(Arc<XdpPort>, (Tx, Rx))> {
    let port = Arc::new(XdpPort::new(queue)?);
    let halves =
        (Tx::AfXdp(Box::new(XdpTx::new(port.clone()))), Rx::AfXdp(Box::new(XdpRx::new(port.clone(), coalesce))));
    Ok((port, halves))
}
