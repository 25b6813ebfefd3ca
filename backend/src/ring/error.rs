//! How a driver breaks its ring.

use super::MAX_QUEUE_SIZE;
use crate::memory::MemoryError;

/// How a driver broke its ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The size of a split ring that is zero, no power of two or above [`MAX_QUEUE_SIZE`].
    #[error("ring size {0} is no power of two between 1 and {MAX_QUEUE_SIZE}")]
    Size(u16),
    /// The size of a packed ring that is zero or above [`MAX_QUEUE_SIZE`].
    #[error("ring size {0} is not between 1 and {MAX_QUEUE_SIZE}")]
    PackedSize(u16),
    /// A packed ring that is to go on at a place that it does not have.
    #[error("the base {base:#x} lies outside a packed ring of {size}")]
    Base {
        /// The place of the front end, both halves.
        base: u32,
        /// Entries of the ring.
        size: u16,
    },
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
    /// A chain with more descriptors than the ring: it has a loop or ignores virtio 1.3, 2.7.5.3.1 or 2.8.5.
    #[error("the chain at descriptor {head} has more than {limit} descriptors: a loop?")]
    ChainTooLong {
        /// First descriptor of the chain.
        head: u16,
        /// Entries of the ring.
        limit: u16,
    },
    /// A write to an eventfd of the front end's waited.
    #[error(
        "a call or err fd of it is full and made to block, which held up its worker: restart vnicd to use it again"
    )]
    EventfdBlocks,
    /// A chain whose buffers lie over the borders of memory regions again and again.
    #[error("the chain at descriptor {head} lies in more than {limit} pieces of memory")]
    TooScattered {
        /// First descriptor of the chain.
        head: u16,
        /// Most pieces that a chain may have.
        limit: usize,
    },
    /// A descriptor for the wrong direction.
    #[error("the chain at descriptor {head} holds a descriptor for the other direction")]
    WrongDirection {
        /// First descriptor of the chain.
        head: u16,
    },
    /// An indirect table where none may be: not negotiated, nested, or in a chain (virtio 1.3, 2.7.5.3.1 and 2.8.19).
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
