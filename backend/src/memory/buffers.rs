//! Packet buffers in guest memory: lists of slices that the kernel can read from and write to directly.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::{MemoryError, MemoryTable};

/// A piece of guest memory that a mapping is known to hold. Laid out as an `iovec`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice<'a> {
    iovec: libc::iovec,
    table: PhantomData<&'a MemoryTable>,
}

impl<'a> GuestSlice<'a> {
    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.iovec.iov_len
    }

    /// Whether it holds no byte.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iovec.iov_len == 0
    }

    /// The slice without its first `n` bytes (at most all).
    #[inline]
    #[must_use]
    pub fn skip(self, n: usize) -> Self {
        let n = n.min(self.iovec.iov_len);
        let iov_base = self.iovec.iov_base.wrapping_byte_add(n);
        Self { iovec: libc::iovec { iov_base, iov_len: self.iovec.iov_len - n }, table: PhantomData }
    }

    /// As the kernel takes it. Valid for reads and writes of `iov_len` bytes during `'a`.
    #[inline]
    #[must_use]
    pub fn iovec(self) -> libc::iovec {
        self.iovec
    }
}

/// Slices of guest memory in a row, owned together with the table that keeps them valid.
///
/// A queue by use: pushed at the end, dropped from the front.
#[derive(Debug)]
pub struct Buffers {
    table: Arc<MemoryTable>,
    slices: Vec<libc::iovec>,
    /// The region that held the last buffer: the next one mostly lies there too.
    hint: Hint,
}

/// A region of the table that a [`Buffers`] owns.
#[derive(Clone, Copy, Debug)]
struct Hint {
    guest_address: u64,
    len: u64,
    ptr: *mut u8,
}

impl Hint {
    const NONE: Self = Self { guest_address: 0, len: 0, ptr: std::ptr::null_mut() };

    /// Where `len` bytes at `address` are mapped, if all of them lie in this region.
    #[inline]
    fn resolve(&self, address: u64, len: usize) -> Option<*mut u8> {
        let offset = address.wrapping_sub(self.guest_address);
        let left = self.len.checked_sub(offset)?;
        (len as u64 <= left).then(|| self.ptr.wrapping_add(offset as usize))
    }
}

// SAFETY: the iovecs point into mappings that `table` keeps; nothing here is bound to one thread.
unsafe impl Send for Buffers {}

impl Buffers {
    /// An empty list over the memory of `table`.
    #[must_use]
    pub fn new(table: Arc<MemoryTable>) -> Self {
        Self { table, slices: Vec::new(), hint: Hint::NONE }
    }

    /// The memory that the slices lie in.
    #[must_use]
    pub fn table(&self) -> &Arc<MemoryTable> {
        &self.table
    }

