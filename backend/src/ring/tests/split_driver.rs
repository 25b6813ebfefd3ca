//! A small split-ring driver (virtio 1.3, 2.7.13) over shared memory, able to break every rule.

use std::ops::Deref;
use std::sync::atomic::{Ordering, fence};

use super::super::{Access, RingSetup};
use super::guest::{AVAIL, DESC, Desc, Guest, INDIRECT, Part, RingDriver, USED, UnderWay, descs};

pub(super) struct Driver {
    guest: Guest,
    pub(super) size: u16,
    pub(super) avail_idx: u16,
    /// Index into the used ring up to which chains have come back.
    seen: u16,
    next_desc: u16,
    under_way: UnderWay,
}

impl Deref for Driver {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Driver {
    /// A ring of `size` whose indices stand at `start`.
    pub(super) fn new(size: u16, start: u16) -> Self {
        let (guest, under_way) = (Guest::new(), UnderWay::default());
        let mut driver = Self { guest, size, avail_idx: start, seen: start, next_desc: 0, under_way };
        driver.write(USED + 2, start.to_le_bytes());
        driver.publish();
        driver
    }

    /// Writes a descriptor into the table at `table`.
    pub(super) fn desc_at(&self, table: u64, index: u16, desc: Desc) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.number.to_le_bytes());
        self.write(table + u64::from(index) * 16, bytes);
    }

    pub(super) fn desc(&self, index: u16, desc: Desc) {
        self.desc_at(DESC, index, desc);
    }

    /// Adds a chain of `parts` to the descriptor table, from the next free descriptors on; its head.
    pub(super) fn chain(&mut self, parts: &[Part], flags: u16) -> u16 {
        let head = self.next_desc;
        for desc in descs(parts, flags) {
            let next = (self.next_desc + 1) % self.size;
            self.desc(self.next_desc, Desc { number: next, ..desc });
            self.next_desc = next;
        }
        head
    }

    /// Adds a chain whose descriptors stand in an indirect table at `table`; its head.
    pub(super) fn indirect_chain(&mut self, table: u64, parts: &[Part], flags: u16) -> u16 {
        for (i, desc) in descs(parts, flags).into_iter().enumerate() {
            self.desc_at(table, i as u16, desc);
        }
        let head = self.next_desc;
        self.next_desc = (self.next_desc + 1) % self.size;
        self.desc(head, Desc { address: table, len: parts.len() as u32 * 16, flags: INDIRECT, number: 0 });
        head
    }

    /// Offers the chain at `head`; seen by the device after [`Driver::publish`].
    pub(super) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        self.write(AVAIL + 4 + slot * 2, head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    pub(super) fn publish(&mut self) {
        self.release_u16(AVAIL + 2, self.avail_idx);
    }

    pub(super) fn used_idx(&self) -> u16 {
        self.window(USED + 2, 2).load_u16_acquire(0)
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
        self.release_u16(AVAIL, flags);
    }

    pub(super) fn set_used_event(&self, event: u16) {
        self.release_u16(AVAIL + 4 + u64::from(self.size) * 2, event);
    }
}

impl RingDriver for Driver {
    fn guest(&self) -> &Guest {
        &self.guest
    }

    fn setup(&self, access: Access, event_idx: bool) -> RingSetup {
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

    /// A split ring knows its place itself.
    fn start(&self) -> u32 {
        0
    }

    fn free(&self) -> u16 {
        self.size - self.under_way.slots()
    }

    fn add(&mut self, parts: &[Part], flags: u16, table: Option<u64>) -> u16 {
        let head = match table {
            Some(table) => self.indirect_chain(table, parts, flags),
            None => self.chain(parts, flags),
        };
        self.under_way.add(head, if table.is_some() { 1 } else { parts.len() as u16 });
        self.offer(head);
        self.publish();
        head
    }

    fn reap(&mut self, in_order: bool) -> Vec<(u16, u32)> {
        let mut came = Vec::new();
        while self.seen != self.used_idx() {
            let (id, written) = self.used(self.seen);
            let given = self.under_way.give_back(id.try_into().unwrap(), written, in_order);
            self.seen = self.seen.wrapping_add(given.len() as u16);
            came.extend(given.into_iter().map(|(id, _, written)| (id, written)));
        }
        came
    }

    fn wants_kick(&self, event_idx: bool) -> bool {
        fence(Ordering::SeqCst);
        if event_idx { self.avail_event() == self.avail_idx.wrapping_sub(1) } else { self.used_flags() & 1 == 0 }
    }
}
