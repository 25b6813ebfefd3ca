//! A ring and the page before it, in mapped memory that another process has, too.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::memory::Mapping;

/// Bytes before a ring.
const PAGE: usize = 4096;

/// Where the words are in these. What different processes write is on different pairs of cache lines.
const HEAD: usize = 0;
const DROPPED: usize = 8;
const TAIL: usize = 128;

/// A ring's bytes and words. Keeps the mapping alive.
#[derive(Debug)]
pub(super) struct Area {
    /// The first of `PAGE + size` bytes of the mapping; on a page.
    start: *mut u8,
    /// Bytes of the ring, a power of two.
    size: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: `start` points into a mapping that `_mapping` keeps; nothing in the type is bound to one thread.
unsafe impl Send for Area {}

impl Area {
    /// Bytes of a file with so many rings of `size` bytes.
    pub(super) fn len(rings: usize, size: usize) -> usize {
        rings.saturating_mul(size.saturating_add(PAGE))
    }

    /// Maps so many rings of `size` bytes each.
    pub(super) fn map(file: File, rings: usize, size: usize) -> io::Result<Vec<Self>> {
        let len = Self::len(rings, size);
        // Touching what the file does not have would end the process.
        if rings == 0 || size < PAGE || !size.is_power_of_two() || file.metadata()?.len() < len as u64 {
            let what = format!("{rings} rings of {size} bytes do not lie in this file");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mapping = Arc::new(Mapping::of_file(file, 0, len).map_err(io::Error::other)?);
        let start = |ring| mapping.as_ptr().wrapping_add(ring * (size + PAGE));
        Ok((0..rings).map(|ring| Self { start: start(ring), size, _mapping: mapping.clone() }).collect())
    }

    /// Bytes of the ring.
    pub(super) fn size(&self) -> u64 {
        self.size as u64
    }

    /// Bytes that were ever written to it.
    pub(super) fn head(&self) -> &AtomicU64 {
        self.word(HEAD)
    }

    /// Frames that found no room.
    pub(super) fn dropped(&self) -> &AtomicU64 {
        self.word(DROPPED)
    }

    /// Bytes that were ever read.
    pub(super) fn tail(&self) -> &AtomicU64 {
        self.word(TAIL)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at + 8 <= PAGE && at.is_multiple_of(8));
        // SAFETY: an aligned word of the page, which the mapping holds (`map`) as long as `self` lives; everybody who uses
        // it uses atomics, and what another process writes there is a number in any case.
        unsafe { AtomicU64::from_ptr(self.start.wrapping_add(at).cast()) }
    }

    /// Writes bytes at a place that is counted on and on; no more of them than the ring has.
    #[inline]
    pub(super) fn write(&self, place: u64, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.size)];
        let (at, first) = self.stretch(place, bytes.len());
        let (bytes, rest) = bytes.split_at(first);
        // SAFETY: `first` bytes from `at` on lie in the ring (`stretch`), which the mapping holds; `bytes` is private memory.
        // If another process uses them meanwhile, it reads what it should not have.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.ring().wrapping_add(at), first) };
        if !rest.is_empty() {
            // SAFETY: as above, from the ring's first byte on: all bytes together are no more than it has.
            unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), self.ring(), rest.len()) };
        }
    }

    /// Writes eight bytes at such a place, which is moved down to a multiple of eight.
    #[inline]
    pub(super) fn write_word(&self, place: u64, word: u64) {
        let at = place as usize & (self.size - 1) & !7;
        // SAFETY: eight bytes from a multiple of eight on lie in the ring, which begins on a page and has a size that is another;
        // otherwise as in `write`.
        unsafe { self.ring().wrapping_add(at).cast::<u64>().write_volatile(word.to_le()) };
    }

    /// Reads bytes from such a place; no more of them than the ring has.
    pub(super) fn read(&self, place: u64, to: &mut [u8]) {
        let len = to.len().min(self.size);
        let (at, first) = self.stretch(place, len);
        let (to, rest) = to[..len].split_at_mut(first);
        // SAFETY: `first` bytes from `at` on lie in the ring (`stretch`), which the mapping holds; `to` is private memory.
        // If another process writes them meanwhile, these are other bytes.
        unsafe { std::ptr::copy_nonoverlapping(self.ring().wrapping_add(at).cast_const(), to.as_mut_ptr(), first) };
        // SAFETY: as above, from the ring's first byte on: all bytes together are no more than it has.
        unsafe { std::ptr::copy_nonoverlapping(self.ring().cast_const(), rest.as_mut_ptr(), rest.len()) };
    }

    fn ring(&self) -> *mut u8 {
        self.start.wrapping_add(PAGE)
    }

    /// Where a place is in the ring, and how many of `len` bytes lie there before the ring's end.
    #[inline]
    fn stretch(&self, place: u64, len: usize) -> (usize, usize) {
        let at = place as usize & (self.size - 1);
        (at, len.min(self.size - at))
    }
}
