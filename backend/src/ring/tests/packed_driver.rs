//! A small packed-ring driver (virtio 1.3, 2.8.21) over shared memory, able to break every rule.

use std::ops::Deref;
use std::sync::atomic::{Ordering, fence};

use super::super::{Access, PackedRing, RingSetup};
use super::guest::{AVAIL, DESC, Desc, Guest, INDIRECT, NEXT, Part, RingDriver, USED, UnderWay, WRITE, descs};

pub(super) const F_AVAIL: u16 = 1 << 7;
pub(super) const F_USED: u16 = 1 << 15;

pub(super) const ENABLE: u16 = 0;
pub(super) const DISABLE: u16 = 1;
pub(super) const AT_PLACE: u16 = 2;

/// A place in the ring: index and wrap counter. It moves one entry at a time, so that nothing can be miscounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) index: u16,
    pub(super) wrap: bool,
}

impl Cursor {
    /// The first place of a new ring.
    pub(super) const FIRST: Self = Self { index: 0, wrap: true };

    /// As one number: index in bits 0 to 14, wrap counter in bit 15.
    pub(super) fn number(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }

    /// As the base of a ring whose two places are the same.
    pub(super) fn base(self) -> u32 {
        u32::from(self.number()) * 0x1_0001
    }

    pub(super) fn next(self, size: u16) -> Self {
        if self.index + 1 < size { Self { index: self.index + 1, ..self } } else { Self { index: 0, wrap: !self.wrap } }
    }

    pub(super) fn after(self, n: u16, size: u16) -> Self {
        (0..n).fold(self, |at, _| at.next(size))
    }

    /// All places of a ring.
    pub(super) fn all(size: u16) -> impl Iterator<Item = Self> + Clone {
        [true, false].into_iter().flat_map(move |wrap| (0..size).map(move |index| Self { index, wrap }))
    }

    pub(super) fn avail_flags(self) -> u16 {
        if self.wrap { F_AVAIL } else { F_USED }
    }

    fn used_flags(self) -> u16 {
        if self.wrap { F_AVAIL | F_USED } else { 0 }
    }
}

pub(super) struct Driver {
    guest: Guest,
    pub(super) size: u16,
    /// The next descriptor to write.
    pub(super) next: Cursor,
    /// The next used descriptor to look for.
    pub(super) seen: Cursor,
    next_id: u16,
    under_way: UnderWay,
}

impl Deref for Driver {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Driver {
    /// A ring of `size` in which everything before `start` was offered and used.
    pub(super) fn new(size: u16, start: Cursor) -> Self {
        let (guest, under_way) = (Guest::new(), UnderWay::default());
        let driver = Self { guest, size, next: start, seen: start, next_id: 7, under_way };
        for index in 0..size {
            let wrap = start.wrap == (index < start.index);
            let flags = Cursor { index, wrap }.used_flags();
            driver.desc(index, Desc { address: 0, len: 0, flags, number: 0 });
        }
        driver
    }

    fn rest(desc: Desc) -> u64 {
        u64::from(desc.len) | u64::from(desc.number) << 32 | u64::from(desc.flags) << 48
    }

    /// Writes a descriptor into the table at `table`; its flags are seen last.
    pub(super) fn desc_at(&self, table: u64, index: u16, desc: Desc) {
        let at = table + u64::from(index) * 16;
        self.window(at, 8).write(0, desc.address.to_le_bytes());
        self.table.entries::<16>(at, 1, 1).unwrap().view().store_second_release(0, Self::rest(desc));
    }

    pub(super) fn desc(&self, index: u16, desc: Desc) {
        self.desc_at(DESC, index, desc);
    }

    /// Offers descriptors in a row, which the device sees at once. Each is marked as available and left as it is.
    pub(super) fn offer(&mut self, descs: &[Desc]) {
        let first = self.next;
        for desc in descs {
            let here = Desc { flags: desc.flags | self.next.avail_flags(), ..*desc };
            if self.next != first {
                self.desc(self.next.index, here);
            }
            self.next = self.next.next(self.size);
        }
        self.desc(first.index, Desc { flags: descs[0].flags | first.avail_flags(), ..descs[0] });
    }

