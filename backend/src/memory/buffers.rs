//! Packet buffers in guest memory: lists of slices that the kernel can read from and write to directly.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::{DirtyLog, MemoryError, MemoryTable, prefetch, prefetch_to_write};

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Bytes of a buffer that a virtio-net header takes, mostly (virtio 1.3, 5.1.6).
const HEADER_LEN: usize = 12;

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

    /// The first `n` bytes of the slice (at most all).
    #[inline]
    #[must_use]
    pub fn first(self, n: usize) -> Self {
        let iovec = libc::iovec { iov_base: self.iovec.iov_base, iov_len: self.iovec.iov_len.min(n) };
        Self { iovec, table: PhantomData }
    }

    /// Asks the CPU for the first lines of a packet that is to be copied from behind its header. They are taken whole: one
    /// that is read only stays with two CPUs, and the next that writes to it waits for the other, which is this one when
    /// the driver receives into the same buffer.
    #[inline]
    pub fn prefetch_packet(&self) {
        for at in [HEADER_LEN, CACHE_LINE] {
            if at < self.iovec.iov_len {
                prefetch_to_write(self.iovec.iov_base.wrapping_byte_add(at).cast::<u8>());
            }
        }
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

    /// The region of `address`.
    #[inline(never)]
    fn of(table: &MemoryTable, address: u64) -> Self {
        table.region_of(address).map_or(Self::NONE, |(guest_address, len, ptr)| Self { guest_address, len, ptr })
    }

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

    /// Adds up to `max` buffers that `next` tells by number: a guest address and a length of at least one byte. Ends when
    /// `next` has no more, when they have `max_bytes` together, or at one that does not lie in one region. Asks the CPU
    /// for the start of each, to be written if `to_write`. Says how many were added and their bytes.
    #[inline]
    pub fn push_near(
        &mut self,
        max: usize,
        max_bytes: usize,
        to_write: bool,
        mut next: impl FnMut(usize) -> Option<(u64, u32)>,
    ) -> (usize, usize) {
        let before = self.slices.len();
        self.slices.resize(before + max, libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 });
        let mut hint = self.hint;
        let (mut added, mut bytes) = (0, 0);
        for slice in &mut self.slices[before..] {
            let Some((address, len)) = next(added) else { break };
            let len = len as usize;
            let ptr = match hint.resolve(address, len) {
                Some(ptr) => ptr,
                None => {
                    hint = Hint::of(&self.table, address);
                    let Some(ptr) = hint.resolve(address, len) else { break };
                    ptr
                }
            };
            if to_write {
                // The header's line, which need not change if the packet starts in the next.
                prefetch_to_write(ptr.wrapping_add(HEADER_LEN));
                prefetch_to_write(ptr.wrapping_add(CACHE_LINE));
                prefetch(ptr);
            } else {
                prefetch(ptr);
            }
            *slice = libc::iovec { iov_base: ptr.cast(), iov_len: len };
            added += 1;
            bytes += len;
            if bytes >= max_bytes {
                break;
            }
        }
        self.hint = hint;
        self.slices.truncate(before + added);
        (added, bytes)
    }

    /// Adds `len` bytes of guest memory at `address`; a range over adjoining regions becomes several slices, an empty one
    /// none.
    ///
    /// # Errors
    /// When a part of the range is in no region. What was added before it stays: see [`Buffers::truncate`].
    pub fn push(&mut self, address: u64, len: u32) -> Result<(), MemoryError> {
        if let Some(ptr) = self.hint.resolve(address, len as usize).filter(|_| len > 0) {
            self.slices.push(libc::iovec { iov_base: ptr.cast(), iov_len: len as usize });
            return Ok(());
        }
        self.push_by_table(address, len as usize)
    }

    #[cold]
    fn push_by_table(&mut self, mut address: u64, mut len: usize) -> Result<(), MemoryError> {
        self.hint = Hint::of(&self.table, address);
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

    /// Marks the first `len` bytes of the slices in `range` as written by the device.
    pub fn mark(&self, range: Range<usize>, mut len: usize, log: &DirtyLog) {
        for slice in &self.slices[range] {
            if len == 0 {
                break;
            }
            let n = slice.iov_len.min(len);
            if let Some(address) = self.table.guest_address_of(slice.iov_base.cast()) {
                log.mark(address, n as u64);
            }
            len -= n;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::table::tests::{memfd, table};
    use crate::memory::{RegionInfo, append_from_guest, copy_from_guest, copy_to_guest, refresh_in_guest};

    #[test]
    fn a_buffer_over_adjoining_regions_becomes_two_slices() {
        let info = RegionInfo { guest_address: 0x2000, size: 0x1000, user_address: 0x9000, mmap_offset: 0 };
        let table = table(0x1000, 0x1000).with_region(info, memfd(0x1000).unwrap()).unwrap();
        let mut buffers = Buffers::new(Arc::new(table));
        buffers.push(0x1ff0, 0x20).unwrap();
        assert_eq!(buffers.get(0..2).iter().map(GuestSlice::len).collect::<Vec<_>>(), [0x10, 0x10]);

        let sent: Vec<u8> = (0..0x20).collect();
        assert_eq!(copy_to_guest(&sent, buffers.get(0..2), 0), 0x20);
        let mut got = [0; 0x20];
        assert_eq!(copy_from_guest(buffers.get(0..2), 0, &mut got), 0x20);
        assert_eq!(got[..], sent[..]);
        assert_eq!(copy_from_guest(buffers.get(0..2), 0x14, &mut got), 0xc);
        assert_eq!(got[..0xc], sent[0x14..]);
        let mut appended = vec![9];
        assert_eq!(append_from_guest(buffers.get(0..2), 8, 0x10, &mut appended), 0x10);
        assert_eq!(append_from_guest(buffers.get(0..2), 0x1f, 0x10, &mut appended), 1);
        assert_eq!((appended[0], &appended[1..0x11], appended[0x11]), (9, &sent[8..0x18], 0x1f));
        assert_eq!(copy_to_guest(&[7; 4], buffers.get(0..2), 0xe), 4);
        copy_from_guest(buffers.get(0..2), 0xd, &mut got[..6]);
        assert_eq!(got[..6], [0xd, 7, 7, 7, 7, 0x12]);
    }

    #[test]
    fn a_header_is_there_whatever_stood_there_before() {
        let mut buffers = Buffers::new(Arc::new(table(0x1000, 0x1000)));
        for (address, len) in [(0x1100, 64), (0x1200, 5), (0x1300, 64)] {
            buffers.push(address, len).unwrap();
        }
        let header = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        for slices in [buffers.get(0..1), buffers.get(1..3)] {
            for len in [10, 12] {
                for other in 0..=len {
                    // Byte number `other` differs; none does, the last time.
                    let mut before = [0xa5; 16];
                    before[..len].copy_from_slice(&header[..len]);
                    before[other] = 0xa5;
                    copy_to_guest(&before, slices, 0);
                    refresh_in_guest(&header[..len], slices);
                    let mut after = [0; 16];
                    copy_from_guest(slices, 0, &mut after);
                    assert_eq!((&after[..len], after[len]), (&header[..len], 0xa5), "{len} bytes, byte {other}");
                }
            }
        }
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
