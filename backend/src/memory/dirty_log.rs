//! The log of guest pages that the device wrote, for a live migration (vhost-user, "Migration").
//!
//! One bit a page of [`PAGE_SIZE`] bytes, in memory shared with the front end, which clears bits while it copies pages. A
//! bit is therefore set after the bytes of its page are written, by an atomic OR, and never skipped because it seems to
//! be set already: the front end may be about to clear it for a copy that lacks these bytes.

#![allow(unsafe_code)]

use std::fs::File;
use std::sync::atomic::{AtomicU8, Ordering};

use super::MemoryError;
use super::mapping::Mapping;
use super::table::{check_file_size, check_not_fuse};

/// Bytes of guest memory that a bit stands for (vhost-user, `VHOST_LOG_PAGE`).
pub const PAGE_SIZE: u64 = 4096;

/// A log of dirty pages, shared with a front end.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
    len: u64,
}

impl DirtyLog {
    /// Maps the `len` bytes at `offset` of `file`.
    ///
    /// # Errors
    /// When the range is empty, wraps around, is longer than the file or cannot be mapped.
    pub fn new(file: File, offset: u64, len: u64) -> Result<Self, MemoryError> {
        let bad = MemoryError::BadLog { offset, len };
        let (Some(end), true) = (offset.checked_add(len), len > 0) else { return Err(bad) };
        check_file_size(&file, offset, end)?;
        check_not_fuse(&file, offset)?;
        let Ok(size) = usize::try_from(len) else { return Err(bad) };
        let mapping =
            Mapping::of_file(file, offset, size).map_err(|source| MemoryError::MapLog { offset, len, source })?;
        Ok(Self { mapping, len })
    }

    /// Whether the log has a bit for every page up to guest address `end`.
    #[must_use]
    pub fn covers(&self, end: u64) -> bool {
        end.div_ceil(PAGE_SIZE).div_ceil(8) <= self.len
    }

    /// Marks the pages of `len` bytes at guest address `address`, after they were written. Pages beyond the end of the
    /// log have no bit.
    pub fn mark(&self, address: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = address.saturating_add(len - 1) / PAGE_SIZE;
        for page in address / PAGE_SIZE..=last {
            let at = page / 8;
            if at >= self.len {
                break;
            }
            let byte = self.mapping.as_ptr().wrapping_add(at as usize);
            // SAFETY: the byte is inside the mapping, which is `len` bytes long and lives as long as `self`; bytes have
            // no alignment, and everybody writes to them atomically.
            let byte = unsafe { AtomicU8::from_ptr(byte) };
            // Release: the bytes of the page are written before its bit is seen.
            byte.fetch_or(1 << (page % 8), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::memory::memfd;

    #[test]
    #[cfg_attr(miri, ignore = "the log is read from its file, which Miri does not map")]
    fn the_pages_of_a_range_are_marked_and_no_others() {
        let file = memfd(8192).unwrap();
        let log = DirtyLog::new(file.try_clone().unwrap(), 4096, 16).unwrap();
        log.mark(0, 0);
        log.mark(4095, 1);
        log.mark(7 * 4096 + 4095, 2);
        log.mark(20 * 4096, 4096);
        log.mark(16 * 8 * 4096 - 1, 2);
        log.mark(u64::MAX, 5);
        let mut bytes = [0; 18];
        file.read_exact_at(&mut bytes, 4096 - 1).unwrap();
        assert_eq!(bytes, [0, 0x81, 1, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0]);
        assert!(log.covers(16 * 8 * 4096) && !log.covers(16 * 8 * 4096 + 1));
    }

    #[test]
    fn ranges_that_the_file_does_not_have_are_refused() {
        let log = |offset, len| DirtyLog::new(memfd(8192).unwrap(), offset, len);
        assert!(matches!(log(0, 0), Err(MemoryError::BadLog { .. })));
        assert!(matches!(log(u64::MAX, 2), Err(MemoryError::BadLog { .. })));
        assert!(matches!(log(4096, u64::MAX - 4095), Err(MemoryError::BadLog { .. })));
        assert!(matches!(log(4096, 4097), Err(MemoryError::FileTooShort { .. })));
        assert!(matches!(log(0, u64::MAX), Err(MemoryError::FileTooShort { .. })));
        assert!(log(4096, 4096).is_ok());
    }
}
