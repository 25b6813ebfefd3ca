//! Packets that know when they were due, and that show any byte lost or changed on their way.
//!
//! A virtio-net header, then a UDP datagram over IPv4. Its payload opens with a [`Stamp`]; a pattern follows that is
//! another in each slot, and frames long enough end with the stamp's hash, so that a frame cut short in a buffer that
//! held its predecessor is seen. Buffers start so that the stamp opens a cache line: a packet whose size is its
//! predecessor's dirties that line and its end, and no other.

#![forbid(unsafe_code)]

use super::memory::View;

/// Bytes of the virtio-net header.
pub const NET_HEADER: usize = 12;
/// Bytes of the Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// Bytes before the stamp.
const STAMP_AT: usize = NET_HEADER + HEADERS;
/// Where a buffer starts in its stride: the stamp opens a cache line.
pub const BUFFER_OFFSET: usize = 64 - STAMP_AT;
/// Shortest frame in bytes: what holds a stamp, and Ethernet's own least.
pub const MIN_FRAME: usize = HEADERS + STAMP_LEN;
/// Longest frame in bytes.
pub const MAX_FRAME: usize = 9014;

const STAMP_LEN: usize = 18;
const TAIL_LEN: usize = 8;
const PATTERN_STEP: usize = 61;
const PATTERN_STEPS: usize = 67;

/// Where loopback sends frames from and to: it swaps the addresses.
const US: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When it was due, in nanoseconds of the run's clock.
    pub due: u64,
    /// Its number in its queue, 48 bits.
    pub number: u64,
    /// The slot it was sent from.
    pub slot: u16,
}

impl Stamp {
    /// A number whose upper bits depend on every bit.
    #[inline]
    fn hash(&self, frame_len: usize) -> u64 {
        let word = self.number << 16 | u64::from(self.slot);
        let mixed = (self.due ^ word.rotate_left(29) ^ frame_len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[inline]
    fn bytes(&self, hash: u64) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&self.due.to_le_bytes());
        bytes[8..16].copy_from_slice(&(self.number << 16 | u64::from(self.slot)).to_le_bytes());
        bytes[16..].copy_from_slice(&((hash >> 48) as u16).to_le_bytes());
        bytes
    }

    /// The stamp in a payload, if its hash is right.
    #[inline]
    fn read(bytes: &[u8], frame_len: usize) -> Option<(Self, u64)> {
        let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let second = word(8)?;
        let stamp = Self { due: word(0)?, number: second >> 16, slot: second as u16 };
        let hash = stamp.hash(frame_len);
        (bytes.get(16..STAMP_LEN)? == ((hash >> 48) as u16).to_le_bytes()).then_some((stamp, hash))
    }
}

/// Builds frames of a queue, and judges those that come back.
#[derive(Debug)]
pub struct Frames {
    pattern: Box<[u8]>,
    /// Headers that come back on frames of the length that came last.
    expected: (usize, [u8; HEADERS]),
}

impl Default for Frames {
    fn default() -> Self {
        let mut word = 1u64;
        let pattern = std::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 56) as u8
        });
        Self {
            pattern: pattern.take(MAX_FRAME + PATTERN_STEP * PATTERN_STEPS).collect(),
            expected: (MIN_FRAME, headers(MIN_FRAME, US, PEER)),
        }
    }
}

impl Frames {
    /// Writes a whole frame of `frame_len` bytes for a slot, all but its stamp.
    pub fn lay_out(&self, view: &View, at: usize, slot: u16, frame_len: usize) {
        view.write(at, &[0; NET_HEADER]);
        view.write(at + NET_HEADER, &headers(frame_len, PEER, US));
        view.write(at + STAMP_AT + STAMP_LEN, self.body(slot, frame_len));
    }

    /// Stamps a frame that is laid out.
    #[inline]
    pub fn stamp(&self, view: &View, at: usize, frame_len: usize, stamp: Stamp) {
        let hash = stamp.hash(frame_len);
        view.write(at + STAMP_AT, &stamp.bytes(hash));
        if has_tail(frame_len) {
            view.write(at + NET_HEADER + frame_len - TAIL_LEN, &hash.to_le_bytes());
        }
    }

