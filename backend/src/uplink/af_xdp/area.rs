//! Memory that is mapped for an AF_XDP socket: packet memory, and the rings that the kernel shares.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// How memory of our own is mapped: there from the start.
const MEMORY: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;

/// A mapping, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Area {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is bound to no thread; whoever takes pointers from it answers for what is done with them.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// Memory of `len` bytes, zeroed, in huge pages of 2 MiB if there are enough; says whether there were.
    pub(super) fn of_memory(len: usize) -> io::Result<(Self, bool)> {
        match Self::map(len, MEMORY | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB, None) {
            Ok(area) => Ok((area, true)),
            Err(_) => Self::of_small_pages(len).map(|area| (area, false)),
        }
    }

    pub(super) fn of_small_pages(len: usize) -> io::Result<Self> {
        Self::map(len, MEMORY, None)
    }

    /// The first `len` bytes of the ring that `socket` has at `offset`.
    pub(super) fn of_ring(socket: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, Some((socket, offset)))
    }

    fn map(len: usize, flags: libc::c_int, file: Option<(BorrowedFd<'_>, u64)>) -> io::Result<Self> {
        let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset));
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel picks a place where nothing is.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset as libc::off_t) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Where it starts. Valid for reads and writes of [`Area::len`] bytes while the area lives.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and whoever has a pointer into it keeps the value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
