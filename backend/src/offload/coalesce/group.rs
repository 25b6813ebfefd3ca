//! What may be joined, and how: the rules of the kernel's generic receive offload, which promises that cutting a joined
//! packet up again gives the packets that it was made of.
//!
//! That promise has one exception, which RFC 6864 allows: a packet of IPv4 that says "do not fragment" has an
//! identification that means nothing, and gets the next number instead of its own.

use super::super::checksum::{Sum, TCP_CHECKSUM, UDP_CHECKSUM, update};
use super::super::header::Segmentation;
use super::super::packet::{DONT_FRAGMENT, Packet, Transport, Version, flag};
use super::super::{NetHeader, Offloads};
use super::Frames;

/// Bytes of the longest headers of a packet that is joined: Ethernet with two tags, IPv6 and TCP with all its options.
pub(super) const HEAD: usize = 128;

/// Most packets that are joined: what every kernel takes of UDP (its UDP_MAX_SEGMENTS was 64 at first).
const MAX_SEGMENTS: usize = 64;

/// Most bytes of a joined frame. The IP packet in it is shorter, which says its length in 16 bits.
const MAX_LEN: usize = 65_535;

/// Ports of VXLAN, by its RFC 7348 and as the kernel first had it: what hides in them is not looked at.
const TUNNEL_PORTS: [u16; 2] = [4789, 8472];

/// A packet, and what was joined to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The headers of the first packet, in the end those of the joined one.
    head: [u8; HEAD],
    packet: Packet,
    /// Bytes of the payload of the first packet.
    segment_len: usize,
    /// Bytes of the payload of all.
    payload_len: usize,
    segments: usize,
    /// More may be joined.
    open: bool,
    checksum: Checksum,
    header: NetHeader,
}

/// What is known of the checksum of a packet that was not joined yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    /// It is the sum of the pseudo header, or a whole one that fits.
    Good,
    /// It was not looked at.
    Unknown,
}

impl Group {
    pub(super) const EMPTY: Self = Self {
        head: [0; HEAD],
        packet: Packet { ip: 0, transport: 0, payload: 0, version: Version::V4, protocol: Transport::Tcp },
        segment_len: 0,
        payload_len: 0,
        segments: 0,
        open: false,
        checksum: Checksum::Unknown,
        header: NetHeader([0; 12]),
    };

    /// Becomes a group of frame `at` alone, to which others may be joined if that frame is one of a kind that can be.
    pub(super) fn begin(&mut self, frames: &impl Frames, at: usize, takes: Offloads) {
        self.segments = 1;
        let segmented = frames.header(at).is_segmented();
        self.payload_len = if segmented { None } else { self.read(frames, at, takes) }.unwrap_or(0);
        self.segment_len = self.payload_len;
        self.open = self.payload_len > 0 && !self.ends();
    }

    /// Whether a packet of the group, its only one so far, can be joined to another.
    fn is_joinable(&self) -> bool {
        self.payload_len > 0
    }

    /// Whether more may be joined.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Where the payload of the first packet starts.
    pub(super) fn payload(&self) -> usize {
        self.packet.payload
    }

    /// Bytes of the payload of the first packet.
    pub(super) fn segment_len(&self) -> usize {
        self.segment_len
    }

    /// The headers, from Ethernet's on.
    pub(super) fn head(&self) -> &[u8] {
        &self.head[..self.packet.payload]
    }

    pub(super) fn header(&self) -> &NetHeader {
        &self.header
    }

    pub(super) fn payload_len(&self) -> usize {
        self.payload_len
    }

    pub(super) fn segments(&self) -> usize {
        self.segments
    }

    /// Reads the headers of a frame and says how long its payload is, if it is of a kind that can be joined.
    fn read(&mut self, frames: &impl Frames, at: usize, takes: Offloads) -> Option<usize> {
        let len = frames.frame_len(at);
        let held = frames.copy(at, 0, &mut self.head[..HEAD.min(len)]);
        let held = self.head.get(..held)?;
        self.packet = Packet::parse(held).ok()?;
        let Packet { ip, transport, payload, version, protocol } = self.packet;
        let payload_len = self.packet.payload_len(held, len).filter(|len| *len > 0)?;
        let allowed = match (version, protocol) {
            (Version::V4, Transport::Tcp) => takes.tso4,
            (Version::V6, Transport::Tcp) => takes.tso6,
            (Version::V4, Transport::Udp) => takes.uso4,
            (Version::V6, Transport::Udp) => takes.uso6,
        };
        let usual = match protocol {
            Transport::Tcp => {
                self.head[transport + 12] & 15 == 0 && self.flags() & !(flag::PSH | flag::FIN) == flag::ACK
            }
            Transport::Udp => {
                self.word(transport + UDP_CHECKSUM) != 0 && !TUNNEL_PORTS.contains(&self.word(transport + 2))
            }
        };
        if !allowed || !usual {
            return None;
        }
        // Without options, without the reserved bit, and with a checksum that fits.
        if version == Version::V4
            && (transport - ip != 20
                || self.word(ip + 6) & !DONT_FRAGMENT != 0
                || !self.head[ip..].first_chunk::<20>().is_some_and(|ipv4| Sum::default().block(ipv4).is_whole()))
        {
            return None;
        }
        self.checksum = match frames.header(at).checksum() {
            None => Checksum::Unknown,
            Some(place) if place == (transport, self.packet.csum_offset()) => {
                let sum = self.packet.pseudo_header(&self.head, payload - transport + payload_len);
                if sum.partial() != self.word(transport + self.packet.csum_offset()) {
                    return None;
                }
                Checksum::Good
            }
            Some(_) => return None,
        };
        Some(payload_len)
    }

