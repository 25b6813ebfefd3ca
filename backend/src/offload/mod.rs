//! What stands between a guest's frames and an uplink's: the virtio-net header and the work it asks for, checksums,
//! packets joined into frames and frames cut into packets.
//!
//! Pure functions on bytes, no I/O.

mod checksum;
mod coalesce;
#[cfg(test)]
mod extremes;
mod finish;
mod header;
mod packet;
#[cfg(test)]
mod properties;
mod rarp;
mod segment;
#[cfg(test)]
pub(crate) mod testing;

pub use checksum::{Sum, complete, pseudo_header, update};
pub use coalesce::{Coalescer, Frames, Joined, MAX_FRAMES, Out, PEEK, PEEK_AT, Part, Plan, Settled};
pub use finish::{MIN_FRAME, finish, pad};
pub use header::{HEADER_LEN, HeaderError, NetHeader, Segmentation};
pub use packet::{Packet, ParseError, Transport, Version};
pub use rarp::{RARP_LEN, rarp};
pub use segment::{Cut, Segment, SegmentError, Segments};

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

    /// Whether the receiver cuts a frame up as its header asks for.
    #[must_use]
    pub fn segments_as(self, header: &NetHeader) -> bool {
        let kind = match header.segmentation() {
            Some(Segmentation::TcpV4) => self.tso4,
            Some(Segmentation::TcpV6) => self.tso6,
            // Which IP it is the header does not say.
            Some(Segmentation::Udp) => self.uso4 && self.uso6,
            None => false,
        };
        self.csum && kind && (self.ecn || !header.is_ecn())
    }

    /// As bits.
    #[must_use]
    pub fn to_bits(self) -> u8 {
        let Self { csum, tso4, tso6, ecn, uso4, uso6 } = self;
        [csum, tso4, tso6, ecn, uso4, uso6].into_iter().rev().fold(0, |bits, kind| bits << 1 | u8::from(kind))
    }

    /// From bits.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        let [csum, tso4, tso6, ecn, uso4, uso6] = std::array::from_fn(|at| bits >> at & 1 != 0);
        Self { csum, tso4, tso6, ecn, uso4, uso6 }
    }

    /// Whether frames longer than the MTU may come.
    #[must_use]
    pub fn segments(self) -> bool {
        self.tso4 || self.tso6 || self.uso4 || self.uso6
    }
}
