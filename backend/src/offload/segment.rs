//! Cuts a frame that was left to be segmented (virtio 1.3, 5.1.6.4) into packets for a receiver that does not do it:
//! what the kernel's generic segmentation offload does, for TCP over IPv4 and IPv6 and for UDP (GSO_UDP_L4).
//!
//! The frame lies in private memory. Packets with options of IPv4 are cut too, each with the same options; packets with
//! extension headers of IPv6 are not.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::checksum::{Sum, field};
use super::packet::{MAX_HEADERS, Packet, ParseError, Transport, Version, flag};
use super::{NetHeader, Offloads, Segmentation};

/// Longest IPv4 packet and longest payload of IPv6, in bytes.
const MAX_IP_LEN: usize = 65_535;

/// Why a frame cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Its headers cannot be read.
    #[error("{0}")]
    Headers(#[from] ParseError),
    /// The virtio-net header does not say what the packet is, or where its checksum is.
    #[error("its virtio-net header is that of another packet")]
    Mismatch,
    /// No packet can be that long.
    #[error("its segments are longer than a packet can be")]
    TooLong,
}

/// A frame being cut up. The frame itself lies elsewhere, and its headers are kept here.
#[derive(Clone, Debug)]
pub struct Cut {
    head: [u8; MAX_HEADERS],
    packet: Packet,
    frame_len: usize,
    /// Bytes of payload that a segment takes.
    size: usize,
    /// The checksum of a segment is left to the receiver too.
    unfinished: bool,
    /// Segments that were made.
    made: usize,
    /// Bytes of the payload that are in them.
    at: usize,
}

/// The segments of a frame, in their order.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    frame: &'a [u8],
    cut: Cut,
}

/// A packet: private headers and a piece of the frame's payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The virtio-net header, which says of a finished packet nothing.
    pub header: NetHeader,
    /// What follows the headers.
    pub payload: &'a [u8],
    head: [u8; MAX_HEADERS],
    packet: Packet,
}

impl Cut {
    /// Of a frame whose header is `header`, for a receiver that takes `takes`.
    ///
    /// # Errors
    /// When the frame is not what its header says, or of a kind that cannot be cut.
    pub fn new(header: &NetHeader, frame: &[u8], takes: Offloads) -> Result<Self, SegmentError> {
        let packet = Packet::parse(frame)?;
        let Packet { ip, transport, payload, version, protocol } = packet;
        let size = header.gso_size();
        let is_kind = header.segmentation() == Some(Segmentation::of(version, protocol));
        let is_placed = header.checksum() == Some((transport, packet.csum_offset()));
        if !is_kind || !is_placed || size == 0 {
            return Err(SegmentError::Mismatch);
        }
        let longest = payload + size.min(frame.len() - payload);
        let counted_from = match version {
            Version::V4 => ip,
            Version::V6 => transport,
        };
        if longest - counted_from > MAX_IP_LEN {
            return Err(SegmentError::TooLong);
        }
        let mut head = [0; MAX_HEADERS];
        head[..payload].copy_from_slice(&frame[..payload]);
        Ok(Self { head, packet, frame_len: frame.len(), size, unfinished: takes.csum, made: 0, at: 0 })
    }

    /// Makes the next segment a packet in the place where its payload lies in `frame`, the headers before it: says its
    /// virtio-net header and where it is. It is to be used before the next one is made. None when all are made.
    ///
    /// # Panics
    /// Never with the frame that the cut was begun with.
    #[inline]
    pub fn next_in(&mut self, frame: &mut [u8]) -> Option<(NetHeader, Range<usize>)> {
        let Segment { header, payload, head, .. } = self.next_of(frame)?;
        let (head_len, len) = (self.packet.payload, payload.len());
        let end = head_len + self.at;
        let place = end - len - head_len..end;
        frame[place.start..place.start + head_len].copy_from_slice(&head[..head_len]);
        Some((header, place))
    }

