//! The driver's side of a packed virtqueue (virtio 1.3, 2.8), able to break every rule.

use std::collections::BTreeSet;
use std::sync::atomic::{Ordering, fence};

use super::desc::{Desc, Free, Offered, RingMemory, WRITE};
use super::format::{Calls, Format, Kicks, QueueLayout, RingFormat};

/// Set to the driver's wrap counter when a descriptor is made available (virtio 1.3, 2.8.1).
pub const AVAIL: u16 = 1 << 7;
/// Set to its inverse then, and to the device's wrap counter when the descriptor is used.
pub const USED: u16 = 1 << 15;

/// Where the flags of a descriptor are in it.
const FLAGS: u64 = 14;
/// Bytes of an event suppression area: offset and wrap counter, flags (virtio 1.3, 2.8.14).
const EVENT_AREA: u64 = 4;
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESC: u16 = 2;
/// The wrap counter beside an offset.
const WRAP: u16 = 1 << 15;

/// A packed ring. Places in it are counted in descriptors from a first lap with wrap counter 1 on.
#[derive(Debug)]
pub struct PackedRing {
    memory: RingMemory,
    layout: QueueLayout,
    size: u16,
    event_idx: bool,
    ids: Free,
    /// Up to where descriptors are offered.
    avail: u64,
    /// Up to where used descriptors are taken back.
    used: u64,
    /// Where the next was offered at the last kick decision.
    kicked: u64,
    /// Slots that the device wrote last.
    by_device: BTreeSet<u16>,
}

impl PackedRing {
    pub(super) fn new(memory: RingMemory, layout: QueueLayout, size: u16, format: RingFormat) -> Self {
        let RingFormat { event_idx, in_order, .. } = format;
        let ids = Free::new(size, in_order);
        Self { memory, layout, size, event_idx, ids, avail: 0, used: 0, kicked: 0, by_device: BTreeSet::new() }
    }

    /// Bytes of the three parts of a ring of so many entries.
    pub(super) fn sizes(size: u64) -> [u64; 3] {
        [size * Desc::SIZE, EVENT_AREA, EVENT_AREA]
    }

    fn slot(&self, place: u64) -> u16 {
        (place % u64::from(self.size)) as u16
    }

    fn wrap(&self, place: u64) -> bool {
        (place / u64::from(self.size)).is_multiple_of(2)
    }

    /// Slot and wrap counter of a place, as event areas and bases have them.
    fn half(&self, place: u64) -> u16 {
        self.slot(place) | if self.wrap(place) { WRAP } else { 0 }
    }

    fn at(&self, slot: u16) -> u64 {
        self.layout.desc + u64::from(slot) * Desc::SIZE
    }

    /// The slot that is offered next, and the flags that make a descriptor in it available.
    #[must_use]
    pub fn next_slot(&self) -> (u16, u16) {
        (self.slot(self.avail), if self.wrap(self.avail) { AVAIL } else { USED })
    }

    /// Offers a descriptor in the next slot, its id as it stands.
    pub fn offer(&mut self, desc: Desc) {
        let (slot, bits) = self.next_slot();
        self.write_slot(slot, Desc { flags: desc.flags | bits, ..desc });
        self.avail += 1;
    }

    /// Writes a descriptor with all of its flags into a slot.
    pub fn write_slot(&mut self, slot: u16, desc: Desc) {
        self.by_device.remove(&slot);
        self.memory.write(self.at(slot), &desc.packed()[..FLAGS as usize]);
        self.memory.store(self.at(slot) + FLAGS, desc.flags);
    }

    /// The flags of a slot as they stand.
    #[must_use]
    pub fn flags(&self, slot: u16) -> u16 {
        self.memory.load(self.at(slot) + FLAGS)
    }

    /// Changes the flags of a slot, wrap bits and all.
    pub fn change_flags(&self, slot: u16, change: impl FnOnce(u16) -> u16) {
        let at = self.at(slot) + FLAGS;
        self.memory.store(at, change(self.flags(slot)));
    }

    /// Offers from now on as if the ring had wrapped once more.
    pub fn flip_wrap(&mut self) {
        self.avail += u64::from(self.size);
    }

    /// The flags of a used descriptor of this place.
    fn used_flags(&self, place: u64) -> u16 {
        if self.wrap(place) { AVAIL | USED } else { 0 }
    }
}

impl Format for PackedRing {
    fn encode(&self, desc: &Desc) -> [u8; 16] {
        desc.packed()
    }

    fn indirect_flags(&self, _last: bool) -> u16 {
        // A table is as long as it is; NEXT means nothing in it (virtio 1.3, 2.8.7).
        0
    }