    /// The stamp of a frame that came back, virtio-net header and all, if not a bit of it changed but what loopback
    /// swaps.
    #[inline]
    #[must_use]
    pub fn judge(&mut self, packet: &[u8]) -> Option<Stamp> {
        let (headers_end, frame_len) = (STAMP_AT, packet.len().checked_sub(NET_HEADER)?);
        let payload = packet.get(headers_end..)?;
        let (stamp, hash) = Stamp::read(payload, frame_len)?;
        let (body, tail) =
            if has_tail(frame_len) { payload.split_at(payload.len() - TAIL_LEN) } else { (payload, &[][..]) };
        if self.expected.0 != frame_len {
            self.expected = (frame_len, headers(frame_len, US, PEER));
        }
        let swapped = packet[NET_HEADER..headers_end] == self.expected.1;
        let expected = self.body(stamp.slot, frame_len);
        let same = body[STAMP_LEN..] == expected[..body.len() - STAMP_LEN];
        (swapped && same && (tail.is_empty() || tail == hash.to_le_bytes())).then_some(stamp)
    }

    /// What follows a stamp.
    fn body(&self, slot: u16, frame_len: usize) -> &[u8] {
        let start = usize::from(slot) % PATTERN_STEPS * PATTERN_STEP;
        &self.pattern[start..start + frame_len - MIN_FRAME]
    }
}

fn has_tail(frame_len: usize) -> bool {
    frame_len >= MIN_FRAME + TAIL_LEN
}

#[inline]
fn headers(frame_len: usize, to: [u8; 6], from: [u8; 6]) -> [u8; HEADERS] {
    const SOURCE: [u8; 4] = [10, 77, 0, 2];
    const DESTINATION: [u8; 4] = [10, 77, 0, 1];
    const PORT: u16 = 9;
    let (ip_len, udp_len) = ((frame_len - 14) as u16, (frame_len - 34) as u16);
    let mut bytes = [0; HEADERS];
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&ip_len.to_be_bytes());
    bytes[20] = 0x40;
    bytes[22..24].copy_from_slice(&[64, 17]);
    bytes[26..30].copy_from_slice(&SOURCE);
    bytes[30..34].copy_from_slice(&DESTINATION);
    let sum: u32 = bytes[14..34].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    bytes[24..26].copy_from_slice(&(!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes());
    for at in [34, 36] {
        bytes[at..at + 2].copy_from_slice(&PORT.to_be_bytes());
    }
    // No UDP checksum: allowed over IPv4 (RFC 768).
    bytes[38..40].copy_from_slice(&udp_len.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::memory::Memory;

    fn returned(slot: u16, frame_len: usize, stamp: Stamp) -> Vec<u8> {
        let (frames, view) = (Frames::default(), Memory::new(1, false).unwrap().cut(16384).unwrap());
        frames.lay_out(&view, BUFFER_OFFSET, slot, frame_len);
        frames.stamp(&view, BUFFER_OFFSET, frame_len, stamp);
        let mut packet = vec![0; NET_HEADER + frame_len];
        view.read_into(BUFFER_OFFSET, &mut packet);
        packet[NET_HEADER..NET_HEADER + 12].rotate_left(6);
        packet
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_seen() {
        let mut frames = Frames::default();
        for frame_len in [60, 61, 67, 68, 100, 1514, MAX_FRAME] {
            let stamp = Stamp { due: 1 << 40, number: 77 << 30, slot: 1000 };
            let mut packet = returned(1000, frame_len, stamp);
            assert_eq!(frames.judge(&packet), Some(stamp), "{frame_len}");
            for at in NET_HEADER..packet.len() {
                packet[at] ^= 0x10;
                assert_eq!(frames.judge(&packet), None, "byte {at} of {frame_len}");
                packet[at] ^= 0x10;
            }
            assert_eq!(frames.judge(&packet[..packet.len() - 1]), None);
        }
        assert_eq!(frames.judge(&[0; 20]), None);
    }

    #[test]
    fn the_end_of_a_predecessor_is_seen() {
        let old = returned(5, 200, Stamp { due: 1, number: 1, slot: 5 });
        let mut new = returned(5, 200, Stamp { due: 2, number: 2, slot: 5 });
        let len = new.len();
        new[len - 8..].copy_from_slice(&old[len - 8..]);
        assert_eq!(Frames::default().judge(&new), None);
    }

    #[test]
    fn the_kernel_would_take_the_headers() {
        let packet = returned(0, 60, Stamp::default());
        let sum: u32 = packet[26..46].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(
            guest_tests::driver::frames::udp_payload(&packet[NET_HEADER..]).map(|(port, p)| (port, p.len())),
            Some((9, 18))
        );
    }
}
