//! The log of guest pages that the device wrote, as a front end shares and reads it for a live migration (vhost-user,
//! "Migration").

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::Client;

/// Bytes of guest memory that a bit stands for.
pub const PAGE: u64 = 4096;
/// `VHOST_F_LOG_ALL`.
pub const LOG_ALL: u64 = 1 << 26;
const SET_LOG_BASE: u32 = 6;
const VERSION: u32 = 1;

/// A log of dirty pages.
#[derive(Debug)]
pub struct DirtyLog {
    file: File,
    map: MmapRegion,
    offset: u64,
}

impl DirtyLog {
    /// For guest memory up to `end`, at `offset` of a file of its own.
    pub fn new(end: u64, offset: u64) -> Result<Self> {
        let size = end.div_ceil(PAGE).div_ceil(8).next_multiple_of(PAGE);
        let file = File::from(memfd_create("dirty-log", MemfdFlags::CLOEXEC)?);
        file.set_len(offset + size)?;
        let map = MmapRegion::from_file(FileOffset::new(file.try_clone()?, offset), size as usize)?;
        Ok(Self { file, map, offset })
    }

    /// Shares it. The answer comes whether it is asked for or not; its body is nobody's.
    pub fn share(&self, client: &Client) -> Result<()> {
        let body = [(self.map.size() as u64).to_le_bytes(), self.offset.to_le_bytes()].concat();
        client.send(SET_LOG_BASE, VERSION, &body, &[self.file.as_fd()])?;
        let reply = client.reply()?.context("the connection was closed")?;
        ensure!(reply.request == SET_LOG_BASE, "{reply:?}");
        Ok(())
    }

    /// Takes the file's bytes away; the log must not be read any more.
    pub fn cut(&self) -> Result<()> {
        Ok(self.file.set_len(0)?)
    }

    /// Guest addresses of the pages that are marked; they are no longer.
    pub fn take(&self) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        for word in 0..self.map.size() / 8 {
            let bits: &AtomicU64 = self.map.get_atomic_ref(word * 8).expect("the word lies in the map");
            // What is copied after this, has what was written before the bit was set.
            let bits = u64::from_le(bits.swap(0, Ordering::AcqRel));
            let set = (0..64).filter(|bit| bits & (1 << bit) != 0);
            pages.extend(set.map(|bit| (word as u64 * 64 + bit) * PAGE));
        }
        pages
    }
}
