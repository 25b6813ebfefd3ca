//! A view of a stretch of guest memory with checked, race-tolerant access.
//!
//! The guest may write while we read. Fields that both sides look at go through atomics; a descriptor is copied out once,
//! by reads that the compiler may not repeat, and only the copy is judged. Bytes are little-endian as virtio 1.x defines them; a legacy guest on a little-endian host agrees.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::MemoryTable;

/// A number at any address, so that it can be read in one go.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(super) struct Unaligned<T>(pub(super) T);

/// `len` bytes of guest memory at a fixed place. Keeps the mapping alive.
#[derive(Debug)]
pub struct Window {
    ptr: *mut u8,
    len: usize,
    _table: Arc<MemoryTable>,
}

// SAFETY: `ptr` points into a mapping that `_table` keeps, and every access goes through methods that tolerate other
// threads (and the guest) writing at the same time; nothing in the type is bound to one thread.
unsafe impl Send for Window {}

impl Window {
    /// `None` unless `ptr` stands on `align`, a power of two. The caller hands `len` bytes of one region of `table`.
    pub(super) fn new(table: Arc<MemoryTable>, ptr: *mut u8, len: usize, align: usize) -> Option<Self> {
        ptr.addr().is_multiple_of(align).then_some(Self { ptr, len, _table: table })
    }

    /// Reads the 16-bit field at `offset`.
    #[inline]
    #[must_use]
    pub fn load_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.atomic_u16(offset).load(Ordering::Relaxed))
    }

    /// Reads the 16-bit field at `offset`; what the guest wrote before it is seen by what follows.
    #[inline]
    #[must_use]
    pub fn load_u16_acquire(&self, offset: usize) -> u16 {
        u16::from_le(self.atomic_u16(offset).load(Ordering::Acquire))
    }

    /// Writes the 16-bit field at `offset`.
    #[inline]
    pub fn store_u16(&self, offset: usize, value: u16) {
        self.atomic_u16(offset).store(value.to_le(), Ordering::Relaxed);
    }

    /// Writes the 16-bit field at `offset` after everything written before.
    #[inline]
    pub fn store_u16_release(&self, offset: usize, value: u16) {
        self.atomic_u16(offset).store(value.to_le(), Ordering::Release);
    }

    /// Reads the 64-bit field at `offset`, whatever its alignment, exactly once.
    #[inline]
    #[must_use]
    pub fn read_u64(&self, offset: usize) -> u64 {
        let from = self.at(offset, 8).cast::<Unaligned<u64>>();
        // SAFETY: `at` checked that eight bytes from `from` lie in the mapping; the type has no alignment to keep.
        u64::from_le(unsafe { from.read_volatile() }.0)
    }

    /// Copies `N` bytes at `offset` out.
    #[inline]
    #[must_use]
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let from = self.at(offset, N);
        // SAFETY: `at` checked that N bytes from `from` lie in the mapping; `bytes` is ours and N long.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), N) };
        bytes
    }

    /// Copies `bytes` in at `offset`.
    #[inline]
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        let to = self.at(offset, N);
        // SAFETY: `at` checked that N bytes from `to` lie in the mapping; `bytes` is ours and N long.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, N) };
    }

    #[inline]
    fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        let ptr = self.at(offset, 2).cast::<u16>();
        assert!(ptr.is_aligned(), "offset {offset} is odd");
        // SAFETY: `at` checked that two bytes lie in the mapping, which lives as long as `self`; the pointer is
        // aligned; all other access to the field in this process is atomic too.
        unsafe { AtomicU16::from_ptr(ptr) }
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The pointer to `offset`. Offsets are made by this crate, never by the guest: one out of range is a bug here.
    #[inline]
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(offset <= self.len && size <= self.len - offset, "{offset} + {size} > {}", self.len);
        self.ptr.wrapping_add(offset)
    }
}
