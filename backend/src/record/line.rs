//! A line of a record: eight words in mapped memory, each read and written whole.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::RINGS;
use crate::memory::Mapping;

/// Words of a line: a cache line, so that no two workers write to the same one.
pub(super) const WORDS: usize = 8;

/// A line. Keeps the mapping alive.
#[derive(Clone, Debug)]
pub(super) struct Line {
    words: *const [AtomicU64; WORDS],
    _mapping: Arc<Mapping>,
}

// SAFETY: `words` points into a mapping that `_mapping` keeps, and all access to it is atomic; nothing in the type is bound
// to one thread.
unsafe impl Send for Line {}

// SAFETY: as above.
unsafe impl Sync for Line {}

impl Line {
    /// Line number `index` of a mapping of [`LEN`](super::LEN) bytes, which starts on a page; none beyond its end.
    pub(super) fn new(mapping: Arc<Mapping>, index: usize) -> Option<Self> {
        if index >= RINGS {
            return None;
        }
        let words = mapping.as_ptr().cast::<[AtomicU64; WORDS]>().wrapping_add(index).cast_const();
        Some(Self { words, _mapping: mapping })
    }

    /// Reads a word.
    pub(super) fn load(&self, at: usize) -> u64 {
        self.words()[at].load(Ordering::Acquire)
    }

    /// Writes a word, after everything written before.
    #[inline]
    pub(super) fn store(&self, at: usize, word: u64) {
        self.words()[at].store(word, Ordering::Release);
    }

    #[inline]
    fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: the line lies in the mapping, which starts on a page and is long enough for all lines (`new`), lives as
        // long as `self`, and is accessed by atomics alone in this process; another daemon has it never at the same time
        // (the file is locked), and zeroes in its place, should it be cut short, are words too.
        unsafe { &*self.words }
    }
}
