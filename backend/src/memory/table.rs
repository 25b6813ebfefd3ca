//! The table of guest memory regions, and translation by it.

use std::fs::File;
use std::sync::Arc;

use super::mapping::{self, Mapping};
use super::{Entries, MemoryError, Window};

/// A region as the front end describes it (vhost-user, "Memory region description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// First guest physical address.
    pub guest_address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Where the front end itself has the region mapped; ring addresses come in this address space.
    pub user_address: u64,
    /// Where in the file the region starts, in bytes.
    pub mmap_offset: u64,
}

#[derive(Clone, Debug)]
struct Region {
    info: RegionInfo,
    mapping: Arc<Mapping>,
}

/// All regions of a guest, sorted by guest address, mapped as long as the table lives.
#[derive(Clone, Debug, Default)]
pub struct MemoryTable {
    regions: Vec<Region>,
}

impl MemoryTable {
    /// This table with one region more, mapped from `file`.
    ///
    /// # Errors
    /// When the region is empty, wraps, overlaps another, is longer than its file, or cannot be mapped.
    pub fn with_region(&self, info: RegionInfo, file: File) -> Result<Self, MemoryError> {
        let RegionInfo { guest_address: address, size, .. } = info;
        let guest_end = address.checked_add(size);
        let user_end = info.user_address.checked_add(size);
        let file_end = info.mmap_offset.checked_add(size);
        let (Some(guest_end), Some(_), Some(file_end), true) = (guest_end, user_end, file_end, size > 0) else {
            return Err(MemoryError::BadRange { address, size });
        };
        if self.regions.iter().any(|r| address < r.guest_end() && r.info.guest_address < guest_end) {
            return Err(MemoryError::Overlap { address, size });
        }
        check_file_size(&file, address, file_end)?;
        check_not_fuse(&file, address)?;
        check_huge_pages(&file, address, size)?;

        let len = usize::try_from(size).map_err(|_| MemoryError::BadRange { address, size })?;
        let mapping = Mapping::of_file(file, info.mmap_offset, len).map_err(|source| MemoryError::Map {
            address,
            size,
            source,
        })?;
        let mut regions = self.regions.clone();
        let at = regions.partition_point(|r| r.info.guest_address < address);
        regions.insert(at, Region { info, mapping: Arc::new(mapping) });
        Ok(Self { regions })
    }

    /// This table without the region that starts at `guest_address`; `None` if there is none of that size.
    #[must_use]
    pub fn without_region(&self, guest_address: u64, size: u64) -> Option<Self> {
        let at = self.regions.iter().position(|r| r.info.guest_address == guest_address && r.info.size == size)?;
        let mut regions = self.regions.clone();
        regions.remove(at);
        Some(Self { regions })
    }

    /// Whether exactly this region is in the table.
    #[must_use]
    pub fn contains(&self, info: &RegionInfo) -> bool {
        self.regions.iter().any(|r| r.info == *info)
    }

