//! Packet memory (UMEM) of a socket, cut into chunks of one size; each half of the queue has its own.

#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::area::Area;

/// Chunks that one half has to itself. The kernel reads and writes those that are in a ring of its own or on their way.
#[derive(Debug)]
pub(super) struct Chunks {
    memory: Arc<Area>,
    /// Bits of a place in a chunk: a chunk of every packet is looked up, and a division is dear.
    bits: u32,
    range: Range<usize>,
}

impl Chunks {
    /// The first `count` chunks of `size` bytes of `memory`, and the others. `size` is a power of two.
    pub(super) fn split(memory: Area, size: usize, count: usize) -> (Self, Self) {
        let bits = size.trailing_zeros();
        let end = memory.len() >> bits;
        let first = count.min(end);
        let memory = Arc::new(memory);
        (Self { memory: memory.clone(), bits, range: 0..first }, Self { memory, bits, range: first..end })
    }

    /// Bytes of a chunk.
    #[inline]
    pub(super) fn size(&self) -> usize {
        1 << self.bits
    }

    pub(super) fn count(&self) -> usize {
        self.range.len()
    }

    /// Addresses of all chunks, as the kernel counts them: in bytes from the start of the memory.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        let bits = self.bits;
        self.range.clone().map(move |number| (number << bits) as u64)
    }

    /// Address of the chunk that `addr` lies in, if it is one of these.
    #[inline]
    pub(super) fn chunk_of(&self, addr: u64) -> Option<u64> {
        let number = usize::try_from(addr).ok()? >> self.bits;
        self.range.contains(&number).then_some((number << self.bits) as u64)
    }

    /// Where the `len` bytes at `addr` are, if one of these chunks holds them all.
    #[inline]
    fn place(&self, addr: u64, len: usize) -> Option<*mut u8> {
        let offset = (addr - self.chunk_of(addr)?) as usize;
        (len <= self.size() - offset).then(|| self.memory.start().wrapping_add(addr as usize))
    }

    /// The `len` bytes at `addr`, if one of these chunks holds them all.
    #[inline]
    pub(super) fn read(&self, addr: u64, len: usize) -> Option<&[u8]> {
        let start = self.place(addr, len)?;
        // SAFETY: as for `bytes`; whoever borrowed the value writes to none of them.
        Some(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// The same, to be written.
    #[inline]
    pub(super) fn bytes(&mut self, addr: u64, len: usize) -> Option<&mut [u8]> {
        let start = self.place(addr, len)?;
        // SAFETY: the bytes lie in a chunk of the memory, which lives as long as this value; the other half has other
        // chunks, so in this process nobody but the value's borrower touches these. The kernel does only after it was
        // told to by a ring, and what is in a ring is not asked for here; should it write all the same, what is read is
        // bytes of a packet.
        Some(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_one_of_the_chunks_is_given() {
        let memory = Area::of_small_pages(8 << 10).unwrap();
        let (first, mut chunks) = Chunks::split(memory, 2048, 2);
        assert_eq!(first.addresses().collect::<Vec<_>>(), [0, 2048]);
        assert_eq!(chunks.addresses().collect::<Vec<_>>(), [4096, 6144]);
        for (addr, len, is_given) in [
            (4096, 2048, true),
            (4352, 1792, true),
            (4352, 1793, false),
            (6144 + 2047, 1, true),
            (8192, 1, false),
            (4095, 1, false),
            (0, 1, false),
            (u64::MAX, 1, false),
            (u64::MAX - 1, usize::MAX, false),
        ] {
            assert_eq!(chunks.bytes(addr, len).map(|bytes| bytes.len()), is_given.then_some(len), "{addr} + {len}");
        }
        chunks.bytes(4100, 4).unwrap().copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(chunks.bytes(4099, 6).unwrap(), [0, 1, 2, 3, 4, 0]);
        assert_eq!((chunks.chunk_of(6145), chunks.chunk_of(8192)), (Some(6144), None));
    }
}