    /// A used descriptor at `at`, if it is one: buffer id, length, flags.
    pub(super) fn used(&self, at: Cursor) -> Option<(u16, u32, u16)> {
        let rest =
            self.table.entries::<16>(DESC, self.size.into(), 16).unwrap().view().load_second_acquire(at.index.into());
        let flags = (rest >> 48) as u16;
        (flags & (F_AVAIL | F_USED) == at.used_flags()).then_some(((rest >> 32) as u16, rest as u32, flags))
    }

    /// The buffer id of the chain that is available at `at`, and the place behind it.
    pub(super) fn available(&self, at: Cursor) -> Option<(u16, Cursor)> {
        let table = self.table.entries::<16>(DESC, self.size.into(), 16).unwrap();
        let mut end = at;
        loop {
            let rest = table.view().load_second_acquire(end.index.into());
            let flags = (rest >> 48) as u16;
            if flags & (F_AVAIL | F_USED) != end.avail_flags() {
                return None;
            }
            end = end.next(self.size);
            if flags & NEXT == 0 {
                return Some(((rest >> 32) as u16, end));
            }
        }
    }

    /// Uses the chain at `at` in the device's place, with nothing written to it.
    pub(super) fn write_used(&self, at: Cursor, id: u16, is_for_writing: bool) {
        let flags = at.used_flags() | if is_for_writing { WRITE } else { 0 };
        self.desc(at.index, Desc { address: 0, len: 0, flags, number: id });
    }

    /// Writes the driver's event area.
    pub(super) fn set_event(&self, at: u16, flags: u16) {
        self.release_u16(AVAIL, at);
        self.release_u16(AVAIL + 2, flags);
    }

    /// The device's event area: place and flags.
    pub(super) fn device_event(&self) -> (u16, u16) {
        let flags = self.window(USED + 2, 2).load_u16_acquire(0);
        (self.read_u16(USED), flags)
    }

    pub(super) fn packed_ring(&self, setup: RingSetup) -> PackedRing {
        PackedRing::new(&self.table, setup, self.start()).unwrap()
    }
}

impl RingDriver for Driver {
    fn guest(&self) -> &Guest {
        &self.guest
    }

    fn setup(&self, access: Access, event_idx: bool) -> RingSetup {
        RingSetup {
            packed: true,
            in_order: false,
            size: self.size,
            desc: DESC,
            avail: AVAIL,
            used: USED,
            event_idx,
            indirect: true,
            access,
            min_chain_len: 0,
        }
    }

    fn start(&self) -> u32 {
        self.seen.base()
    }

    fn free(&self) -> u16 {
        self.size - self.under_way.slots()
    }

    fn add(&mut self, parts: &[Part], flags: u16, table: Option<u64>) -> u16 {
        self.next_id = self.next_id.wrapping_mul(5).wrapping_add(3);
        let mut chain = descs(parts, flags);
        if let Some(table) = table {
            for (i, desc) in chain.iter().enumerate() {
                // In a table neither NEXT nor the id means anything (virtio 1.3, 2.8.7).
                self.desc_at(table, i as u16, *desc);
            }
            chain = vec![Desc { address: table, len: chain.len() as u32 * 16, flags: INDIRECT, number: 0 }];
        }
        if let Some(last) = chain.last_mut() {
            last.number = self.next_id;
        }
        self.under_way.add(self.next_id, chain.len() as u16);
        self.offer(&chain);
        self.next_id
    }

    fn reap(&mut self, in_order: bool) -> Vec<(u16, u32)> {
        let mut came = Vec::new();
        while let Some((id, written, _)) = self.used(self.seen) {
            for (id, slots, written) in self.under_way.give_back(id, written, in_order) {
                self.seen = self.seen.after(slots, self.size);
                came.push((id, written));
            }
        }
        came
    }

    fn wants_kick(&self, event_idx: bool) -> bool {
        fence(Ordering::SeqCst);
        match self.device_event() {
            (at, AT_PLACE) if event_idx => {
                Cursor { index: at & 0x7fff, wrap: at >> 15 != 0 }.next(self.size) == self.next
            }
            (_, flags) => flags == ENABLE,
        }
    }
}
