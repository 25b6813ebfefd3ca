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
    for len in [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 4096, 65_535] {
        let ones = vec![0xff; len];
        assert_eq!(Sum::default().bytes(&ones).partial(), twin(&ones), "{len} bytes");
    }
}

#[test]
fn vectors_hold_more_than_any_packet_has() {
    // Words that are the largest, the least and the next ones when they are taken as signed.
    for word in [0_u16, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
        let blocks = vec![std::array::from_fn(|at| word.to_ne_bytes()[at % 2]); 70_000];
        for blocks in [&blocks[..], &blocks[..32_767], &blocks[..32_768], &blocks[..65_535]] {
            let words = blocks.len() as u64 * 16 * u64::from(word);
            assert_eq!(fold(sum_with_carry(blocks)), fold(words), "{word:#x}");
            assert!(simd::sum_of_blocks(blocks).is_none_or(|sum| sum == words), "{word:#x}");
        }
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
    fn vectors_and_their_twin_agree(bytes in vec(any::<u8>(), 0..3000), from in 0usize..64) {
        // At any alignment.
        let bytes = &bytes[from.min(bytes.len())..];
        let (blocks, _) = bytes.as_chunks();
        if let Some(sum) = simd::sum_of_blocks(blocks) {
            prop_assert_eq!(fold(sum), fold(sum_with_carry(blocks)));
        }
        prop_assert_eq!(Sum::default().bytes(bytes).partial(), twin(bytes));
    }

    #[test]
    fn pieces_give_the_sum_of_the_whole(bytes in vec(any::<u8>(), 0..2000), cuts in vec(0usize..2000, 0..5)) {
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
