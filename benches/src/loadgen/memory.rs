//! Memory shared with the device, and access to it by raw pointers: the one place here with `unsafe`.
//!
//! The device reads and writes at the same time. Indices go through atomics; descriptors and packets are copied in and
//! out whole, and belong to one side at a time by the rules of the ring. Bytes are little-endian.

#![allow(unsafe_code)]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Where the memory starts for the device ("guest physical").
pub const GUEST_BASE: u64 = 0x4000_0000;

const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// A mapped file in memory, from which rings and buffers are cut.
#[derive(Debug)]
pub struct Memory {
    file: File,
    mapping: Arc<Mapping>,
    used: usize,
}

#[derive(Debug)]
struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is shared memory that another process writes anyway; every access goes through a View.
unsafe impl Send for Mapping {}
// SAFETY: see above; a reference to a Mapping gives no access to its bytes.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by Memory::new with this length, and no View is left: each holds the mapping.
        let _ = unsafe { munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

impl Memory {
    /// At least `len` bytes of zeroes, present from the start; on huge pages of 2 MiB if `huge`.
    ///
    /// # Errors
    /// When the kernel has no memory, or no huge pages.
    pub fn new(len: usize, huge: bool) -> Result<Self> {
        let len = len.next_multiple_of(HUGE_PAGE);
        let flags = if huge { MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB } else { MemfdFlags::empty() };
        let file = File::from(memfd_create("loadgen", MemfdFlags::CLOEXEC | flags)?);
        file.set_len(len as u64)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address that the kernel chooses; the file is as long as the mapping.
        let ptr = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, &file, 0) }.with_context(|| {
            let hint = if huge { ": are there huge pages? See /proc/sys/vm/nr_hugepages" } else { "" };
            format!("cannot map {len} bytes{hint}")
        })?;
        let ptr = NonNull::new(ptr.cast()).context("mapped at address 0")?;
        Ok(Self { file, mapping: Arc::new(Mapping { ptr, len }), used: 0 })
    }

    /// The file behind it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.mapping.len as u64
    }

    /// Where it is mapped here; ring addresses are told in this address space.
    pub fn user_address(&self) -> u64 {
        self.mapping.ptr.addr().get() as u64
    }

    /// The memory as `count` stretches, one after another: offset and length of each. All borders lie within a view,
    /// evenly, on page boundaries, so that nothing else is cut in two.
    ///
    /// # Errors
    /// When the view is too short.
    pub fn split(&self, count: usize, within: &View) -> Result<Vec<(u64, u64)>> {
        ensure!(within.len / count.max(1) >= PAGE, "{} bytes cannot be split into {count} stretches", within.len);
        let border = |at: usize| (within.offset + within.len * at / count).next_multiple_of(PAGE);
        let mut borders: Vec<usize> = (1..count).map(border).collect();
        borders.insert(0, 0);
        borders.push(self.mapping.len);
        Ok(borders.windows(2).map(|ends| (ends[0] as u64, (ends[1] - ends[0]) as u64)).collect())
    }

    /// The next `len` unused bytes, on a page boundary.
    ///
    /// # Errors
    /// When the memory is used up.
    pub fn cut(&mut self, len: usize) -> Result<View> {
        let offset = self.used;
        ensure!(len <= self.mapping.len - offset, "the shared memory is used up");
        self.used = (offset + len).next_multiple_of(PAGE).min(self.mapping.len);
        Ok(View { offset, len, mapping: self.mapping.clone() })
    }
}

/// A stretch of shared memory. Access out of its range is a bug here, and panics.
#[derive(Debug)]
pub struct View {
    offset: usize,
    len: usize,
    mapping: Arc<Mapping>,
}

impl View {
    /// Its address as the device knows it.
    #[must_use]
    pub fn guest_address(&self) -> u64 {
        GUEST_BASE + self.offset as u64
    }

    /// Its address in this process.
    #[must_use]
    pub fn user_address(&self) -> u64 {
        self.mapping.ptr.addr().get() as u64 + self.offset as u64
    }

    /// Reads the 16-bit field at `at`.
    #[inline]
    pub fn load_u16(&self, at: usize, order: Ordering) -> u16 {
        u16::from_le(self.atomic_u16(at).load(order))
    }

    /// Writes the 16-bit field at `at`.
    #[inline]
    pub fn store_u16(&self, at: usize, value: u16, order: Ordering) {
        self.atomic_u16(at).store(value.to_le(), order);
    }

    /// Copies `N` bytes out.
    #[inline]
    pub fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read_into(at, &mut bytes);
        bytes
    }

    /// Copies bytes out.
    #[inline]
    pub fn read_into(&self, at: usize, bytes: &mut [u8]) {
        let from = self.pointer(at, bytes.len());
        // SAFETY: `pointer` checked that so many bytes lie in the mapping; private memory does not overlap it.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies bytes in.
    #[inline]
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.pointer(at, bytes.len());
        // SAFETY: `pointer` checked that so many bytes lie in the mapping; private memory does not overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    #[inline]
    fn atomic_u16(&self, at: usize) -> &AtomicU16 {
        let ptr = self.pointer(at, 2).cast::<u16>();
        assert!(ptr.is_aligned(), "offset {at} is odd");
        // SAFETY: two bytes of the mapping, which lives as long as `self`, and aligned; ring indices are accessed by
        // atomics alone.
        unsafe { AtomicU16::from_ptr(ptr) }
    }

    #[inline]
    fn pointer(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.len && len <= self.len - at, "{at} + {len} > {}", self.len);
        self.mapping.ptr.as_ptr().wrapping_add(self.offset + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_in_the_file() {
        use std::os::unix::fs::FileExt;
        let mut memory = Memory::new(1, false).unwrap();
        let (first, second) = (memory.cut(10).unwrap(), memory.cut(PAGE).unwrap());
        first.write(8, &[1, 2]);
        second.store_u16(4, 0x0403, Ordering::Release);
        assert_eq!(second.guest_address() - first.guest_address(), PAGE as u64);
        let mut bytes = [0; PAGE + 6];
        memory.file().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes[8..10], &bytes[PAGE + 4..]), (&[1, 2][..], &[3, 4][..]));
        assert_eq!(second.load_u16(4, Ordering::Acquire), 0x0403);
        assert!(memory.cut(HUGE_PAGE).is_err());
    }

    #[test]
    fn stretches_cover_everything_and_borders_cut_one_view_alone() {
        let mut memory = Memory::new(1, false).unwrap();
        let (_, within, _) = (memory.cut(PAGE).unwrap(), memory.cut(9 * PAGE + 5).unwrap(), memory.cut(PAGE).unwrap());
        assert_eq!(memory.split(1, &within).unwrap(), [(0, memory.size())]);
        let (page, stretches) = (PAGE as u64, memory.split(3, &within).unwrap());
        assert_eq!(stretches[..2], [(0, 5 * page), (5 * page, 3 * page)]);
        assert_eq!(stretches[2], (8 * page, memory.size() - 8 * page));
        assert_eq!(memory.split(9, &within).unwrap().len(), 9);
        assert!(memory.split(10, &within).is_err());
    }

    #[test]
    #[should_panic(expected = "9 + 2 > 10")]
    fn nothing_is_read_beyond_the_end() {
        let _ = Memory::new(1, false).unwrap().cut(10).unwrap().read::<2>(9);
    }
}
