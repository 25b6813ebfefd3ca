//! The virtio-net header (virtio 1.3, 5.1.6): read once into private memory, judged, and sent on from there.

#![forbid(unsafe_code)]

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
};

use super::Offloads;
use super::packet::{MAX_HEADERS, Transport, Version};

/// Bytes of the header with `num_buffers`, as every uplink takes it and modern guests have it.
pub const HEADER_LEN: usize = 12;

const F_NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const F_DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID as u8;
const GSO_NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
const GSO_TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const GSO_TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const GSO_UDP_L4: u8 = VIRTIO_NET_HDR_GSO_UDP_L4 as u8;
const GSO_ECN: u8 = VIRTIO_NET_HDR_GSO_ECN as u8;

/// A virtio-net header in private memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader(pub [u8; HEADER_LEN]);

/// How a frame is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// As TCP over IPv4.
    TcpV4,
    /// As TCP over IPv6.
    TcpV6,
    /// As datagrams of UDP, over either.
    Udp,
}

impl Segmentation {
    /// That of a packet.
    #[must_use]
    pub fn of(version: Version, protocol: Transport) -> Self {
        match (protocol, version) {
            (Transport::Tcp, Version::V4) => Self::TcpV4,
            (Transport::Tcp, Version::V6) => Self::TcpV6,
            (Transport::Udp, _) => Self::Udp,
        }
    }
}

/// Why a frame cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The frame needs work that the receiver did not agree to do.
    #[error("it needs an offload that was not negotiated")]
    NotNegotiated,
    /// The checksum field lies outside the frame.
    #[error("its checksum field lies outside the frame")]
    ChecksumOutside,
    /// Segmentation without a segment size or without a checksum to finish.
    #[error("it asks for a segmentation that makes no sense")]
    Segmentation,
}

