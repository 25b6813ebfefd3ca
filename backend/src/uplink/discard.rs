//! A test uplink that takes every frame and gives none: what the guest side alone can do.
//!
//! Each frame is copied to private memory and its bytes are added up, so that no byte goes unread; or left unread, to see
//! what the ring alone costs.

use super::{MAX_FRAME, Progress, Sent, TxBurst, TxFrame};
use crate::memory::copy_from_guest;

/// The sending half; there is nothing to receive.
#[derive(Debug)]
pub struct DiscardTx {
    /// Where frames are copied to; none are when it is empty.
    bytes: Box<[u8]>,
    sum: u64,
}

impl DiscardTx {
    /// Reads what it discards, or does not.
    #[must_use]
    pub fn new(reads: bool) -> Self {
        Self { bytes: vec![0; if reads { MAX_FRAME } else { 0 }].into(), sum: 0 }
    }

    #[inline]
    pub(super) fn send(&mut self, burst: &TxBurst<'_>) -> Progress {
        if !self.reads() {
            return burst.each(|_| Sent::Done);
        }
        burst.each(|frame| self.read(frame))
    }

    #[inline]
    pub(super) fn reads(&self) -> bool {
        !self.bytes.is_empty()
    }

    #[inline]
    fn read(&mut self, frame: TxFrame<'_>) -> Sent {
        let bytes = &mut self.bytes[..frame.len];
        let got = copy_from_guest(frame.slices, frame.skip, bytes);
        self.sum = self.sum.wrapping_add(sum(&bytes[..got]));
        Sent::Done
    }

    /// The sum of all bytes of all frames so far.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

/// The sum of bytes, eight at a time: pairs of them are added up side by side in 16 bits, which the compiler does for
/// several words at once where the CPU can.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    // As many bytes as 16 bits hold the pairs of.
    const FITS: usize = 8 * (0xffff / (2 * 0xff));
    let (words, rest) = bytes.as_chunks::<8>();
    let pairs = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        (word & EVEN) + (word >> 8 & EVEN)
    };
    let lanes = |words: &[[u8; 8]]| {
        let lanes: u64 = words.iter().map(pairs).sum();
        (lanes & 0xffff) + (lanes >> 16 & 0xffff) + (lanes >> 32 & 0xffff) + (lanes >> 48)
    };
    let whole: u64 = words.chunks(FITS / 8).map(lanes).sum();
    whole + rest.iter().map(|byte| u64::from(*byte)).sum::<u64>()
}

impl Drop for DiscardTx {
    fn drop(&mut self) {
        tracing::debug!(sum = self.sum, "discarded");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Buffers, GuestSlice, MemoryTable, RegionInfo, copy_to_guest, memfd};
    use crate::offload::NetHeader;

    #[test]
    fn every_byte_of_the_frame_counts_and_none_of_the_header() {
        let info = RegionInfo { guest_address: 0, size: 4096, user_address: 0, mmap_offset: 0 };
        let table = MemoryTable::default().with_region(info, memfd(4096).unwrap()).unwrap();
        let mut buffers = Buffers::new(Arc::new(table));
        for (at, len) in [(0, 5), (100, 10), (200, 5)] {
            buffers.push(at, len).unwrap();
        }
        let slices: &[GuestSlice<'_>] = buffers.get(0..3);
        copy_to_guest(&[[200; 12].as_slice(), &[1, 2, 3, 4, 5, 6, 7, 8]].concat(), slices, 0);
        let frame = TxFrame { header: &NetHeader::default(), slices, skip: 12, len: 8 };
        let mut discard = DiscardTx::new(true);
        assert_eq!(discard.read(frame), Sent::Done);
        assert_eq!(discard.read(frame), Sent::Done);
        assert_eq!(discard.sum(), 72);
    }

    #[test]
    fn words_and_what_is_left_make_the_sum() {
        let bytes: Vec<u8> = (0..2100u32).map(|n| (n * n) as u8 | 0xf1).collect();
        for len in 0..bytes.len() {
            let right: u64 = bytes[..len].iter().map(|byte| u64::from(*byte)).sum();
            assert_eq!(sum(&bytes[..len]), right, "{len} bytes");
        }
    }
}
