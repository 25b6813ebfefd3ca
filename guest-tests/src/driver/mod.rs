//! A scripted front end and virtio-net driver in user space: no VM, every order of messages, every broken ring.
//!
//! [`Client`] speaks vhost-user, by the `vhost` crate's `Frontend` or message by message in the raw; [`Queue`] is the
//! driver's side of a ring in memory shared with vnicd, [`split`](SplitRing) or [`packed`](PackedRing); [`frames`] builds
//! and reads what goes through it.

mod bursts;
mod client;
pub mod desc;
pub mod dirty_log;
mod echo;
mod format;
pub mod frames;
pub mod nic;
mod numbered;
mod packed;
mod queue;
pub mod rig;
mod split;
pub mod target;
#[cfg(test)]
mod tests;

pub use bursts::BurstNic;
pub use client::{Client, Reply};
pub use desc::Desc;
pub use dirty_log::DirtyLog;
pub use echo::Echo;
pub use format::{Calls, Kicks, QueueLayout, RingFormat};
pub use nic::{Posting, ScriptedNic};
pub use numbered::{Going, Numbered, NumberedPair};
pub use packed::{AVAIL, PackedRing, USED};
pub use queue::{Queue, is_signalled};
pub use split::SplitRing;

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Where the shared memory starts for the driver ("guest physical").
pub const GUEST_BASE: u64 = 0x1_0000;
/// Where it starts for the front end: different, so that a mix-up is noticed.
pub const USER_BASE: u64 = 0x7000_0000_0000;

/// Memory that a driver shares with its device.
#[derive(Debug)]
pub struct SharedMemory {
    /// The file behind it.
    pub file: File,
    /// The mapping.
    pub map: GuestMemoryMmap,
    /// Its size in bytes.
    pub size: u64,
    next: u64,
}

impl SharedMemory {
    /// `size` bytes of zeroes.
    pub fn new(size: u64) -> Result<Self> {
        let file = File::from(memfd_create("driver", MemfdFlags::CLOEXEC)?);
        file.set_len(size)?;
        let offset = FileOffset::new(file.try_clone()?, 0);
        let map = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(GUEST_BASE), size as usize, Some(offset))])?;
        Ok(Self { file, map, size, next: GUEST_BASE })
    }

    /// Maps `size` bytes more at the guest address `at`, of a file of their own, for the driver; what the device learns
    /// of them is up to the front end.
    pub fn plug(&mut self, at: u64, size: u64) -> Result<File> {
        let file = File::from(memfd_create("plugged", MemfdFlags::CLOEXEC)?);
        file.set_len(size)?;
        let mapping = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), size as usize)?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(at)).context("the address wraps around")?;
        self.map = self.map.insert_region(Arc::new(region))?;
        Ok(file)
    }

    /// Takes these bytes away from the driver.
    pub fn unplug(&mut self, at: u64, size: u64) -> Result<()> {
        self.map = self.map.remove_region(GuestAddress(at), size)?.0;
        Ok(())
    }

    /// The guest address of `len` fresh bytes, aligned to a page.
    ///
    /// # Panics
    /// When the memory is used up: a test asks for what it needs.
    pub fn allocate(&mut self, len: u64) -> u64 {
        let at = self.next;
        self.next += len.next_multiple_of(4096);
        assert!(self.map.address_in_range(GuestAddress(self.next - 1)), "the shared memory is used up");
        at
    }
}
