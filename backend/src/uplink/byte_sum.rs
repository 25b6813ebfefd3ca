//! The sum of all bytes of a frame: proof that each was read.

#![allow(unsafe_code)]

/// The sum of bytes.
#[inline]
pub(super) fn byte_sum(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<16>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is in every CPU of this kind.
    let sum = unsafe { sum_of_blocks(blocks) };
    #[cfg(not(target_arch = "x86_64"))]
    let sum = sum_by_words(blocks);
    sum + rest.iter().map(|byte| u64::from(*byte)).sum::<u64>()
}

/// By the instruction that adds eight bytes up.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn sum_of_blocks(blocks: &[[u8; 16]]) -> u64 {
    use std::arch::x86_64::{
        _mm_add_epi64, _mm_cvtsi128_si64, _mm_sad_epu8, _mm_set_epi64x, _mm_setzero_si128, _mm_unpackhi_epi64,
    };
    let sum_of = |block: &[u8; 16]| {
        let word = u128::from_le_bytes(*block);
        _mm_sad_epu8(_mm_set_epi64x((word >> 64) as i64, word as i64), _mm_setzero_si128())
    };
    let (fours, rest) = blocks.as_chunks::<4>();
    let mut sums = _mm_setzero_si128();
    for [a, b, c, d] in fours {
        // So that few additions wait for each other.
        let (ab, cd) = (_mm_add_epi64(sum_of(a), sum_of(b)), _mm_add_epi64(sum_of(c), sum_of(d)));
        sums = _mm_add_epi64(sums, _mm_add_epi64(ab, cd));
    }
    for block in rest {
        sums = _mm_add_epi64(sums, sum_of(block));
    }
    (_mm_cvtsi128_si64(sums) + _mm_cvtsi128_si64(_mm_unpackhi_epi64(sums, sums))) as u64
}

/// Eight at a time: pairs of them are added up side by side in 16 bits.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn sum_by_words(blocks: &[[u8; 16]]) -> u64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    // As many words as 16 bits hold the pairs of.
    const FITS: usize = 0xffff / (2 * 0xff);
    let (words, _) = blocks.as_flattened().as_chunks::<8>();
    let pairs = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        (word & EVEN) + (word >> 8 & EVEN)
    };
    let lanes = |words: &[[u8; 8]]| {
        let lanes: u64 = words.iter().map(pairs).sum();
        (lanes & 0xffff) + (lanes >> 16 & 0xffff) + (lanes >> 32 & 0xffff) + (lanes >> 48)
    };
    words.chunks(FITS).map(lanes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_what_is_left_make_the_sum() {
        let bytes: Vec<u8> = (0..2100u32).map(|n| (n * n) as u8 | 0xf1).collect();
        for len in 0..bytes.len() {
            let right: u64 = bytes[..len].iter().map(|byte| u64::from(*byte)).sum();
            assert_eq!(byte_sum(&bytes[..len]), right, "{len} bytes");
            let (blocks, _) = bytes[..len].as_chunks::<16>();
            let rest: u64 = bytes[blocks.len() * 16..len].iter().map(|byte| u64::from(*byte)).sum();
            assert_eq!(sum_by_words(blocks) + rest, right, "the twin, {len} bytes");
        }
    }
}
