//! Where a queue pair's frames go to and come from.
//!
//! An uplink is made as two halves, one to send and one to receive, for the two directions are independent. Frames go
//! straight from and to guest buffers, after a virtio-net header in private memory.

mod af_xdp;
mod bell;
mod byte_sum;
mod discard;
mod generate;
mod join;
mod pipe;
mod tap;
mod tx_burst;
mod wire;

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::GuestSlice;
use crate::offload::{NetHeader, Offloads};

pub use af_xdp::{XdpError, XdpPort, XdpRx, XdpSocket, XdpSteering, XdpTx, af_xdp_pair};
pub use discard::DiscardTx;
pub use generate::{GenerateRx, MIN_LEN as MIN_GENERATED_LEN};
pub use join::Joiner;
pub use pipe::{Piped, Valve};
pub use tap::{TapRx, TapSwitch, TapTerms, TapTx, tap_pairs};
pub use tx_burst::{Head, Judged, Progress, Sent, TxBurst, TxFrame};
pub use wire::{WireRx, WireTx, loopback_pair, wire};

/// Largest frame that the kernel hands over or takes, in bytes: 65,535 of IP after an Ethernet and a VLAN header.
pub(crate) const MAX_FRAME: usize = 65_535 + 18;

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
    /// A queue of an interface.
    AfXdp(Box<XdpTx>),
    /// Nowhere.
    Discard(DiscardTx),
    /// A wire: back to the guest, or to another thread.
    Wire(WireTx),
}

/// The half that receives.
#[derive(Debug)]
pub enum Rx {
    /// A TAP queue.
    Tap(Box<TapRx>),
    /// A queue of an interface.
    AfXdp(Box<XdpRx>),
    /// From nowhere.
    Discard,
    /// The same frame without end.
    Generate(GenerateRx),
    /// A wire: what the guest sent, or what comes from another thread.
    Wire(WireRx),
    /// What comes over a wire from the thread that has the uplink.
    Piped(Piped),
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
            Self::Tap(tap) => tap.send(burst),
            Self::AfXdp(queue) => queue.send(burst),
            Self::Discard(discard) => discard.send(burst),
            Self::Wire(wire) => wire.send(burst),
        }
    }

    /// Whether it copies small frames rather than handing them to the kernel where they lie.
    #[inline]
    #[must_use]
    pub fn copies(&self) -> bool {
        match self {
            Self::Tap(_) | Self::AfXdp(_) | Self::Wire(_) => true,
            Self::Discard(discard) => discard.reads(),
        }
    }

    /// The sum of all bytes that were read and dropped, of an uplink that does nothing else.
    #[must_use]
    pub fn discarded_bytes_sum(&self) -> Option<u64> {
        match self {
            Self::Discard(discard) => Some(discard.sum()),
            Self::Tap(_) | Self::AfXdp(_) | Self::Wire(_) => None,
        }
    }

    /// Takes what joins packets: whoever fills this uplink from another thread joins them there.
    pub fn take_joiner(&mut self) -> Option<Box<Joiner>> {
        match self {
            Self::Tap(tap) => tap.take_joiner(),
            Self::AfXdp(_) | Self::Discard(_) | Self::Wire(_) => None,
        }
    }

    /// Sends a frame that lies in private memory.
    pub fn send_private(&mut self, header: &NetHeader, frame: &[u8]) -> Sent {
        match self {
            Self::Tap(tap) => tap.send_private(header, frame),
            Self::AfXdp(queue) => queue.send_private(header, frame),
            Self::Discard(discard) => discard.send_private(frame),
            Self::Wire(wire) => wire.put_private(header, frame),
        }
    }

    /// What to watch for room to send: readable while there is some. None: [`Rx::fd`] is writable then.
    #[must_use]
    pub fn room_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Wire(wire) => wire.fd(),
            Self::AfXdp(queue) => Some(queue.port().room_fd()),
            Self::Tap(_) | Self::Discard(_) => None,
        }
    }

    /// Sends what was taken and could not be sent at once. Says whether nothing of it is left.
    #[inline]
    pub fn flush(&mut self) -> bool {
        match self {
            Self::AfXdp(queue) => queue.flush(),
            Self::Tap(_) | Self::Discard(_) | Self::Wire(_) => true,
        }
    }

    /// Whether room to send shows itself by [`Tx::room_fd`], and not in that [`Rx::fd`] is writable.
    #[must_use]
    pub fn tells_of_room(&self) -> bool {
        matches!(self, Self::Wire(_) | Self::AfXdp(_))
    }

    /// Prepares for a thread of its own, beside the one that receives.
    pub fn part(&self) {
        if let Self::Wire(wire) = self {
            wire.ring_bells();
        }
    }
}

impl Rx {
    /// For who uses the same queue in another thread and receives nothing: keeps the queue attached, and can be watched for
    /// room to send.
    #[must_use]
    pub fn beside(&self) -> Self {
        match self {
            Self::Tap(tap) => Self::Tap(Box::new(tap.beside())),
            Self::AfXdp(queue) => Self::AfXdp(Box::new(queue.beside())),
            Self::Discard | Self::Generate(_) | Self::Wire(_) | Self::Piped(_) => Self::Discard,
        }
    }

    /// What to watch: readable when a frame waits, writable when there is room to send unless there is [`Tx::room_fd`] to
    /// tell. An uplink without it changes only by what its own pair does.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tap(tap) => Some(tap.fd()),
            Self::AfXdp(queue) => Some(queue.fd()),
            Self::Discard | Self::Generate(_) => None,
            Self::Wire(wire) => wire.fd(),
            Self::Piped(piped) => piped.wire.fd(),
        }
    }

    /// Notes whether its worker looks at it all the time, which then is to do without the kernel's interrupts.
    pub fn set_polling(&mut self, on: bool) {
        if let Self::AfXdp(queue) = self {
            queue.set_polling(on);
        }
    }

    /// Forgets the frames that lie in this process.
    pub fn forget(&mut self) {
        match self {
            Self::AfXdp(queue) => queue.forget(),
            Self::Wire(wire) => wire.empty(),
            Self::Tap(tap) => tap.forget(),
            Self::Discard | Self::Generate(_) | Self::Piped(_) => {}
        }
    }

    /// Receives a frame into private memory, all of it in `rest`.
    pub fn receive_private(&mut self) -> Received<'_> {
        match self {
            Self::Tap(tap) => tap.receive(&[], 0, 0),
            Self::AfXdp(queue) => queue.receive(&[], 0, 0),
            Self::Discard => Received::Empty,
            Self::Generate(generate) => generate.receive(&[], 0, 0),
            Self::Wire(wire) => wire.receive(&[], 0, 0),
            Self::Piped(piped) => piped.wire.receive(&[], 0, 0),
        }
    }

    /// Lets frames come to this queue, with the unfinished work that `takes` allows, or keeps them away. A TAP has a
    /// [`TapSwitch`] for what takes its time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, takes: Option<Offloads>) -> io::Result<()> {
        match self {
            Self::Tap(tap) => {
                tap.attach(takes);
                Ok(())
            }
            Self::AfXdp(queue) => queue.attach(takes),
            Self::Discard | Self::Generate(_) => Ok(()),
            // Whoever sends may go on for a while after this half was detached: what lies here by the time it is attached
            // again may be another guest's.
            Self::Wire(wire) => {
                wire.empty();
                Ok(())
            }
            Self::Piped(piped) => piped.attach(takes),
        }
    }
}
