//! A guest's memory of two adjoining regions and a hole behind, and a log of what the device wrote to it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use vnicd::memory::{Buffers, DirtyLog, MemoryTable, PAGE_SIZE, RegionInfo, Window};
use vnicd::ring::Taken;

/// Guest address of the first byte.
pub const BASE: u64 = 0x1_0000;
/// Bytes of each of the two regions.
pub const REGION: u64 = 0x8000;
/// Bytes of all memory.
pub const SIZE: u64 = 2 * REGION;
const LOG_LEN: u64 = 16;

/// A file in memory.
pub fn memfd(size: u64) -> File {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

/// A guest's memory.
pub struct Guest {
    pub table: Arc<MemoryTable>,
    pub log: Arc<DirtyLog>,
    windows: [Window; 2],
    log_file: File,
    /// Where the regions are mapped, as addresses.
    mapped: [(usize, usize); 2],
}

thread_local! {
    static GUEST: RefCell<Guest> = RefCell::new(Guest::new());
}

impl Guest {
    fn new() -> Self {
        let region = |n: u64| RegionInfo {
            guest_address: BASE + n * REGION,
            size: REGION,
            user_address: BASE + n * REGION,
            mmap_offset: 0,
        };
        let table = MemoryTable::default().with_region(region(0), memfd(REGION)).unwrap();
        let table = Arc::new(table.with_region(region(1), memfd(REGION)).unwrap());
        let windows = [0, 1].map(|n| table.window(BASE + n * REGION, REGION as usize, 1).unwrap());
        let mut all = Buffers::new(table.clone());
        all.push(BASE, SIZE as u32).unwrap();
        let mapped = [0, 1].map(|n| {
            let slice = all.get(n..n + 1)[0];
            (slice.iovec().iov_base.addr(), slice.len())
        });
        let log_file = memfd(LOG_LEN);
        let log = Arc::new(DirtyLog::new(log_file.try_clone().unwrap(), 0, LOG_LEN).unwrap());
        Self { table, log, windows, log_file, mapped }
    }

    /// Calls `f` with the memory of this thread, all zeroes.
    pub fn with(f: impl FnOnce(&Self)) {
        GUEST.with_borrow(|guest| {
            for window in &guest.windows {
                (0..REGION as usize).step_by(4096).for_each(|at| window.write(at, [0; 4096]));
            }
            guest.take_marks();
            f(guest);
        });
    }

    /// Writes as the driver does; what lies outside is dropped.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        for (address, byte) in (address..).zip(bytes) {
            let offset = address.wrapping_sub(BASE);
            if offset < SIZE {
                self.windows[(offset / REGION) as usize].write((offset % REGION) as usize, [*byte]);
            }
        }
    }

    /// All bytes, a page each.
    pub fn snapshot(&self) -> Vec<[u8; PAGE_SIZE as usize]> {
        let pages = (0..REGION).step_by(PAGE_SIZE as usize);
        self.windows.iter().flat_map(|window| pages.clone().map(|at| window.read(at as usize))).collect()
    }

    /// The pages that differ from what they were.
    pub fn changed(&self, before: &[[u8; PAGE_SIZE as usize]]) -> BTreeSet<u64> {
        let pages = (BASE / PAGE_SIZE..).zip(before.iter().zip(self.snapshot()));
        pages.filter(|(_, (before, after))| **before != *after).map(|(page, _)| page).collect()
    }

    /// The pages that are marked; marks none any more.
    pub fn take_marks(&self) -> BTreeSet<u64> {
        let mut bytes = [0; LOG_LEN as usize];
        self.log_file.read_exact_at(&mut bytes, 0).unwrap();
        self.log_file.write_all_at(&[0; LOG_LEN as usize], 0).unwrap();
        (0..LOG_LEN * 8).filter(|page| bytes[*page as usize / 8] & 1 << (page % 8) != 0).collect()
    }

    /// Every slice lies in one of the regions.
    pub fn assert_holds(&self, taken: &Taken) {
        for slice in taken.buffers().get(0..taken.buffers().len()) {
            let at = slice.iovec().iov_base.addr();
            let inside = |&(start, len): &(usize, usize)| {
                at.checked_sub(start).is_some_and(|offset| offset < len && slice.len() <= len - offset)
            };
            assert!(self.mapped.iter().any(inside), "{slice:?} lies outside guest memory");
        }
    }
}
