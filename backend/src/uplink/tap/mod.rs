//! A TAP or macvtap queue (Linux, Documentation/networking/tuntap.rst) as two halves: frames straight from and to guest
//! memory, and in between the work that one side does not do.

#![allow(unsafe_code)]

mod rx;
mod switch;
mod tx;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::join::Joiner;
use super::{Rx, Tx};
use crate::offload::Offloads;

pub use rx::TapRx;
pub use switch::TapSwitch;
pub use tx::TapTx;

/// Most pieces that the kernel takes in one call (IOV_MAX).
const MAX_IOVECS: usize = 1024;

/// What is known of a TAP.
#[derive(Clone, Copy, Debug)]
pub struct TapTerms {
    /// Its queues can be detached.
    pub multi_queue: bool,
    /// The kernel cuts up UDP.
    pub uso: bool,
    /// Packets of one flow are to be joined on their way to it.
    pub coalesce: bool,
}

/// Makes the halves of each queue of an open TAP, and its switch. No frames come to a queue until its switch lets them.
///
/// # Errors
/// When the kernel refuses to detach a queue of a multi-queue TAP.
pub fn tap_pairs(queues: Vec<OwnedFd>, terms: TapTerms) -> io::Result<Vec<((Tx, Rx), TapSwitch)>> {
    let TapTerms { multi_queue, uso, coalesce } = terms;
    let pair = |fd: OwnedFd| {
        let queue = Arc::new(Queue { fd, takes: AtomicU8::new(0) });
        let switch = TapSwitch::new(queue.clone(), multi_queue, uso)?;
        let takes = Offloads { uso4: uso, uso6: uso, ..Offloads::ALL };
        let tx = TapTx::new(queue.clone(), coalesce.then(|| Box::new(Joiner::new(takes))));
        Ok(((Tx::Tap(tx), Rx::Tap(Box::new(TapRx::new(queue)))), switch))
    };
    queues.into_iter().map(pair).collect()
}

/// A TAP queue.
#[derive(Debug)]
struct Queue {
    fd: OwnedFd,
    /// What the guest takes, for all who use the queue.
    takes: AtomicU8,
}

impl Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn takes(&self) -> Offloads {
        Offloads::from_bits(self.takes.load(Ordering::Relaxed))
    }

    fn set_takes(&self, takes: Offloads) {
        self.takes.store(takes.to_bits(), Ordering::Relaxed);
    }
}

fn iovec_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
