//! Where a queue pair's frames go to and come from.
//!
//! An uplink is made as two halves, one to send and one to receive, for the two directions are independent. Frames go
//! straight from and to guest buffers, after a virtio-net header in private memory.

mod discard;
mod loopback;
mod tap;

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::GuestSlice;
use crate::offload::{NetHeader, Offloads};

pub use discard::DiscardTx;
pub use loopback::{LoopbackRx, LoopbackTx, loopback_pair};
pub use tap::{TapRx, TapTx, tap_pairs};

/// Largest frame that the kernel hands over or takes, in bytes: 65,535 of IP after an Ethernet and a VLAN header.
const MAX_FRAME: usize = 65_535 + 18;

/// A frame on its way from the guest.
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    /// The judged copy of the guest's header.
    pub header: NetHeader,
    /// The guest's buffers.
    pub slices: &'a [GuestSlice<'a>],
    /// Bytes at their start that hold the guest's own header and are not sent.
    pub skip: usize,
    /// Bytes of the frame, without any header.
    pub len: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The uplink has it.
    Done,
    /// The uplink takes no more now; try again when it is writable.
    Full,
    /// The uplink is down: the frame is lost.
    Down,
    /// The uplink has gone for good: the frame is lost.
    Gone,
    /// The uplink refused the frame: it is lost.
    Refused,
    /// The guest's buffers vanished from under the frame.
    Fault,
}

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
    /// What the guest sent.
    Loopback(LoopbackRx),
}

impl Tx {
    /// Sends one frame.
    #[inline]
    pub fn send(&mut self, frame: TxFrame<'_>) -> Sent {
        // A chain may name gigabytes, the same ones again and again; no uplink copies that.
        if frame.len > MAX_FRAME {
            return Sent::Refused;
        }
        match self {
            Self::Tap(tap) => tap.send(frame),
            Self::Discard(discard) => discard.send(frame),
            Self::Loopback(loopback) => loopback.send(frame),
        }
    }
}

impl Tx {
    /// Sends a frame that lies in private memory.
    pub fn send_private(&mut self, frame: &[u8]) -> Sent {
        match self {
            Self::Tap(tap) => tap.send_private(frame),
            Self::Discard(_) | Self::Loopback(_) => Sent::Done,
        }
    }
}

impl Rx {
    /// Receives one frame into `slices`, leaving `skip` bytes at their start for the guest's header.
    #[inline]
    pub fn receive(&mut self, slices: &[GuestSlice<'_>], skip: usize) -> Received<'_> {
        match self {
            Self::Tap(tap) => tap.receive(slices, skip),
            Self::Discard => Received::Empty,
            Self::Loopback(loopback) => loopback.receive(slices, skip),
        }
    }

    /// What to watch: readable when a frame waits, writable when there is room to send. An uplink without it changes
    /// only by what its own pair does.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tap(tap) => Some(tap.fd()),
            Self::Discard | Self::Loopback(_) => None,
        }
    }

    /// Lets frames come to this queue, with the unfinished work that `takes` allows, or keeps them away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, takes: Option<Offloads>) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.attach(takes),
            Self::Discard => Ok(()),
            Self::Loopback(loopback) => {
                if takes.is_none() {
                    loopback.empty();
                }
                Ok(())
            }
        }
    }
}
