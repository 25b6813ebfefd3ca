//! A view of an array in guest memory: a descriptor table, the entries of a ring.
//!
//! The packet path reads and writes entries here, so each access checks the index and nothing else: where the array lies,
//! that it fits and how it is aligned was checked when it was made.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use super::prefetch_to_write;
use super::window::{Unaligned, Window};

/// An array of entries of `SIZE` bytes. Keeps the mapping alive.
#[derive(Debug)]
pub struct Entries<const SIZE: usize>(Window);

/// Such an array as long as it is borrowed: small enough to stay in registers.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, const SIZE: usize> {
    ptr: *mut u8,
    len: usize,
    entries: PhantomData<&'a Entries<SIZE>>,
}

impl<const SIZE: usize> Entries<SIZE> {
    /// The array that fills `window`.
    pub(super) fn new(window: Window) -> Self {
        Self(window)
    }

    /// The array, to be read and written.
    #[inline]
    #[must_use]
    pub fn view(&self) -> View<'_, SIZE> {
        View { ptr: self.0.as_ptr(), len: self.0.len() / SIZE, entries: PhantomData }
    }
}

impl<'a, const SIZE: usize> View<'a, SIZE> {
    /// Reads a whole 16-bit entry.
    ///
    /// # Panics
    /// Like all methods, when there is no such entry: indices are made by this crate, or checked against the ring's size.
    #[inline]
    #[must_use]
    pub fn load_u16(self, index: usize) -> u16 {
        const { assert!(SIZE == 2) };
        // SAFETY: the entry lies in the mapping (`at`), on two bytes as all rings do (checked when the window was made);
        // all other access to it in this process is atomic too.
        u16::from_le(unsafe { AtomicU16::from_ptr(self.at(index).cast()) }.load(Ordering::Relaxed))
    }

    /// Reads the two words of a 16-byte entry, each exactly once.
    #[inline]
    #[must_use]
    pub fn read_words(self, index: usize) -> (u64, u64) {
        const { assert!(SIZE == 16) };
        let entry = self.at(index).cast::<Unaligned<u64>>();
        // SAFETY: the entry lies in the mapping (`at`); the type has no alignment to keep.
        let first = unsafe { entry.read_volatile() }.0;
        // SAFETY: as above, eight bytes on.
        let second = unsafe { entry.wrapping_add(1).read_volatile() }.0;
        (u64::from_le(first), u64::from_le(second))
    }

    /// Writes a whole 8-byte entry.
    #[inline]
    pub fn write_u64(self, index: usize, value: u64) {
        const { assert!(SIZE == 8) };
        // SAFETY: the entry lies in the mapping (`at`); the type has no alignment to keep.
        unsafe { self.at(index).cast::<Unaligned<u64>>().write_volatile(Unaligned(value.to_le())) };
    }

    /// The second word of a 16-byte entry, on whose alignment the window was checked.
    #[inline]
    fn second_word(self, index: usize) -> &'a AtomicU64 {
        const { assert!(SIZE == 16) };
        let word = self.at(index).wrapping_add(8).cast::<u64>();
        debug_assert!(word.is_aligned());
        // SAFETY: the entry lies in the mapping (`at`), which lives as long as the borrow `'a`; descriptors stand on 16 bytes
        // (checked when the window was made); all other writes to the word in this process are atomic too.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// Reads the second word of a 16-byte entry; what the guest wrote before it is seen by what follows.
    #[inline]
    #[must_use]
    pub fn load_second_acquire(self, index: usize) -> u64 {
        u64::from_le(self.second_word(index).load(Ordering::Acquire))
    }

    /// Writes the second word of a 16-byte entry.
    #[inline]
    pub fn store_second(self, index: usize, value: u64) {
        self.second_word(index).store(value.to_le(), Ordering::Relaxed);
    }

    /// Writes the second word of a 16-byte entry after everything written before.
    #[inline]
    pub fn store_second_release(self, index: usize, value: u64) {
        self.second_word(index).store(value.to_le(), Ordering::Release);
    }

    /// Asks the CPU for an entry that is to be written soon, if there is such an entry.
    #[inline]
    pub fn prefetch_to_write(self, index: usize) {
        if index < self.len {
            prefetch_to_write(self.at(index));
        }
    }

    #[inline]
    fn at(self, index: usize) -> *mut u8 {
        assert!(index < self.len);
        self.ptr.wrapping_add(index * SIZE)
    }
}