    /// Number of regions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether no memory is shared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Size of all regions together, in bytes.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.regions.iter().map(|r| r.info.size).sum()
    }

    /// The guest address of an address in the front end's own address space.
    #[must_use]
    pub fn guest_address(&self, user_address: u64) -> Option<u64> {
        self.regions.iter().find_map(|r| {
            let offset = user_address.checked_sub(r.info.user_address)?;
            (offset < r.info.size).then(|| r.info.guest_address + offset)
        })
    }

    /// The NUMA node of the page at `guest_address`, which is paged in if it was not. None where there is no memory, or the
    /// kernel does not tell.
    #[must_use]
    pub fn node_of(&self, guest_address: u64) -> Option<usize> {
        let at = self.regions.partition_point(|r| r.info.guest_address <= guest_address).checked_sub(1)?;
        let region = &self.regions[at];
        let offset = guest_address - region.info.guest_address;
        (offset < region.info.size).then(|| region.mapping.node_at(offset as usize)).flatten()
    }

    /// Whether the file behind a region was found cut short: what was read from the memory since may be zeroes.
    #[inline]
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        mapping::any_poisoned() && self.regions.iter().any(|r| r.mapping.is_poisoned())
    }

    /// A view of `len` bytes at `guest_address` that keeps the table alive.
    ///
    /// # Errors
    /// When the range is not inside one region, or not aligned to `align` bytes.
    pub fn window(self: &Arc<Self>, guest_address: u64, len: usize, align: usize) -> Result<Window, MemoryError> {
        if self.is_poisoned() {
            return Err(MemoryError::Poisoned);
        }
        let unmapped = MemoryError::Unmapped { address: guest_address, len: len as u64 };
        match self.resolve(guest_address, len) {
            Some((ptr, got)) if got == len => Window::new(self.clone(), ptr, len, align)
                .ok_or(MemoryError::Misaligned { address: guest_address, align }),
            _ => Err(unmapped),
        }
    }

    /// A view of an array of `len` entries of `SIZE` bytes at `guest_address` that keeps the table alive.
    ///
    /// # Errors
    /// As [`MemoryTable::window`].
    pub fn entries<const SIZE: usize>(
        self: &Arc<Self>,
        guest_address: u64,
        len: usize,
        align: usize,
    ) -> Result<Entries<SIZE>, MemoryError> {
        self.window(guest_address, len * SIZE, align).map(Entries::new)
    }

    /// The region that holds `guest_address`: its first guest address, its size and where it is mapped.
    pub(super) fn region_of(&self, guest_address: u64) -> Option<(u64, u64, *mut u8)> {
        let at = self.regions.partition_point(|r| r.info.guest_address <= guest_address).checked_sub(1)?;
        let region = &self.regions[at];
        (guest_address < region.guest_end())
            .then(|| (region.info.guest_address, region.info.size, region.mapping.as_ptr()))
    }

    /// The guest address of a byte at `ptr` in one of the mappings.
    pub(super) fn guest_address_of(&self, ptr: *const u8) -> Option<u64> {
        self.regions.iter().find_map(|r| {
            let offset = ptr.addr().checked_sub(r.mapping.as_ptr().addr())? as u64;
            (offset < r.info.size).then(|| r.info.guest_address + offset)
        })
    }

    /// Where `guest_address` is mapped, and how many of the `len` bytes from there lie in the same region.
    pub(super) fn resolve(&self, guest_address: u64, len: usize) -> Option<(*mut u8, usize)> {
        let at = self.regions.partition_point(|r| r.info.guest_address <= guest_address).checked_sub(1)?;
        let region = &self.regions[at];
        let offset = guest_address - region.info.guest_address;
        let left = usize::try_from(region.info.size.checked_sub(offset)?).ok()?;
        if left == 0 {
            return None;
        }
        // The mapping is `size` bytes long and offset < size, so the pointer stays inside it.
        let ptr = region.mapping.as_ptr().wrapping_add(offset as usize);
        Some((ptr, left.min(len)))
    }
}

impl Region {
    fn guest_end(&self) -> u64 {
        self.info.guest_address + self.info.size
    }
}

/// Refuses a region longer than its file. Files without a size of their own (device DAX) are let through.
pub(super) fn check_file_size(file: &File, address: u64, needed: u64) -> Result<(), MemoryError> {
    let metadata = file.metadata().map_err(|source| MemoryError::Stat { address, source })?;
    let file_size = metadata.len();
    if metadata.is_file() && file_size < needed {
        return Err(MemoryError::FileTooShort { address, needed, file_size });
    }
    Ok(())
}

/// Refuses a file whose pages come from a program when they are touched, which may let a worker wait for ever.
pub(super) fn check_not_fuse(file: &File, address: u64) -> Result<(), MemoryError> {
    if !cfg!(miri) && file_system(file, address)?.f_type == libc::FUSE_SUPER_MAGIC {
        return Err(MemoryError::Fuse { address });
    }
    Ok(())
}

fn file_system(file: &File, address: u64) -> Result<rustix::fs::StatFs, MemoryError> {
    rustix::fs::fstatfs(file).map_err(|e| MemoryError::Stat { address, source: std::io::Error::from(e) })
}

