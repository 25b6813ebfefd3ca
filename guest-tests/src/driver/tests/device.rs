//! The device's side of a ring, as simple as virtio 1.3, 2.7 and 2.8 have it.

use vm_memory::{Bytes, GuestAddress};

use super::super::*;

/// What a device needs to know of a ring.
pub(super) struct Device {
    memory: GuestMemoryMmap,
    layout: QueueLayout,
    size: u16,
    packed: bool,
    /// Next to take and next to use; of a packed ring, with the wrap counters.
    avail: (u16, bool),
    pub(super) used: (u16, bool),
}

/// A chain of the driver's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) id: u16,
    pub(super) buffers: Vec<(u64, u32, bool)>,
    pub(super) descs: u16,
}

impl Device {
    pub(super) fn new(memory: &SharedMemory, queue: &Queue) -> Self {
        let packed = queue.format().packed;
        let half = |bits: u32| if packed { (bits as u16 & 0x7fff, bits & 0x8000 != 0) } else { (bits as u16, false) };
        let (avail, used) = (half(queue.base()), half(queue.base() >> if packed { 16 } else { 0 }));
        Self { memory: memory.map.clone(), layout: queue.layout, size: queue.size, packed, avail, used }
    }

    pub(super) fn word(&self, at: u64) -> u16 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    pub(super) fn set_word(&self, at: u64, word: u16) {
        self.memory.write_obj(word, GuestAddress(at)).unwrap();
    }

    fn pass(&self, (at, wrap): (u16, bool), count: u16) -> (u16, bool) {
        let next = u32::from(at) + u32::from(count);
        match self.packed {
            false => (next as u16, false),
            true if next >= self.size.into() => ((next - u32::from(self.size)) as u16, !wrap),
            true => (next as u16, wrap),
        }
    }

    /// Address, length, flags and the word beside them.
    pub(super) fn desc(&self, at: u64) -> (u64, u32, u16, u16) {
        let (third, last) = (self.word(at + 12), self.word(at + 14));
        let (flags, other) = if self.packed { (last, third) } else { (third, last) };
        let address = self.memory.read_obj(GuestAddress(at)).unwrap();
        (address, self.memory.read_obj(GuestAddress(at + 8)).unwrap(), flags, other)
    }

    pub(super) fn take(&mut self) -> Option<Taken> {
        let (mut taken, indirect) = if self.packed { self.take_packed()? } else { self.take_split()? };
        if indirect {
            let [(table, len, _)] = taken.buffers[..] else { panic!("a table in a chain: {taken:?}") };
            assert_eq!(len % 16, 0);
            let entries = (0..u64::from(len) / 16).map(|i| self.desc(table + i * 16));
            taken.buffers = entries.map(|(at, len, flags, _)| (at, len, flags & desc::WRITE != 0)).collect();
        }
        Some(taken)
    }

    fn take_split(&mut self) -> Option<(Taken, bool)> {
        if self.word(self.layout.avail + 2) == self.avail.0 {
            return None;
        }
        let id = self.word(self.layout.avail + 4 + u64::from(self.avail.0 % self.size) * 2);
        let (mut buffers, mut at, mut indirect) = (Vec::new(), id, false);
        loop {
            let (address, len, flags, next) = self.desc(self.layout.desc + u64::from(at) * 16);
            buffers.push((address, len, flags & desc::WRITE != 0));
            indirect |= flags & desc::INDIRECT != 0;
            if flags & desc::NEXT == 0 {
                break;
            }
            at = next;
        }
        self.avail = self.pass(self.avail, 1);
        Some((Taken { id, descs: buffers.len() as u16, buffers }, indirect))
    }

    fn take_packed(&mut self) -> Option<(Taken, bool)> {
        let (mut buffers, mut indirect) = (Vec::new(), false);
        loop {
            let (slot, wrap) = self.avail;
            let (address, len, flags, id) = self.desc(self.layout.desc + u64::from(slot) * 16);
            let is_available = (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap;
            if buffers.is_empty() && !is_available {
                return None;
            }
            assert!(is_available, "the driver offers the first descriptor of a chain last");
            buffers.push((address, len, flags & desc::WRITE != 0));
            indirect |= flags & desc::INDIRECT != 0;
            self.avail = self.pass(self.avail, 1);
            if flags & desc::NEXT == 0 {
                return Some((Taken { id, descs: buffers.len() as u16, buffers }, indirect));
            }
        }
    }

    /// Uses chains by one element that names the last of them.
    pub(super) fn give_back(&mut self, batch: &[Taken], len: u32) {
        let (last, (at, wrap)) = (batch.last().unwrap(), self.used);
        if self.packed {
            let element = self.layout.desc + u64::from(at) * 16;
            self.memory.write_obj(len, GuestAddress(element + 8)).unwrap();
            self.set_word(element + 12, last.id);
            let written = if last.buffers.iter().any(|(_, _, write)| *write) { desc::WRITE } else { 0 };
            self.set_word(element + 14, written | if wrap { AVAIL | USED } else { 0 });
            self.used = self.pass(self.used, batch.iter().map(|taken| taken.descs).sum());
        } else {
            let element = self.layout.used + 4 + u64::from(at % self.size) * 8;
            self.memory.write_obj([u32::from(last.id), len], GuestAddress(element)).unwrap();
            self.used = self.pass(self.used, batch.len() as u16);
            self.set_word(self.layout.used + 2, self.used.0);
        }
    }
}
