//! The sum of words by vectors of 32 bytes, for CPUs with AVX2.

#![allow(unsafe_code)]

/// The sum of blocks in words of the machine's order; none where the CPU has no vectors for it.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn sum_of_blocks(blocks: &[[u8; 32]]) -> Option<u64> {
    if !std::arch::is_x86_feature_detected!("avx2") {
        return None;
    }
    // SAFETY: the CPU has AVX2, as it was just asked.
    Some(unsafe { sum_by_lanes(blocks) })
}

/// No vectors for this CPU.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn sum_of_blocks(_blocks: &[[u8; 32]]) -> Option<u64> {
    None
}

/// By the instruction that adds up pairs of signed words: a bias makes them such.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_by_lanes(blocks: &[[u8; 32]]) -> u64 {
    use std::arch::x86_64::{
        __m256i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm256_add_epi32, _mm256_add_epi64,
        _mm256_castsi256_si128, _mm256_cvtepi32_epi64, _mm256_extracti128_si256, _mm256_madd_epi16, _mm256_set_epi64x,
        _mm256_set1_epi16, _mm256_setzero_si256, _mm256_xor_si256,
    };
    /// What a word is less than it was when its highest bit is turned over.
    const BIAS: u64 = 1 << 15;
    const WORDS: u64 = 16;
    /// As many blocks as the lanes hold: each adds two words to each of eight.
    const FITS: usize = (i32::MAX as u64 / (2 * BIAS)) as usize;

    let (bias, ones) = (_mm256_set1_epi16(i16::MIN), _mm256_set1_epi16(1));
    let pairs_of = |block: &[u8; 32]| -> __m256i {
        let [a, b, c, d] =
            std::array::from_fn(|n| block[8 * n..].first_chunk().map_or(0, |word| i64::from_ne_bytes(*word)));
        _mm256_madd_epi16(_mm256_xor_si256(_mm256_set_epi64x(d, c, b, a), bias), ones)
    };
    let mut sum = 0;
    for part in blocks.chunks(FITS) {
        let (pairs, rest) = part.as_chunks::<4>();
        let (mut one, mut other) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for [a, b, c, d] in pairs {
            // So that few additions wait for each other.
            one = _mm256_add_epi32(one, _mm256_add_epi32(pairs_of(a), pairs_of(b)));
            other = _mm256_add_epi32(other, _mm256_add_epi32(pairs_of(c), pairs_of(d)));
        }
        for block in rest {
            one = _mm256_add_epi32(one, pairs_of(block));
        }
        let lanes = _mm256_add_epi32(one, other);
        let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(lanes));
        let lanes = _mm256_add_epi64(low, _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(lanes)));
        let lanes = _mm_add_epi64(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
        let signed = _mm_cvtsi128_si64(_mm_add_epi64(lanes, _mm_unpackhi_epi64(lanes, lanes)));
        sum += (part.len() as u64 * WORDS * BIAS).wrapping_add_signed(signed);
    }
    sum
}
