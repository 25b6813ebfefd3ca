//! The Internet checksum (RFC 1071), its update when a field changes (RFC 1624), and the pseudo headers of TCP and UDP
//! over IPv4 (RFC 9293, 3.1; RFC 768) and IPv6 (RFC 8200, 8.1).
//!
//! The sum goes over eight bytes a step with the carry kept: of the ways to write it without intrinsics this takes the
//! fewest instructions, about one for four bytes.

/// Where the checksum field of a TCP header is.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Where the checksum field of a UDP header is.
pub(super) const UDP_CHECKSUM: usize = 6;

/// A sum of 16-bit words over bytes that may come in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// In the byte order of the machine: the sum is the same in either, but for its bytes' own order (RFC 1071, 2B).
    words: u64,
    /// An odd number of bytes has come: the next piece starts with the second half of a word.
    odd: bool,
}

impl Sum {
    /// Adds a piece.
    #[must_use]
    pub fn bytes(self, piece: &[u8]) -> Self {
        let sum = fold(sum_of(piece));
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        Self { words: self.words + u64::from(sum), odd: self.odd ^ (piece.len() % 2 == 1) }
    }

    /// Adds a piece of a known length where an even number of bytes has come: what small pieces are cheaper with.
    #[inline]
    #[must_use]
    pub fn block<const N: usize>(self, block: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4) && N <= 64) };
        debug_assert!(!self.odd);
        let sum = block.as_chunks::<4>().0.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
        Self { words: self.words + u64::from(fold(sum)), odd: self.odd }
    }

    /// Adds a word where an even number of bytes has come.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        debug_assert!(!self.odd);
        Self { words: self.words + u64::from(word.to_be()), odd: self.odd }
    }

    /// The sum: what a checksum field holds of a packet that its receiver is to finish.
    #[must_use]
    pub fn partial(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of the sum.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.partial()
    }

    /// Whether a sum over everything, with the checksum and the pseudo header, says that nothing was changed.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.partial() == u16::MAX
    }
}

/// The pseudo header: the sum of the addresses, and the length of the TCP or UDP part.
#[inline]
#[must_use]
pub fn pseudo_header(addresses: Sum, protocol: u8, len: usize) -> Sum {
    // The length is 16 bits wide with IPv4 and 32 with IPv6; its upper half counts as a word of its own.
    addresses.word(protocol.into()).word((len >> 16) as u16).word(len as u16)
}

/// The checksum after a word under it went from `old` to `new` (RFC 1624, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default().word(!checksum).word(!old).word(new).checksum()
}

/// What a checksum field at `csum_offset` of a header takes: UDP says 0xffff for 0, which would mean "none" (RFC 768).
#[must_use]
pub(super) fn field(checksum: u16, csum_offset: usize) -> u16 {
    if checksum == 0 && csum_offset == UDP_CHECKSUM { u16::MAX } else { checksum }
}

/// Finishes the checksum of a frame that was left to its receiver (virtio 1.3, 5.1.6.2): over everything from
/// `csum_start` on, into the field `csum_offset` bytes behind it, where the sum of the pseudo header stands. Says
/// whether the field lies in the frame; nothing is written otherwise.
#[must_use]
pub fn complete(frame: &mut [u8], csum_start: usize, csum_offset: usize) -> bool {
    let Some(summed) = frame.get_mut(csum_start..) else { return false };
    let checksum = field(Sum::default().bytes(summed).checksum(), csum_offset);
    let Some(place) = summed.get_mut(csum_offset..).and_then(|rest| rest.first_chunk_mut()) else { return false };
    *place = checksum.to_be_bytes();
    true
}

/// The sum of the bytes in words of the machine's order, the last of them filled up with zero.
fn sum_of(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let (mut sum, mut carries) = (0_u64, 0);
    for block in blocks {
        let mut carry = false;
        for word in block.as_chunks::<8>().0 {
            let (with_word, over) = sum.overflowing_add(u64::from_ne_bytes(*word));
            let (with_carry, over_again) = with_word.overflowing_add(carry.into());
            sum = with_carry;
            carry = over | over_again;
        }
        carries += u64::from(carry);
    }
    let mut sum = u64::from(fold(sum)) + carries;
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    sum + u64::from(match *rest {
        [a, b, c] => u32::from_ne_bytes([a, b, c, 0]),
        [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
        [a] => u32::from_ne_bytes([a, 0, 0, 0]),
        _ => 0,
    })
}

/// Adds up the four words of a sum, and the carries of that.
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::packet::UDP;
    use super::*;

    /// The definition, word by word.
    fn twin(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn carries_of_long_runs_of_ones_are_kept() {
        for len in [0, 1, 31, 32, 33, 63, 64, 65, 4096, 65_535] {
            let ones = vec![0xff; len];
            assert_eq!(Sum::default().bytes(&ones).partial(), twin(&ones), "{len} bytes");
        }
    }

    #[test]
    fn udp_never_says_that_there_is_no_checksum() {
        // A sum of 0xffff gives a checksum of 0.
        let mut frame = [0, 0, 0, 0, 0, 0, 0xff, 0xff];
        assert!(complete(&mut frame, 0, UDP_CHECKSUM));
        assert_eq!(frame[6..], [0xff, 0xff]);
        let mut frame = [0; 18];
        frame[0..2].fill(0xff);
        assert!(complete(&mut frame, 0, TCP_CHECKSUM));
        assert_eq!(frame[16..], [0, 0]);
    }

    #[test]
    fn a_field_outside_the_frame_is_left_alone() {
        let mut frame = [1; 20];
        for (start, offset) in [(21, 0), (20, 0), (18, 1), (0, 19), (usize::MAX, 2), (2, usize::MAX)] {
            assert!(!complete(&mut frame, start, offset), "{start} {offset}");
        }
        assert_eq!(frame, [1; 20]);
        assert!(complete(&mut frame, 18, 0));
    }

    proptest! {
        #[test]
        fn pieces_give_the_sum_of_the_whole(bytes in vec(any::<u8>(), 0..300), cuts in vec(0usize..300, 0..5)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let sum = cuts.windows(2).fold(Sum::default(), |sum, cut| sum.bytes(&bytes[cut[0]..cut[1]]));
            prop_assert_eq!(sum.partial(), twin(&bytes));
            if let Some(block) = bytes.first_chunk::<20>() {
                prop_assert_eq!(Sum::default().block(block).partial(), twin(block));
            }
        }

        #[test]
        fn an_update_is_as_good_as_a_new_sum(mut words in vec(any::<u16>(), 2..20), at: prop::sample::Index, new: u16) {
            // A word that is never 0, as every header has one: the two zeros are told apart only without.
            words[0] |= 1;
            let checksum = |words: &[u16]| words.iter().fold(Sum::default(), |sum, word| sum.word(*word)).checksum();
            let before = checksum(&words);
            let at = 1 + at.index(words.len() - 1);
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(update(before, old, new), checksum(&words));
        }

        #[test]
        fn what_was_completed_is_whole(mut frame in vec(any::<u8>(), 40..100), start in 0usize..20, udp: bool) {
            let offset = if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
            let before = frame.clone();
            let pseudo = pseudo_header(Sum::default().bytes(&frame[..8]), UDP, frame.len() - start);
            let place = start + offset..start + offset + 2;
            frame[place.clone()].copy_from_slice(&pseudo.partial().to_be_bytes());
            prop_assert!(complete(&mut frame, start, offset));
            prop_assert!(pseudo.bytes(&frame[start..]).is_whole());
            frame[place.clone()].copy_from_slice(&before[place]);
            prop_assert_eq!(frame, before);
        }
    }
}