impl NetHeader {
    /// What a driver gets with a frame that fills one buffer and needs no work.
    pub const PLAIN: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);

    /// Whether a frame is as it should be: nothing to finish, nothing to cut, and nothing said of its checksum.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0[0] & (F_NEEDS_CSUM | F_DATA_VALID) == 0 && self.0[1] == GSO_NONE
    }

    /// Whether a driver's header, of which these are the first eight bytes in little-endian order, leaves its frame as it
    /// is: no checksum to finish, nothing to cut. The rest of such a header means nothing.
    #[inline]
    #[must_use]
    pub fn asks_for_nothing(low: u64) -> bool {
        low & u64::from_le_bytes([F_NEEDS_CSUM, 0xff, 0, 0, 0, 0, 0, 0]) == 0
    }

    /// The header whose first eight and last four bytes these are, in little-endian order, without what is for
    /// receivers only. One that asks for nothing comes back empty.
    #[must_use]
    pub fn from_driver(low: u64, high: u32) -> Self {
        if Self::asks_for_nothing(low) {
            return Self::default();
        }
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        let mut header = Self(bytes);
        header.0[0] &= F_NEEDS_CSUM;
        header.set_num_buffers(0);
        header
    }

    /// The header of a frame whose checksum is left to its receiver.
    #[must_use]
    pub fn unfinished(csum_start: usize, csum_offset: usize) -> Self {
        let mut header = Self::default();
        header.0[0] = F_NEEDS_CSUM;
        header.set_field(6, csum_start);
        header.set_field(8, csum_offset);
        header
    }

    /// The header of a frame to be cut into segments with `gso_size` bytes of payload each.
    #[must_use]
    pub fn segmented(
        kind: Segmentation,
        gso_size: usize,
        hdr_len: usize,
        csum_start: usize,
        csum_offset: usize,
    ) -> Self {
        let mut header = Self::unfinished(csum_start, csum_offset);
        header.0[1] = match kind {
            Segmentation::TcpV4 => GSO_TCPV4,
            Segmentation::TcpV6 => GSO_TCPV6,
            Segmentation::Udp => GSO_UDP_L4,
        };
        header.set_field(2, hdr_len);
        header.set_field(4, gso_size);
        header
    }

    fn flags(&self) -> u8 {
        self.0[0]
    }

    fn gso_type(&self) -> u8 {
        self.0[1]
    }

    fn field(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    fn set_field(&mut self, at: usize, value: usize) {
        self.0[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }

    /// Bytes of payload that each segment has at most, if the frame is to be cut.
    #[must_use]
    pub fn gso_size(&self) -> usize {
        self.field(4)
    }

    fn csum_start(&self) -> usize {
        self.field(6)
    }

    fn csum_offset(&self) -> usize {
        self.field(8)
    }

    /// Where the checksum starts and how far behind that its field is, if it is left to the receiver.
    #[must_use]
    pub fn checksum(&self) -> Option<(usize, usize)> {
        (self.flags() & F_NEEDS_CSUM != 0).then(|| (self.csum_start(), self.csum_offset()))
    }

    /// How the frame is to be cut into segments, if it is.
    #[must_use]
    pub fn segmentation(&self) -> Option<Segmentation> {
        match self.gso_type() & !GSO_ECN {
            GSO_TCPV4 => Some(Segmentation::TcpV4),
            GSO_TCPV6 => Some(Segmentation::TcpV6),
            GSO_UDP_L4 => Some(Segmentation::Udp),
            _ => None,
        }
    }

    /// Sets how many receive buffers the frame fills (virtio 1.3, 5.1.6.4: 1 without mergeable buffers).
    pub fn set_num_buffers(&mut self, n: u16) {
        self.0[10..].copy_from_slice(&n.to_le_bytes());
    }

    /// Whether the frame is to be cut into segments.
    #[must_use]
    pub fn is_segmented(&self) -> bool {
        self.gso_type() != GSO_NONE
    }

    /// Whether the frame is of TCP with ECN, whose first segment alone may say that the window was reduced.
    #[must_use]
    pub fn is_ecn(&self) -> bool {
        self.gso_type() & GSO_ECN != 0
    }

    /// Packets that a frame of `frame_len` bytes stands for: its segments, or 1. `byte_at` tells a byte of the frame.
    #[inline]
    #[must_use]
    pub fn segments(&self, frame_len: usize, byte_at: impl FnOnce(usize) -> u8) -> usize {
        if self.is_segmented() { self.count_segments(frame_len, byte_at) } else { 1 }
    }

    #[cold]
    fn count_segments(&self, frame_len: usize, byte_at: impl FnOnce(usize) -> u8) -> usize {
        let transport = self.csum_start();
        let head = match self.segmentation() {
            Some(Segmentation::TcpV4 | Segmentation::TcpV6) => usize::from(byte_at(transport + 12) >> 4) * 4,
            _ => 8,
        };
        // No further than headers reach: a guest that says that its checksum starts near the end has no fewer packets.
        frame_len.saturating_sub((transport + head).min(MAX_HEADERS)).div_ceil(self.gso_size().max(1)).max(1)
    }

    /// Judges the header of a driver's frame of `frame_len` bytes for a receiver that takes `takes`.
    ///
    /// # Errors
    /// When the frame cannot be passed on as it is.
    pub fn judge_from_guest(&self, frame_len: usize, takes: Offloads) -> Result<(), HeaderError> {
        self.judge(frame_len, takes)
    }

    /// Judges the header of a frame from an uplink for a guest that takes `takes`.
    ///
    /// # Errors
    /// When the guest cannot take the frame as it is: it was queued under the features of another driver.
    pub fn judge_for_guest(&mut self, frame_len: usize, takes: Offloads) -> Result<(), HeaderError> {
        self.0[0] &= F_NEEDS_CSUM | F_DATA_VALID;
        if !takes.csum {
            // virtio 1.3, 5.1.6.4.1: no flag without GUEST_CSUM. A valid checksum stays valid unsaid.
            self.0[0] &= !F_DATA_VALID;
        }
        self.judge(frame_len, takes)
    }

    fn judge(&self, frame_len: usize, takes: Offloads) -> Result<(), HeaderError> {
        let needs_csum = self.flags() & F_NEEDS_CSUM != 0;
        if needs_csum {
            if !takes.csum {
                return Err(HeaderError::NotNegotiated);
            }
            if self.csum_start() + self.csum_offset() + 2 > frame_len {
                return Err(HeaderError::ChecksumOutside);
            }
        }
        let negotiated = match self.gso_type() & !GSO_ECN {
            GSO_NONE if self.gso_type() == GSO_NONE => return Ok(()),
            GSO_TCPV4 => takes.tso4,
            GSO_TCPV6 => takes.tso6,
            GSO_UDP_L4 if self.gso_type() & GSO_ECN == 0 => takes.uso4 || takes.uso6,
            _ => return Err(HeaderError::Segmentation),
        };
        if !negotiated || (self.gso_type() & GSO_ECN != 0 && !takes.ecn) {
            return Err(HeaderError::NotNegotiated);
        }
        if self.gso_size() == 0 || !needs_csum {
            return Err(HeaderError::Segmentation);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(flags: u8, gso: u8, gso_size: u16, start: u16, offset: u16) -> NetHeader {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = flags;
        bytes[1] = gso;
        bytes[4..6].copy_from_slice(&gso_size.to_le_bytes());
        bytes[6..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..10].copy_from_slice(&offset.to_le_bytes());
        NetHeader(bytes)
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let none = Offloads::default();
        let csum = Offloads { csum: true, ..none };
        let tso4 = Offloads { tso4: true, ..csum };
        let judge = |mut h: NetHeader, takes| h.judge_for_guest(1000, takes);
        assert_eq!(judge(header(0, 0, 0, 0, 0), none), Ok(()));
        assert_eq!(judge(header(1, 0, 0, 34, 16), none), Err(HeaderError::NotNegotiated));
        assert_eq!(judge(header(1, 0, 0, 34, 16), csum), Ok(()));
        assert_eq!(judge(header(1, GSO_TCPV4, 100, 34, 16), csum), Err(HeaderError::NotNegotiated));
        assert_eq!(judge(header(1, GSO_TCPV4, 100, 34, 16), tso4), Ok(()));
        assert_eq!(judge(header(1, GSO_TCPV6, 100, 34, 16), tso4), Err(HeaderError::NotNegotiated));
        assert_eq!(judge(header(1, GSO_TCPV4 | GSO_ECN, 100, 34, 16), tso4), Err(HeaderError::NotNegotiated));
        assert_eq!(judge(header(1, GSO_UDP_L4, 100, 34, 6), Offloads::ALL), Ok(()));
    }

    #[test]
    fn senseless_headers_are_refused() {
        let judge = |h: NetHeader| h.judge_from_guest(1000, Offloads::ALL);
        assert_eq!(judge(header(1, 0, 0, 990, 9)), Err(HeaderError::ChecksumOutside));
        assert_eq!(judge(header(1, 0, 0, u16::MAX, u16::MAX)), Err(HeaderError::ChecksumOutside));
        assert_eq!(judge(header(1, GSO_TCPV4, 0, 34, 16)), Err(HeaderError::Segmentation));
        assert_eq!(judge(header(0, GSO_TCPV4, 100, 34, 16)), Err(HeaderError::Segmentation));
        assert_eq!(judge(header(1, 7, 100, 34, 16)), Err(HeaderError::Segmentation));
        assert_eq!(judge(header(1, GSO_ECN, 100, 34, 16)), Err(HeaderError::Segmentation));
        assert_eq!(judge(header(1, GSO_UDP_L4 | GSO_ECN, 100, 34, 16)), Err(HeaderError::Segmentation));
    }

    #[test]
    fn segments_are_counted_wherever_the_checksum_is_said_to_start() {
        let count = |start| header(1, GSO_TCPV4, 1000, start, 16).segments(34 + 20 + 64_000, |_| 0x50);
        assert_eq!(count(34), 64);
        assert!([0, 1000, 64_000].into_iter().all(|start| count(start) >= 64));
    }

    #[test]
    fn a_guest_without_checksum_offload_sees_no_flag() {
        let mut h = header(F_DATA_VALID, 0, 0, 0, 0);
        assert_eq!(h.judge_for_guest(60, Offloads::default()), Ok(()));
        assert_eq!(h.flags(), 0);
        let mut h = header(F_DATA_VALID, 0, 0, 0, 0);
        assert_eq!(h.judge_for_guest(60, Offloads { csum: true, ..Offloads::default() }), Ok(()));
        assert_eq!(h.flags(), F_DATA_VALID);
    }

    proptest! {
        #[test]
        fn a_judged_header_stays_inside_its_frame(bytes: [u8; HEADER_LEN], len in 0usize..70_000) {
            let [low @ .., a, b, c, d] = bytes;
            let h = NetHeader::from_driver(u64::from_le_bytes(low), u32::from_le_bytes([a, b, c, d]));
            prop_assert_eq!(h.0[0] & !F_NEEDS_CSUM, 0);
            prop_assert_eq!(&h.0[10..], &[0, 0]);
            if h.flags() == 0 && h.gso_type() == GSO_NONE {
                prop_assert_eq!(h, NetHeader::default());
            } else {
                prop_assert_eq!(&h.0[1..10], &bytes[1..10]);
            }
            if h.judge_from_guest(len, Offloads::ALL).is_ok() && h.flags() & F_NEEDS_CSUM != 0 {
                prop_assert!(h.csum_start() + h.csum_offset() + 2 <= len);
            }
        }
    }
}
