//! A test uplink that takes every frame and gives none: what the guest side alone can do.
//!
//! Each frame is copied to private memory and its bytes are added up, so that no byte goes unread; or left unread, to see
//! what the ring alone costs.

use super::byte_sum::byte_sum;
use super::{MAX_FRAME, Progress, Sent, TxBurst, TxFrame};

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

    pub(super) fn send_private(&mut self, frame: &[u8]) -> Sent {
        if self.reads() {
            self.sum = self.sum.wrapping_add(byte_sum(frame));
        }
        Sent::Done
    }

    #[inline]
    pub(super) fn reads(&self) -> bool {
        !self.bytes.is_empty()
    }

    #[inline]
    fn read(&mut self, frame: &TxFrame<'_>) -> Sent {
        let bytes = &mut self.bytes[..frame.len];
        let got = frame.copy(0, bytes);
        self.sum = self.sum.wrapping_add(byte_sum(&bytes[..got]));
        Sent::Done
    }

    /// The sum of all bytes of all frames so far.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }
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
        let frame = TxFrame { header: &NetHeader::default(), slices, skip: 12, len: 8, head: &[] };
        let mut discard = DiscardTx::new(true);
        assert_eq!(discard.read(&frame), Sent::Done);
        assert_eq!(discard.read(&frame), Sent::Done);
        assert_eq!(discard.sum(), 72);
    }
}