    /// Joins frame `at`, which `next` is a group of, if it follows; says whether.
    pub(super) fn join(&mut self, next: &mut Self, frames: &impl Frames, first: usize, at: usize) -> bool {
        if !self.open || !next.is_joinable() || !self.is_followed_by(next) {
            return false;
        }
        // Only now, for it may take a look at every byte.
        self.open = self.is_valid(frames, first);
        if !self.open || !next.is_valid(frames, at) {
            return false;
        }
        self.segments += 1;
        self.payload_len += next.payload_len;
        self.open = self.segments < MAX_SEGMENTS && next.payload_len == self.segment_len && !next.ends();
        if self.packet.protocol == Transport::Tcp {
            self.head[self.packet.transport + 13] |= next.flags();
        }
        true
    }

    /// Whether the headers of `next` are those that cutting up would give the next packet.
    fn is_followed_by(&self, next: &Self) -> bool {
        let Packet { ip, transport, payload, version, protocol } = self.packet;
        if self.packet != next.packet
            || next.payload_len > self.segment_len
            || payload + self.payload_len + next.payload_len > MAX_LEN
        {
            return false;
        }
        // What differs from packet to packet is looked at here, and everything else must be the same: addresses and
        // ports, tags, class with what ECN says of congestion, flow label, time to live, acknowledgement, window,
        // options.
        let mut head = next.head;
        let mut ignore = |at: usize, len: usize| head[at..at + len].copy_from_slice(&self.head[at..at + len]);
        match version {
            Version::V4 => {
                let id = self.word(ip + 4).wrapping_add(self.segments as u16);
                if self.word(ip + 6) & DONT_FRAGMENT == 0 && next.word(ip + 4) != id {
                    return false;
                }
                // Length and identification, checksum.
                ignore(ip + 2, 4);
                ignore(ip + 10, 2);
            }
            Version::V6 => ignore(ip + 4, 2),
        }
        match protocol {
            Transport::Tcp => {
                if self.double(transport + 4).wrapping_add(self.payload_len as u32) != next.double(transport + 4) {
                    return false;
                }
                // Sequence, flags, checksum.
                ignore(transport + 4, 4);
                ignore(transport + 13, 1);
                ignore(transport + TCP_CHECKSUM, 2);
            }
            // Length and checksum.
            Transport::Udp => ignore(transport + 4, 4),
        }
        head[..payload] == self.head[..payload]
    }

    /// Whether the checksum is good of frame `at`, still alone in its group.
    fn is_valid(&mut self, frames: &impl Frames, at: usize) -> bool {
        if self.checksum == Checksum::Unknown && self.is_whole(frames, at) {
            self.checksum = Checksum::Good;
        }
        self.checksum == Checksum::Good
    }

    /// Compares a finished checksum with the payload.
    #[inline(never)]
    fn is_whole(&self, frames: &impl Frames, at: usize) -> bool {
        let Packet { transport, payload, .. } = self.packet;
        let end = payload + self.payload_len;
        let mut sum = self.packet.pseudo_header(&self.head, end - transport).bytes(&self.head[transport..payload]);
        let mut from = payload;
        let mut piece = [0; 512];
        while from < end {
            let piece = &mut piece[..512.min(end - from)];
            if frames.copy(at, from, piece) != piece.len() {
                return false;
            }
            sum = sum.bytes(piece);
            from += piece.len();
        }
        sum.is_whole()
    }

    /// Makes the headers those of the joined packet.
    pub(super) fn finish(&mut self) {
        let Packet { ip, transport, payload, version, protocol } = self.packet;
        let end = payload + self.payload_len;
        match version {
            Version::V4 => {
                let checksum = update(self.word(ip + 10), self.word(ip + 2), (end - ip) as u16);
                self.set_word(ip + 2, end - ip);
                self.set_word(ip + 10, checksum.into());
            }
            Version::V6 => self.set_word(ip + 4, end - ip - 40),
        }
        if protocol == Transport::Udp {
            self.set_word(transport + 4, end - transport);
        }
        let offset = self.packet.csum_offset();
        let sum = self.packet.pseudo_header(&self.head, end - transport).partial();
        self.set_word(transport + offset, sum.into());
        let kind = Segmentation::of(version, protocol);
        self.header = NetHeader::segmented(kind, self.segment_len, payload, transport, offset);
    }

    /// Whether the packet is one that nothing may be joined to, for it asks for delivery or ends the stream.
    fn ends(&self) -> bool {
        self.packet.protocol == Transport::Tcp && self.flags() & (flag::PSH | flag::FIN) != 0
    }

    fn flags(&self) -> u8 {
        self.head[self.packet.transport + 13]
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.head[at], self.head[at + 1]])
    }

    fn double(&self, at: usize) -> u32 {
        u32::from(self.word(at)) << 16 | u32::from(self.word(at + 2))
    }

    fn set_word(&mut self, at: usize, word: usize) {
        self.head[at..at + 2].copy_from_slice(&(word as u16).to_be_bytes());
    }
}
