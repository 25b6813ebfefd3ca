//! What stands between a guest's frames and an uplink's: the virtio-net header and the work it asks for, checksums,
//! packets joined into frames and frames cut into packets.
//!
//! Pure functions on bytes, no I/O.

#![forbid(unsafe_code)]

mod checksum;
mod coalesce;
mod finish;
mod header;
mod packet;
#[cfg(test)]
mod properties;
mod rarp;
mod segment;
#[cfg(test)]
mod testing;

pub use checksum::{Sum, complete, pseudo_header, update};
pub use coalesce::{Coalescer, Frames, Joined, MAX_FRAMES, Out, PEEK, PEEK_AT, Part, Plan, Settled};
pub use finish::{MIN_FRAME, finish, pad};
pub use header::{HEADER_LEN, HeaderError, NetHeader, Segmentation};
pub use packet::{Packet, ParseError, Transport, Version};
pub use rarp::{RARP_LEN, rarp};
pub use segment::{Segment, SegmentError, Segments};

/// The kinds of unfinished frames that a receiver takes: those whose checksum or segmentation is left to it.
///
/// The same set describes a guest (from its acknowledged features) and an uplink (from what the kernel can do).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames with an unfinished checksum.
    pub csum: bool,
    /// TCP over IPv4, to be segmented.
    pub tso4: bool,
    /// TCP over IPv6, to be segmented.
    pub tso6: bool,
    /// TCP frames to be segmented that carry ECN.
    pub ecn: bool,
    /// UDP over IPv4, to be segmented.
    pub uso4: bool,
    /// UDP over IPv6, to be segmented.
    pub uso6: bool,
}

impl Offloads {
    /// Every kind.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, ecn: true, uso4: true, uso6: true };

    /// Whether frames longer than the MTU may come.
    #[must_use]
    pub fn segments(self) -> bool {
        self.tso4 || self.tso6 || self.uso4 || self.uso6
    }
}