    /// Number of slices.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.slices.len()
    }

    /// Whether there is no slice.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Adds `len` bytes of guest memory at `address`; a range over adjoining regions becomes several slices.
    ///
    /// # Errors
    /// When a part of the range is in no region. What was added before it stays: see [`Buffers::truncate`].
    #[inline]
    pub fn push(&mut self, address: u64, len: usize) -> Result<(), MemoryError> {
        if len > 0
            && let Some(ptr) = self.hint.resolve(address, len)
        {
            self.slices.push(libc::iovec { iov_base: ptr.cast(), iov_len: len });
            return Ok(());
        }
        self.push_by_table(address, len)
    }

    #[cold]
    fn push_by_table(&mut self, mut address: u64, mut len: usize) -> Result<(), MemoryError> {
        if let Some((guest_address, len, ptr)) = self.table.region_of(address) {
            self.hint = Hint { guest_address, len, ptr };
        }
        while len > 0 {
            let Some((ptr, got)) = self.table.resolve(address, len) else {
                return Err(MemoryError::Unmapped { address, len: len as u64 });
            };
            self.slices.push(libc::iovec { iov_base: ptr.cast(), iov_len: got });
            len -= got;
            address = match address.checked_add(got as u64) {
                Some(next) => next,
                None if len == 0 => break,
                None => return Err(MemoryError::Unmapped { address, len: len as u64 }),
            };
        }
        Ok(())
    }

    /// The slices in `range`.
    #[inline]
    #[must_use]
    pub fn get(&self, range: Range<usize>) -> &[GuestSlice<'_>] {
        let iovecs = &self.slices[range];
        // SAFETY: GuestSlice is a transparent iovec; each iovec was made by `push` from `table`, which outlives the
        // borrow of self that the result carries.
        unsafe { std::slice::from_raw_parts(iovecs.as_ptr().cast::<GuestSlice<'_>>(), iovecs.len()) }
    }

    /// Keeps the first `len` slices.
    pub fn truncate(&mut self, len: usize) {
        self.slices.truncate(len);
    }

    /// Drops the first `n` slices.
    pub fn drop_front(&mut self, n: usize) {
        self.slices.drain(..n);
    }

    /// Drops all slices.
    #[inline]
    pub fn clear(&mut self) {
        self.slices.clear();
    }
}

/// Length of all slices together, in bytes.
#[must_use]
pub fn total_len(slices: &[GuestSlice<'_>]) -> usize {
    slices.iter().map(GuestSlice::len).sum()
}

/// Copies from the start of `slices` until `to` is full or they end; says how many bytes.
pub fn copy_from_guest(slices: &[GuestSlice<'_>], to: &mut [u8]) -> usize {
    let mut done = 0;
    for slice in slices {
        let n = slice.len().min(to.len() - done);
        let from = slice.iovec.iov_base.cast::<u8>();
        let into = to[done..].as_mut_ptr();
        // SAFETY: the slice is valid for its length (see `get`), `to` has n bytes left; private memory and guest
        // memory never overlap.
        unsafe { std::ptr::copy_nonoverlapping(from, into, n) };
        done += n;
        if done == to.len() {
            break;
        }
    }
    done
}

/// Copies the first `N` bytes of `slices`, if the first slice holds them all.
#[inline]
#[must_use]
pub fn read_array<const N: usize>(slices: &[GuestSlice<'_>]) -> Option<[u8; N]> {
    let first = slices.first().filter(|slice| slice.len() >= N)?;
    let mut bytes = [0; N];
    // SAFETY: the slice is valid for its length (see `get`), which is N at least; private memory does not overlap it.
    unsafe { std::ptr::copy_nonoverlapping(first.iovec.iov_base.cast::<u8>(), bytes.as_mut_ptr(), N) };
    Some(bytes)
}

/// Copies `bytes` to the start of `slices`, if the first slice holds them all; says whether.
#[inline]
pub fn write_array<const N: usize>(bytes: &[u8; N], slices: &[GuestSlice<'_>]) -> bool {
    let Some(first) = slices.first().filter(|slice| slice.len() >= N) else { return false };
    // SAFETY: the slice is valid for its length (see `get`), which is N at least; private memory does not overlap it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), first.iovec.iov_base.cast::<u8>(), N) };
    true
}

/// Copies `from` to the start of `slices` until it is written or they end; says how many bytes.
pub fn copy_to_guest(from: &[u8], slices: &[GuestSlice<'_>]) -> usize {
    let mut done = 0;
    for slice in slices {
        let n = slice.len().min(from.len() - done);
        let into = slice.iovec.iov_base.cast::<u8>();
        // SAFETY: the slice is valid for its length (see `get`), `from` has n bytes left; private memory and guest
        // memory never overlap.
        unsafe { std::ptr::copy_nonoverlapping(from[done..].as_ptr(), into, n) };
        done += n;
        if done == from.len() {
            break;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RegionInfo;
    use crate::memory::table::tests::{memfd, table};

    #[test]
    fn a_buffer_over_adjoining_regions_becomes_two_slices() {
        let info = RegionInfo { guest_address: 0x2000, size: 0x1000, user_address: 0x9000, mmap_offset: 0 };
        let table = table(0x1000, 0x1000).with_region(info, memfd(0x1000).unwrap()).unwrap();
        let mut buffers = Buffers::new(Arc::new(table));
        buffers.push(0x1ff0, 0x20).unwrap();
        assert_eq!(buffers.get(0..2).iter().map(GuestSlice::len).collect::<Vec<_>>(), [0x10, 0x10]);

        let sent: Vec<u8> = (0..0x20).collect();
        assert_eq!(copy_to_guest(&sent, buffers.get(0..2)), 0x20);
        let mut got = [0; 0x20];
        assert_eq!(copy_from_guest(buffers.get(0..2), &mut got), 0x20);
        assert_eq!(got[..], sent[..]);
        assert_eq!(copy_from_guest(&[buffers.get(0..1)[0].skip(8)], &mut got), 8);
        assert_eq!(got[..8], sent[8..16]);
    }

    #[test]
    fn holes_and_wrapping_ranges_are_refused() {
        let mut buffers = Buffers::new(Arc::new(table(0x1000, 0x1000)));
        assert!(buffers.push(0x1fff, 2).is_err());
        assert!(buffers.push(0xfff, 1).is_err());
        assert!(buffers.push(u64::MAX, 2).is_err());
        buffers.clear();
        assert!(buffers.push(0x1fff, 1).is_ok());
    }
}
