//! Where a queue pair's frames go to and come from.
//!
//! An uplink is made as two halves, one to send and one to receive, for the two directions are independent. Frames go
//! straight from and to guest buffers, after a virtio-net header in private memory.

mod bell;
mod byte_sum;
mod discard;
mod generate;
mod loopback;
mod tap;
mod tx_burst;

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::GuestSlice;
use crate::offload::{NetHeader, Offloads};

pub use discard::DiscardTx;
pub use generate::{GenerateRx, MIN_LEN as MIN_GENERATED_LEN};
pub use loopback::{LoopbackRoom, LoopbackRx, LoopbackTx, loopback_pair};
pub use tap::{TapRx, TapTx, tap_pairs};
pub use tx_burst::{Judged, Progress, Sent, TxBurst, TxFrame};

/// Largest frame that the kernel hands over or takes, in bytes: 65,535 of IP after an Ethernet and a VLAN header.
const MAX_FRAME: usize = 65_535 + 18;

/// What came from the uplink.
#[derive(Debug)]
pub enum Received<'a> {
    /// A frame. What did not fit the buffers is in `rest`.
    Frame {
        /// The uplink's header.
        header: NetHeader,
        /// Bytes of the frame, without any header.
        len: usize,
        /// The end of the frame, if the buffers were too short.
        rest: &'a [u8],
    },
    /// Nothing waits.
    Empty,
    /// The kernel could not hand a frame over, which is lost.
    Spoilt,
    /// The uplink has gone for good.
    Gone,
    /// The guest's buffers vanished while the kernel wrote to them.
    Fault,
}

/// The half that sends.
#[derive(Debug)]
pub enum Tx {
    /// A TAP queue.
    Tap(TapTx),
    /// Nowhere.
    Discard(DiscardTx),
    /// Back to the guest.
    Loopback(LoopbackTx),
}

/// The half that receives.
#[derive(Debug)]
pub enum Rx {
    /// A TAP queue.
    Tap(TapRx),
    /// From nowhere.
    Discard,
    /// The same frame without end.
    Generate(GenerateRx),
    /// What the guest sent.
    Loopback(LoopbackRx),
    /// Nothing: the guest's frames are received by another thread.
    LoopbackRoom(LoopbackRoom),
}

/// What receives frames one by one.
pub trait Receive {
    /// Takes the next frame, if it lies in private memory already, needs no work and has `room` bytes at most.
    #[inline]
    fn next_plain(&mut self, room: usize) -> Option<&[u8]> {
        let _ = room;
        None
    }

    /// Receives one frame into `slices`, leaving `skip` bytes at their start for the guest's header. No more than `room`
    /// bytes of the slices need be used.
    fn receive(&mut self, slices: &[GuestSlice<'_>], skip: usize, room: usize) -> Received<'_>;
}

impl Tx {
    /// For who sends nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::Discard(DiscardTx::new(false))
    }

    /// Sends frames, in their order, until one cannot be sent now.
    #[inline]
    pub fn send(&mut self, burst: &TxBurst<'_>) -> Progress {
        match self {
            Self::Tap(tap) => burst.each(|frame| tap.send(frame)),
            Self::Discard(discard) => discard.send(burst),
            Self::Loopback(loopback) => loopback.send(burst),
        }
    }

    /// Whether it copies small frames rather than handing them to the kernel where they lie.
    #[inline]
    #[must_use]
    pub fn copies(&self) -> bool {
        match self {
            Self::Tap(_) | Self::Loopback(_) => true,
            Self::Discard(discard) => discard.reads(),
        }
    }

    /// The sum of all bytes that were read and dropped, of an uplink that does nothing else.
    #[must_use]
    pub fn discarded_bytes_sum(&self) -> Option<u64> {
        match self {
            Self::Discard(discard) => Some(discard.sum()),
            Self::Tap(_) | Self::Loopback(_) => None,
        }
    }

    /// Sends a frame that lies in private memory.
    pub fn send_private(&mut self, frame: &[u8]) -> Sent {
        match self {
            Self::Tap(tap) => tap.send_private(frame),
            Self::Discard(_) | Self::Loopback(_) => Sent::Done,
        }
    }
}

impl Rx {
    /// For who sends on the same queue from another thread and receives nothing: keeps the queue attached meanwhile, and
    /// can be watched for room.
    #[must_use]
    pub fn beside(&self) -> Self {
        match self {
            Self::Tap(tap) => Self::Tap(tap.beside()),
            Self::Discard | Self::Generate(_) | Self::LoopbackRoom(_) => Self::Discard,
            Self::Loopback(loopback) => Self::LoopbackRoom(loopback.beside()),
        }
    }

    /// What to watch: readable when a frame waits, writable when there is room to send. An uplink without it changes
    /// only by what its own pair does.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tap(tap) => Some(tap.fd()),
            Self::Discard | Self::Generate(_) => None,
            Self::Loopback(loopback) => loopback.fd(),
            Self::LoopbackRoom(room) => room.fd(),
        }
    }

    /// Whether room to send shows itself in that [`Rx::fd`] is readable.
    #[must_use]
    pub fn room_is_readable(&self) -> bool {
        matches!(self, Self::LoopbackRoom(_))
    }

    /// Lets frames come to this queue, with the unfinished work that `takes` allows, or keeps them away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, takes: Option<Offloads>) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.attach(takes),
            Self::Discard | Self::Generate(_) | Self::LoopbackRoom(_) => Ok(()),
            Self::Loopback(loopback) => {
                if takes.is_none() {
                    loopback.empty();
                }
                Ok(())
            }
        }
    }
}
