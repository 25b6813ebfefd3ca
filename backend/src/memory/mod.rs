//! Guest memory: the regions a front end shares, translation of guest addresses, and access to the bytes.
//!
//! The only place that turns guest addresses into pointers. A pointer never travels without its validated length, and
//! everything that holds one also holds the [`MemoryTable`] whose mappings it points into.
//!
//! A [`MemoryTable`] never changes. Adding or removing a region makes a new table that shares the mappings of the old.

mod buffers;
mod copy;
mod dirty_log;
mod entries;
mod mapping;
mod prefetch;
mod table;
mod window;

pub use buffers::{Buffers, GuestSlice};
pub use copy::{append_from_guest, copy_from_guest, copy_to_guest, read_twelve, refresh_in_guest, total_len};
pub use dirty_log::{DirtyLog, PAGE_SIZE};
pub use entries::{Entries, View};
pub(crate) use mapping::Mapping;
pub use table::{MemoryTable, RegionInfo};
pub use window::Window;

use prefetch::{prefetch, prefetch_to_write};

#[cfg(test)]
pub(crate) use table::tests::memfd;

/// Why guest memory could not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// An address range that no region holds.
    #[error("guest address {address:#x} + {len:#x} lies outside the memory that the front end shares")]
    Unmapped {
        /// First guest physical address of the range.
        address: u64,
        /// Length of the range in bytes.
        len: u64,
    },
    /// A ring part that does not stand on its alignment (virtio 1.3, 2.7).
    #[error("guest address {address:#x} is not aligned to {align} bytes")]
    Misaligned {
        /// The guest physical address.
        address: u64,
        /// The alignment in bytes that virtio asks for.
        align: usize,
    },
    /// A region of no size, or one that wraps around the address space.
    #[error("memory region {address:#x} + {size:#x} is empty or wraps around")]
    BadRange {
        /// First guest physical address of the region.
        address: u64,
        /// Size of the region in bytes.
        size: u64,
    },
    /// A region that overlaps one that is there already.
    #[error("memory region {address:#x} + {size:#x} overlaps another region")]
    Overlap {
        /// First guest physical address of the region.
        address: u64,
        /// Size of the region in bytes.
        size: u64,
    },
    /// A region or log longer than the file behind it: touching its end would be a SIGBUS.
    #[error("memory region {address:#x} needs {needed:#x} bytes of its file, which has only {file_size:#x}")]
    FileTooShort {
        /// First guest physical address of the region.
        address: u64,
        /// Offset plus size of the region in bytes.
        needed: u64,
        /// Size of the file in bytes.
        file_size: u64,
    },
    /// The file descriptor is not something that guest memory can be mapped from.
    #[error("memory region {address:#x} comes with a file that cannot be examined")]
    Stat {
        /// First guest physical address of the region.
        address: u64,
        /// What fstat said.
        #[source]
        source: std::io::Error,
    },
    /// A region that ends inside a huge page: the kernel maps the whole page and refuses to unmap a part of it.
    #[error("memory region {address:#x} + {size:#x} ends inside one of its huge pages of {page_size:#x} bytes")]
    HugePage {
        /// First guest physical address of the region.
        address: u64,
        /// Size of the region in bytes.
        size: u64,
        /// Size of a page of its file in bytes.
        page_size: u64,
    },
    /// A region whose pages a program hands out.
    #[error(
        "memory region {address:#x} lies in a file of a FUSE file system, whose server could hold up the daemon: use a memfd, tmpfs or huge pages"
    )]
    Fuse {
        /// First guest physical address of the region.
        address: u64,
    },
    /// The file behind a region was cut short while it was in use.
    #[error("the file behind the guest's memory was cut short while it was in use")]
    Poisoned,
    /// A log of dirty pages that is empty or wraps around.
    #[error("a dirty log of {len:#x} bytes at {offset:#x} of its file makes no sense")]
    BadLog {
        /// Where in the file the log starts, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The kernel refused to map a log of dirty pages.
    #[error("a dirty log of {len:#x} bytes at {offset:#x} of its file cannot be mapped")]
    MapLog {
        /// Where in the file the log starts, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// What mmap said.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// The kernel refused the mapping.
    #[error("memory region {address:#x} + {size:#x} cannot be mapped: is the guest's memory shared (share=on)?")]
    Map {
        /// First guest physical address of the region.
        address: u64,
        /// Size of the region in bytes.
        size: u64,
        /// What mmap said.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
}
