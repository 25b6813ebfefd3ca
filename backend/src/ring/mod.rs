//! Virtqueues, the device's side (virtio 1.3, 2.6 to 2.7).
//!
//! One file a ring format behind one set of verbs. What a worker does with a ring, in this order:
//!
//! 1. [`SplitRing::suppress_kicks`]: the driver need not kick, we are looking;
//! 2. [`SplitRing::take_burst`] until it takes nothing, [`SplitRing::complete`] for every chain that is done,
//!    [`SplitRing::publish`] once a burst, a call if [`SplitRing::needs_call`];
//! 3. [`SplitRing::arm_kicks`] before sleeping; when it says that work slipped in, back to 1.
//!
//! The driver is not trusted. Whatever it puts into the ring ends as packets or as a [`RingError`], after which the
//! ring is not touched again until the driver sets it up anew.

#![forbid(unsafe_code)]

mod chain;
mod split;

pub use chain::Chain;
pub use split::SplitRing;

use crate::memory::MemoryError;

/// Largest ring that virtio allows (virtio 1.3, 2.6).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Whether the device reads a ring's buffers (transmit queue) or writes them (receive queue).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The driver's packets: every descriptor is device-readable.
    Read,
    /// The driver's empty buffers: every descriptor is device-writable.
    Write,
}

/// What the front end tells of a ring before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC` was negotiated.
    pub indirect: bool,
    /// What the device does with the buffers.
    pub access: Access,
    /// Bytes that every chain must at least have: the virtio-net header.
    pub min_chain_len: usize,
}

/// How a driver broke its ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A size that is zero, no power of two or above [`MAX_QUEUE_SIZE`].
    #[error("ring size {0} is no power of two between 1 and {MAX_QUEUE_SIZE}")]
    Size(u32),
    /// The ring or a buffer is not in guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// More buffers offered than the ring has entries.
    #[error("the available index jumped to {avail_idx} while {next_used} chains are done, in a ring of {size}")]
    AvailIndex {
        /// The driver's index.
        avail_idx: u16,
        /// The device's index into the used ring.
        next_used: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// A descriptor number that the table does not have.
    #[error("descriptor {index} in a table of {len}")]
    DescIndex {
        /// The number found.
        index: u16,
        /// Entries of the table.
        len: u16,
    },
    /// A chain with more descriptors than the ring: it has a loop or ignores virtio 1.3, 2.7.5.3.1.
    #[error("the chain at descriptor {head} has more than {limit} descriptors: a loop?")]
    ChainTooLong {
        /// First descriptor of the chain.
        head: u16,
        /// Entries of the ring.
        limit: u16,
    },
    /// A descriptor for the wrong direction.
    #[error("the chain at descriptor {head} holds a descriptor for the other direction")]
    WrongDirection {
        /// First descriptor of the chain.
        head: u16,
    },
    /// An indirect table where none may be: not negotiated, nested, or with NEXT set (virtio 1.3, 2.7.5.3.1).
    #[error("the chain at descriptor {head} has an indirect table that is not allowed there")]
    IndirectNotAllowed {
        /// First descriptor of the chain.
        head: u16,
    },
    /// An indirect table that is empty, no multiple of 16 bytes or has more entries than the ring.
    #[error("the chain at descriptor {head} has an indirect table of {len} bytes in a ring of {size}")]
    IndirectLength {
        /// First descriptor of the chain.
        head: u16,
        /// Length of the table in bytes.
        len: u32,
        /// Entries of the ring.
        size: u16,
    },
    /// The kernel found a buffer unmapped that was mapped when it was taken: its file was cut short.
    #[error("the memory behind a buffer has gone: was the guest's memory file truncated?")]
    Vanished,
    /// A chain too short for the virtio-net header.
    #[error("the chain at descriptor {head} holds {len} bytes, fewer than the {min} of the header")]
    NoRoomForHeader {
        /// First descriptor of the chain.
        head: u16,
        /// Bytes of the chain.
        len: usize,
        /// Bytes of the header.
        min: usize,
    },
}

#[cfg(test)]
mod tests;