/// Refuses a region that could not be unmapped again (munmap(2), "Notes": hugetlb lengths are whole pages).
fn check_huge_pages(file: &File, address: u64, size: u64) -> Result<(), MemoryError> {
    if cfg!(miri) {
        return Ok(());
    }
    let stat = file_system(file, address)?;
    let page_size = u64::try_from(stat.f_bsize).unwrap_or(0);
    if stat.f_type == libc::HUGETLBFS_MAGIC && page_size > 0 && !size.is_multiple_of(page_size) {
        return Err(MemoryError::HugePage { address, size, page_size });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;

    use super::*;

    /// A file in memory of `size` bytes.
    pub(crate) fn memfd(size: u64) -> io::Result<File> {
        let file = if cfg!(miri) {
            tempfile::tempfile()?
        } else {
            File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC)?)
        };
        file.set_len(size)?;
        Ok(file)
    }

    /// A table of one region at `guest_address`.
    pub(crate) fn table(guest_address: u64, size: u64) -> MemoryTable {
        let info = RegionInfo { guest_address, size, user_address: guest_address, mmap_offset: 0 };
        MemoryTable::default().with_region(info, memfd(size).unwrap()).unwrap()
    }

    #[test]
    fn region_longer_than_its_file_is_refused() {
        let info = RegionInfo { guest_address: 0, size: 0x3000, user_address: 0, mmap_offset: 0x1000 };
        let error = MemoryTable::default().with_region(info, memfd(0x3000).unwrap()).unwrap_err();
        assert!(matches!(error, MemoryError::FileTooShort { needed: 0x4000, file_size: 0x3000, .. }), "{error}");
    }

    #[test]
    fn empty_wrapping_and_overlapping_regions_are_refused() {
        let table = table(0x10_000, 0x10_000);
        let try_add = |guest_address, size, mmap_offset| {
            let info = RegionInfo { guest_address, size, user_address: 0, mmap_offset };
            table.with_region(info, memfd(0x10_000).unwrap())
        };
        assert!(matches!(try_add(0, 0, 0), Err(MemoryError::BadRange { .. })));
        assert!(matches!(try_add(u64::MAX - 0xfff, 0x2000, 0), Err(MemoryError::BadRange { .. })));
        assert!(matches!(try_add(0, 0x2000, u64::MAX - 0xfff), Err(MemoryError::BadRange { .. })));
        assert!(matches!(try_add(0xf000, 0x1001, 0), Err(MemoryError::Overlap { .. })));
        assert!(matches!(try_add(0x1f_fff, 0x1000, 0), Err(MemoryError::Overlap { .. })));
        assert!(try_add(0xf000, 0x1000, 0).is_ok());
    }

    #[test]
    fn a_removed_region_resolves_no_more_but_old_windows_live_on() {
        let table = Arc::new(table(0x10_000, 0x10_000));
        let window = table.window(0x10_000, 16, 16).unwrap();
        window.store_u16(4, 0xbeef);
        let without = Arc::new(table.without_region(0x10_000, 0x10_000).unwrap());
        drop(table);
        assert!(without.window(0x10_000, 16, 16).is_err());
        assert_eq!(window.load_u16(4), 0xbeef);
    }

    #[test]
    fn windows_stay_inside_one_region_and_on_their_alignment() {
        let table = Arc::new(table(0x10_000, 0x1000));
        assert!(table.window(0x10_ff0, 16, 16).is_ok());
        assert!(table.window(0x10_ff1, 16, 1).is_err());
        assert!(table.window(0xffff, 1, 1).is_err());
        assert!(matches!(table.window(0x10_002, 16, 4), Err(MemoryError::Misaligned { .. })));
    }

    #[test]
    fn front_end_addresses_translate() {
        let info = RegionInfo { guest_address: 0x1000, size: 0x1000, user_address: 0x7f00_0000_0000, mmap_offset: 0 };
        let table = MemoryTable::default().with_region(info, memfd(0x1000).unwrap()).unwrap();
        assert_eq!(table.guest_address(0x7f00_0000_0010), Some(0x1010));
        assert_eq!(table.guest_address(0x7f00_0000_1000), None);
        assert_eq!(table.guest_address(0x10), None);
    }
}
