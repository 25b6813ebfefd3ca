//! What drivers of both formats have in common: the guest's memory, descriptors, and the chains under way.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use super::super::{Access, Ring, RingSetup, Taken};
use crate::memory::{Buffers, MemoryTable, RegionInfo, Window, memfd};

pub(super) const BASE: u64 = 0x10_000;
pub(super) const SIZE: u64 = 4 << 20;
pub(super) const DESC: u64 = BASE;
pub(super) const AVAIL: u64 = BASE + 0x8_0000;
pub(super) const USED: u64 = BASE + 0xa_0000;
/// Where packet buffers and indirect tables start.
pub(super) const BUFFERS: u64 = BASE + 0x10_0000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// A buffer: guest address and length.
pub(super) type Part = (u64, u32);

/// What a driver of either format does.
pub(super) trait RingDriver: Send {
    fn guest(&self) -> &Guest;

    fn setup(&self, access: Access, event_idx: bool) -> RingSetup;

    /// Where a device begins.
    fn start(&self) -> u32;

    /// Descriptors that are free: each part of a chain takes one, an indirect table takes one.
    fn free(&self) -> u16;

    /// Offers a chain, in an indirect table if one is named; seen by the device at once. Says what it is called.
    fn add(&mut self, parts: &[Part], flags: u16, table: Option<u64>) -> u16;

    /// The chains that came back since the last time, in order: what they are called and what was written.
    fn reap(&mut self, in_order: bool) -> Vec<(u16, u32)>;

    /// Whether the device wants a kick for the chain that was added last, which has one descriptor.
    fn wants_kick(&self, event_idx: bool) -> bool;

    /// The device's side of this ring.
    fn ring(&self, setup: RingSetup) -> Ring {
        Ring::new(&self.guest().table, setup, self.start()).unwrap()
    }
}

/// A guest's memory.
pub(super) struct Guest {
    pub(super) file: File,
    pub(super) table: Arc<MemoryTable>,
}

impl Guest {
    pub(super) fn new() -> Self {
        let file = memfd(SIZE).unwrap();
        let info = RegionInfo { guest_address: BASE, size: SIZE, user_address: BASE, mmap_offset: 0 };
        let table = MemoryTable::default().with_region(info, file.try_clone().unwrap()).unwrap();
        Self { file, table: Arc::new(table) }
    }

    pub(super) fn window(&self, address: u64, len: usize) -> Window {
        self.table.window(address, len, 1).unwrap()
    }

    pub(super) fn write<const N: usize>(&self, address: u64, bytes: [u8; N]) {
        self.window(address, N).write(0, bytes);
    }

    pub(super) fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        self.window(address, N).read(0)
    }

    pub(super) fn read_u16(&self, address: u64) -> u16 {
        self.window(address, 2).load_u16(0)
    }

    /// Writes a 16-bit field after everything written before.
    pub(super) fn release_u16(&self, address: u64, value: u16) {
        self.window(address, 2).store_u16_release(0, value);
    }

    pub(super) fn fill(&self, (address, len): Part, byte: u8) {
        let window = self.window(address, len as usize);
        (0..len as usize).for_each(|at| window.write(at, [byte]));
    }

    pub(super) fn bytes(&self, (address, len): Part) -> Vec<u8> {
        let window = self.window(address, len as usize);
        (0..len as usize).map(|at| window.read::<1>(at)[0]).collect()
    }

    /// Every slice lies in this memory.
    pub(super) fn assert_holds(&self, taken: &Taken) {
        let mut all = Buffers::new(self.table.clone());
        all.push(BASE, SIZE as u32).unwrap();
        let memory = all.get(0..1)[0].iovec();
        for slice in taken.buffers().get(0..taken.buffers().len()) {
            let offset = slice.iovec().iov_base.addr().wrapping_sub(memory.iov_base.addr());
            assert!(offset < memory.iov_len && slice.len() <= memory.iov_len - offset, "{slice:?} in {memory:?}");
        }
    }
}

/// A descriptor as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desc {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// The next descriptor (split), or the buffer's id (packed).
    pub(super) number: u16,
}

pub(super) fn desc(address: u64, len: u32, flags: u16, number: u16) -> Desc {
    Desc { address, len, flags, number }
}

/// The descriptors of a chain; each has the number of the next, counted from 0.
pub(super) fn descs(parts: &[Part], flags: u16) -> Vec<Desc> {
    let last = parts.len() - 1;
    let one = |(i, (address, len)): (usize, &Part)| Desc {
        address: *address,
        len: *len,
        flags: if i < last { flags | NEXT } else { flags },
        number: i as u16 + 1,
    };
    parts.iter().enumerate().map(one).collect()
}

/// Chains that were offered and have not come back, oldest first: what each is called and how many descriptors it has.
#[derive(Default)]
pub(super) struct UnderWay {
    chains: VecDeque<(u16, u16)>,
    slots: u16,
}

impl UnderWay {
    pub(super) fn add(&mut self, id: u16, slots: u16) {
        self.chains.push_back((id, slots));
        self.slots += slots;
    }

    pub(super) fn slots(&self) -> u16 {
        self.slots
    }

    /// Takes out what the device says with one used element, which with IN_ORDER stands for all chains before it too.
    pub(super) fn give_back(&mut self, id: u16, written: u32, in_order: bool) -> Vec<(u16, u16, u32)> {
        let mut given = Vec::new();
        loop {
            let (oldest, slots) = self.chains.pop_front().unwrap_or_else(|| panic!("{id} was never offered"));
            self.slots -= slots;
            if oldest == id {
                given.push((oldest, slots, written));
                return given;
            }
            assert!(in_order, "{id} came back before {oldest}");
            given.push((oldest, slots, 0));
        }
    }
}