    fn offer_chain(&mut self, chain: &[Desc], writable: u32) -> Option<Offered> {
        let out = self.avail - self.used;
        if chain.is_empty() || u64::from(self.size).saturating_sub(out) < chain.len() as u64 {
            return None;
        }
        let (id, first) = (self.ids.take()?, self.next_slot());
        let mut descs = Vec::with_capacity(chain.len());
        for (i, desc) in chain.iter().enumerate() {
            let (slot, bits) = self.next_slot();
            // The last descriptor has the id (virtio 1.3, 2.8.6); in others it must not be looked at.
            let next = if i + 1 == chain.len() { id } else { !id };
            let desc = Desc { next, flags: desc.flags | bits, ..*desc };
            if i == 0 {
                self.by_device.remove(&slot);
                self.memory.write(self.at(slot), &desc.packed()[..FLAGS as usize]);
            } else {
                self.write_slot(slot, desc);
            }
            descs.push(slot);
            self.avail += 1;
        }
        // The first one's flags offer them all (virtio 1.3, 2.8.21.3.1).
        self.memory.store(self.at(first.0) + FLAGS, chain[0].flags | first.1);
        Some(Offered { id, descs, writable })
    }

    fn wants_kick(&mut self) -> bool {
        let (old, new) = (std::mem::replace(&mut self.kicked, self.avail), self.avail);
        match self.kicks() {
            Kicks::Always => true,
            Kicks::Never => false,
            Kicks::At(event) => {
                // In this lap, or in the one before: the wrap counter tells.
                let lap = new - u64::from(self.slot(new));
                let same_lap = self.wrap(new) == (event & WRAP != 0);
                let place = if same_lap { Some(lap) } else { lap.checked_sub(self.size.into()) };
                place.is_some_and(|place| (old..new).contains(&(place + u64::from(event & !WRAP))))
            }
        }
    }

    fn kicks(&self) -> Kicks {
        match self.memory.load_pair(self.layout.used) {
            (_, EVENT_ENABLE) => Kicks::Always,
            (_, EVENT_DISABLE) => Kicks::Never,
            (event, EVENT_DESC) if self.event_idx => Kicks::At(event),
            (event, flags) => panic!("the device's event area has {event:#x}, flags {flags:#x}"),
        }
    }

    fn set_calls(&self, calls: Calls) {
        let (event, flags) = match calls {
            Calls::Always => (0, EVENT_ENABLE),
            Calls::Never => (0, EVENT_DISABLE),
            Calls::After(n) if self.event_idx => (self.half(self.used + u64::from(n)), EVENT_DESC),
            Calls::After(_) => (0, EVENT_ENABLE),
        };
        self.memory.store_pair(self.layout.avail, event, flags);
    }

    fn next_used(&self) -> Option<(u16, u32)> {
        let at = self.at(self.slot(self.used));
        let flags = self.memory.load(at + FLAGS);
        if flags & (AVAIL | USED) != self.used_flags(self.used) {
            return None;
        }
        let [a, b, c, d, id @ ..] = self.memory.read::<6>(at + 8);
        // Without WRITE the length means nothing (virtio 1.3, 2.8.4).
        let len = if flags & WRITE != 0 { u32::from_le_bytes([a, b, c, d]) } else { 0 };
        Some((u16::from_le_bytes(id), len))
    }

    fn advance(&mut self, batch: &[Offered]) {
        self.by_device.insert(self.slot(self.used));
        // What the test offered by itself is no chain of ours.
        self.used += batch.iter().map(|chain| chain.descs.len() as u64).sum::<u64>().max(1);
        self.ids.give_back(batch.iter().map(|chain| chain.id));
    }

    fn base(&self) -> u32 {
        // Available and used index are the same while nothing is half done (vhost-user, "Vring descriptor indices").
        let half = u32::from(self.half(self.used));
        half << 16 | half
    }

    fn start_at(&mut self, base: u32) {
        let (slot, wrap) = (base as u16 & !WRAP, base as u16 & WRAP != 0);
        let place = u64::from(slot) + if wrap { 2 * u64::from(self.size) } else { self.size.into() };
        (self.avail, self.used, self.kicked) = (place, place, place);
        // Slots behind are used in this lap, those before in the last one: none looks offered or used anew.
        for ahead in 0..self.size {
            let flags = self.used_flags(place + u64::from(ahead) - u64::from(self.size));
            self.write_slot(self.slot(place + u64::from(ahead)), Desc { flags, ..Desc::default() });
        }
        fence(Ordering::SeqCst);
    }

    fn device_written(&self) -> Vec<(u64, u64)> {
        let slots = self.by_device.iter().map(|slot| (self.at(*slot), Desc::SIZE));
        slots.chain([(self.layout.used, EVENT_AREA)]).collect()
    }
}
