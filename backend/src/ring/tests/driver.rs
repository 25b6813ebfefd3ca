//! A small split-ring driver (virtio 1.3, 2.7.13) over shared memory, able to break every rule.

use std::fs::File;
use std::sync::Arc;

use super::super::{Access, RingSetup};
use crate::memory::{MemoryTable, RegionInfo, memfd};

pub(super) const BASE: u64 = 0x10_000;
pub(super) const SIZE: u64 = 4 << 20;
const DESC: u64 = BASE;
const AVAIL: u64 = BASE + 0x8_0000;
const USED: u64 = BASE + 0xa_0000;
/// Where packet buffers and indirect tables start.
pub(super) const BUFFERS: u64 = BASE + 0x10_0000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// A descriptor as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desc {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

pub(super) struct Driver {
    pub(super) file: File,
    pub(super) table: Arc<MemoryTable>,
    pub(super) size: u16,
    pub(super) avail_idx: u16,
    next_desc: u16,
}

impl Driver {
    /// A ring of `size` whose indices stand at `start`.
    pub(super) fn new(size: u16, start: u16) -> Self {
        let file = memfd(SIZE).unwrap();
        let info = RegionInfo { guest_address: BASE, size: SIZE, user_address: BASE, mmap_offset: 0 };
        let table = MemoryTable::default().with_region(info, file.try_clone().unwrap()).unwrap();
        let mut driver = Self { file, table: Arc::new(table), size, avail_idx: start, next_desc: 0 };
        driver.write(USED + 2, start.to_le_bytes());
        driver.publish();
        driver
    }

    pub(super) fn setup(&self, access: Access, event_idx: bool) -> RingSetup {
        RingSetup {
            size: self.size,
            desc: DESC,
            avail: AVAIL,
            used: USED,
            packed: false,
            in_order: false,
            event_idx,
            indirect: true,
            access,
            min_chain_len: 0,
        }
    }

    pub(super) fn write<const N: usize>(&self, address: u64, bytes: [u8; N]) {
        self.table.window(address, N, 1).unwrap().write(0, bytes);
    }

    pub(super) fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        self.table.window(address, N, 1).unwrap().read(0)
    }

    fn read_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }

    /// Writes a descriptor into the table at `table`.
    pub(super) fn desc_at(&self, table: u64, index: u16, desc: Desc) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.next.to_le_bytes());
        self.write(table + u64::from(index) * 16, bytes);
    }

    pub(super) fn desc(&self, index: u16, desc: Desc) {
        self.desc_at(DESC, index, desc);
    }

    /// Adds a chain of `parts` to the descriptor table, from the next free descriptors on; its head.
    pub(super) fn chain(&mut self, parts: &[(u64, u32)], flags: u16) -> u16 {
        let head = self.next_desc;
        for (i, (address, len)) in parts.iter().enumerate() {
            let next = (self.next_desc + 1) % self.size;
            let more = if i + 1 < parts.len() { NEXT } else { 0 };
            self.desc(self.next_desc, Desc { address: *address, len: *len, flags: flags | more, next });
            self.next_desc = next;
        }
        head
    }

    /// Adds a chain whose descriptors stand in an indirect table at `table`; its head.
    pub(super) fn indirect_chain(&mut self, table: u64, parts: &[(u64, u32)], flags: u16) -> u16 {
        for (i, (address, len)) in parts.iter().enumerate() {
            let more = if i + 1 < parts.len() { NEXT } else { 0 };
            let desc = Desc { address: *address, len: *len, flags: flags | more, next: i as u16 + 1 };
            self.desc_at(table, i as u16, desc);
        }
        let head = self.next_desc;
        self.next_desc = (self.next_desc + 1) % self.size;
        self.desc(head, Desc { address: table, len: parts.len() as u32 * 16, flags: INDIRECT, next: 0 });
        head
    }

    /// Offers the chain at `head`; seen by the device after [`Driver::publish`].
    pub(super) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        self.write(AVAIL + 4 + slot * 2, head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    pub(super) fn publish(&mut self) {
        self.write(AVAIL + 2, self.avail_idx.to_le_bytes());
    }

    pub(super) fn used_idx(&self) -> u16 {
        self.read_u16(USED + 2)
    }

    pub(super) fn used_flags(&self) -> u16 {
        self.read_u16(USED)
    }

    /// The used element that index `idx` stands for: head and length.
    pub(super) fn used(&self, idx: u16) -> (u32, u32) {
        let at = USED + 4 + u64::from(idx % self.size) * 8;
        (u32::from_le_bytes(self.read(at)), u32::from_le_bytes(self.read(at + 4)))
    }

    pub(super) fn avail_event(&self) -> u16 {
        self.read_u16(USED + 4 + u64::from(self.size) * 8)
    }

    pub(super) fn set_avail_flags(&self, flags: u16) {
        self.write(AVAIL, flags.to_le_bytes());
    }

    pub(super) fn set_used_event(&self, event: u16) {
        self.write(AVAIL + 4 + u64::from(self.size) * 2, event.to_le_bytes());
    }
}
