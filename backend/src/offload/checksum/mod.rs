//! The Internet checksum (RFC 1071), its update when a field changes (RFC 1624), and the pseudo headers of TCP and UDP
//! over IPv4 (RFC 9293, 3.1; RFC 768) and IPv6 (RFC 8200, 8.1).
//!
//! Short pieces are summed over eight bytes a step with the carry kept: of the ways to write it without intrinsics this
//! takes the fewest instructions, about one for four bytes. Long ones are summed by vectors where the CPU has them.

mod simd;
#[cfg(test)]
mod tests;

/// Where the checksum field of a TCP header is.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Where the checksum field of a UDP header is.
pub(super) const UDP_CHECKSUM: usize = 6;

/// Fewest bytes for which vectors pay: with less, adding up their lanes takes longer than the rest.
const LONG: usize = 256;

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
        if piece.len() >= LONG {
            return self.long(piece);
        }
        let (blocks, rest) = piece.as_chunks();
        self.with(sum_with_carry(blocks) + sum_of_rest(rest), piece.len())
    }

    /// Apart, so that short pieces, which most headers are, pay nothing for it.
    #[inline(never)]
    fn long(self, piece: &[u8]) -> Self {
        let (blocks, rest) = piece.as_chunks();
        let sum = simd::sum_of_blocks(blocks).unwrap_or_else(|| sum_with_carry(blocks));
        self.with(sum + sum_of_rest(rest), piece.len())
    }

    /// Adds the sum of a piece of `len` bytes.
    #[inline]
    fn with(self, sum: u64, len: usize) -> Self {
        let sum = fold(sum);
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        Self { words: self.words + u64::from(sum), odd: self.odd ^ (len % 2 == 1) }
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

/// The sum of less than a block, in words of the machine's order, the last of them filled up with zero.
#[inline]
fn sum_of_rest(rest: &[u8]) -> u64 {
    let (words, rest) = rest.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    sum + u64::from(match *rest {
        [a, b, c] => u32::from_ne_bytes([a, b, c, 0]),
        [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
        [a] => u32::from_ne_bytes([a, 0, 0, 0]),
        _ => 0,
    })
}

/// The sum of whole blocks: what every CPU does, and the twin of what some do faster.
#[inline]
fn sum_with_carry(blocks: &[[u8; 32]]) -> u64 {
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
    u64::from(fold(sum)) + carries
}

/// Adds up the four words of a sum, and the carries of that.
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}