    /// Whether all segments are made.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.made > 0 && self.packet.payload + self.at == self.frame_len
    }

    /// The next segment.
    #[inline]
    fn next_of<'a>(&mut self, frame: &'a [u8]) -> Option<Segment<'a>> {
        if self.is_done() {
            return None;
        }
        let all = &frame[self.packet.payload..self.frame_len];
        let end = all.len().min(self.at + self.size);
        let payload = &all[self.at..end];
        let mut segment = Segment { header: NetHeader::default(), payload, head: self.head, packet: self.packet };
        segment.set_lengths(self.made);
        if self.packet.protocol == Transport::Tcp {
            segment.set_sequence(self.at, self.made == 0, end == all.len());
        }
        segment.set_checksum(self.unfinished);
        self.made += 1;
        self.at = end;
        Some(segment)
    }
}

impl<'a> Segments<'a> {
    /// The segments of a frame whose header is `header`, for a receiver that takes `takes`.
    ///
    /// # Errors
    /// As [`Cut::new`].
    pub fn new(header: &NetHeader, frame: &'a [u8], takes: Offloads) -> Result<Self, SegmentError> {
        Ok(Self { frame, cut: Cut::new(header, frame, takes)? })
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        self.cut.next_of(self.frame)
    }
}

impl Segment<'_> {
    /// The headers, from Ethernet's on.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head[..self.packet.payload]
    }

    /// Bytes of the packet.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.packet.payload + self.payload.len()
    }

    /// Writes the packet to the start of `to` and says how long it is; nothing if there is no room for it.
    #[must_use]
    pub fn write_to(&self, to: &mut [u8]) -> Option<usize> {
        let to = to.get_mut(..self.frame_len())?;
        let (head, payload) = to.split_at_mut(self.packet.payload);
        head.copy_from_slice(self.head());
        payload.copy_from_slice(self.payload);
        Some(to.len())
    }

    /// Lengths of all headers, and of IPv4 the identification and checksum.
    fn set_lengths(&mut self, number: usize) {
        let Packet { ip, transport, version, protocol, .. } = self.packet;
        let end = self.frame_len();
        match version {
            Version::V4 => {
                let id = self.word(ip + 4).wrapping_add(number as u16);
                self.set_word(ip + 2, end - ip);
                self.set_word(ip + 4, id.into());
                self.set_word(ip + 10, 0);
                let checksum = Sum::default().bytes(&self.head[ip..transport]).checksum();
                self.set_word(ip + 10, checksum.into());
            }
            Version::V6 => self.set_word(ip + 4, end - transport),
        }
        if protocol == Transport::Udp {
            self.set_word(transport + 4, end - transport);
        }
    }

    /// Sequence and flags of TCP: the first segment alone says that the window was reduced (RFC 3168, 6.1.2), the last
    /// alone that data is to be delivered and ends.
    fn set_sequence(&mut self, passed: usize, is_first: bool, is_last: bool) {
        let transport = self.packet.transport;
        let before = u32::from(self.word(transport + 4)) << 16 | u32::from(self.word(transport + 6));
        let sequence = before.wrapping_add(passed as u32);
        self.set_word(transport + 4, (sequence >> 16) as usize);
        self.set_word(transport + 6, sequence as usize);
        let flags = &mut self.head[transport + 13];
        if !is_first {
            *flags &= !flag::CWR;
        }
        if !is_last {
            *flags &= !(flag::PSH | flag::FIN);
        }
    }

    fn set_checksum(&mut self, unfinished: bool) {
        let Packet { transport, payload, .. } = self.packet;
        let offset = self.packet.csum_offset();
        self.set_word(transport + offset, 0);
        let pseudo = self.packet.pseudo_header(&self.head, self.frame_len() - transport);
        let sum = if unfinished {
            self.header = NetHeader::unfinished(transport, offset);
            pseudo.partial()
        } else {
            field(pseudo.bytes(&self.head[transport..payload]).bytes(self.payload).checksum(), offset)
        };
        self.set_word(transport + offset, sum.into());
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.head[at], self.head[at + 1]])
    }

    fn set_word(&mut self, at: usize, word: usize) {
        self.head[at..at + 2].copy_from_slice(&(word as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
