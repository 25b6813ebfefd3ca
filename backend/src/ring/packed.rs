//! The packed virtqueue (virtio 1.3, 2.8): one ring of descriptors that driver and device write in turn, and an event
//! area of each side.
//!
//! A place in the ring is an index and a wrap counter that changes each time round. Chains are completed in the order in
//! which they were taken, so the device's places are a number of entries apart: those of the chains it has taken.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{DESC_SIZE, Desc, F_INDIRECT, F_NEXT, F_WRITE, Walk};
use super::taken::{Taken, Until, Walked};
use super::{Access, MAX_QUEUE_SIZE, RingError, RingLog, RingSetup, Virtqueue};
use crate::memory::{Buffers, MemoryTable, Window};

/// Flags of a descriptor that say whose it is (virtio 1.3, 2.8.1).
const F_AVAIL: u16 = 1 << virtio_bindings::virtio_ring::VRING_PACKED_DESC_F_AVAIL;
const F_USED: u16 = 1 << virtio_bindings::virtio_ring::VRING_PACKED_DESC_F_USED;

// An event area: where an event is wanted, and whether (virtio 1.3, 2.8.14).
const OFF_WRAP: usize = 0;
const FLAGS: usize = 2;
const EVENT_SIZE: usize = 4;
const EVENT_FLAG_ENABLE: u16 = virtio_bindings::virtio_ring::VRING_PACKED_EVENT_FLAG_ENABLE as u16;
const EVENT_FLAG_DISABLE: u16 = virtio_bindings::virtio_ring::VRING_PACKED_EVENT_FLAG_DISABLE as u16;
const EVENT_FLAG_DESC: u16 = virtio_bindings::virtio_ring::VRING_PACKED_EVENT_FLAG_DESC as u16;

/// The second half of a descriptor: length, id, flags. It is read and written as one word.
const REST: usize = 8;

/// The device's side of a packed virtqueue.
#[derive(Debug)]
pub struct PackedRing {
    setup: RingSetup,
    desc: Window,
    driver_event: Window,
    device_event: Window,
    taken: Taken,
    /// Next descriptor to take.
    next_avail: Place,
    /// Next descriptor to write as used.
    next_used: Place,
    /// The first used descriptor that the driver does not see yet, and what makes it seen.
    unpublished: Option<(Place, u64)>,
    /// Place of the last call decision; none before the first.
    signalled: Option<Place>,
    used_any: bool,
    log: Option<RingLog>,
}

/// An index into the ring and the wrap counter that goes with it: bits 0 to 14 and 15 (virtio 1.3, 2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u16);

impl Place {
    const WRAP: u16 = 1 << 15;

    #[inline]
    fn index(self) -> u16 {
        self.0 & !Self::WRAP
    }

    #[inline]
    fn wrap(self) -> bool {
        self.0 & Self::WRAP != 0
    }

    /// The place `n` entries on, at most a whole ring of `size`.
    #[inline]
    fn after(self, n: u16, size: u16) -> Self {
        let next = u32::from(self.index()) + u32::from(n);
        match next.checked_sub(size.into()) {
            None => Self(next as u16 | (self.0 & Self::WRAP)),
            Some(over) => Self(over as u16 | (!self.0 & Self::WRAP)),
        }
    }

    /// Entries from `earlier` to here, as far as two times round tells.
    fn since(self, earlier: Self, size: u16) -> u32 {
        let number = |place: Self| u32::from(place.index()) + if place.wrap() { 0 } else { u32::from(size) };
        (number(self) + 2 * u32::from(size) - number(earlier)) % (2 * u32::from(size))
    }

    /// Flags of a descriptor here that the driver has made available.
    #[inline]
    fn avail_flags(self) -> u16 {
        if self.wrap() { F_AVAIL } else { F_USED }
    }

    /// Flags of a descriptor here that the device has used.
    #[inline]
    fn used_flags(self) -> u16 {
        if self.wrap() { F_AVAIL | F_USED } else { 0 }
    }
}

impl PackedRing {
    /// Sets up a ring in the memory of `table`. `base` tells where it stands (vhost-user, `VHOST_USER_SET_VRING_BASE`):
    /// the place of the next available descriptor in the lower half, that of the next used one in the upper half.
    ///
    /// The ring goes on at the used place, so that what another back end had taken and not used is taken again. Some
    /// front ends leave the upper half zero; then both places are the lower half.
    ///
    /// # Errors
    /// When the size or the base is not allowed, or a part of the ring is not in guest memory or not aligned.
    pub fn new(table: &Arc<MemoryTable>, setup: RingSetup, base: u32) -> Result<Self, RingError> {
        if setup.size == 0 || setup.size > MAX_QUEUE_SIZE {
            return Err(RingError::PackedSize(setup.size));
        }
        let (avail, used) = (base as u16, (base >> 16) as u16);
        let start = Place(if used == 0 { avail } else { used });
        if start.index() >= setup.size {
            return Err(RingError::Base { base, size: setup.size });
        }
        let desc = table.window(setup.desc, usize::from(setup.size) * DESC_SIZE, 16)?;
        let driver_event = table.window(setup.avail, EVENT_SIZE, 4)?;
        let device_event = table.window(setup.used, EVENT_SIZE, 4)?;
        Ok(Self {
            setup,
            desc,
            driver_event,
            device_event,
            taken: Taken::new(table.clone()),
            next_avail: start,
            next_used: start,
            unpublished: None,
            signalled: None,
            used_any: start != Place(Place::WRAP),
            log: None,
        })
    }

    #[inline]
    fn take(&mut self, until: Until) -> Result<usize, RingError> {
        let Self { setup, desc, next_avail, taken, .. } = self;
        let mut free = usize::from(setup.size) - taken.slots();
        taken.take(until, |buffers| {
            // A descriptor that is taken still looks available.
            if free == 0 {
                return Ok(None);
            }
            let Some(rest) = look(desc, *next_avail) else { return Ok(None) };
            let chain = walk(setup, desc, *next_avail, rest, free, buffers)?;
            free -= usize::from(chain.slots);
            *next_avail = next_avail.after(chain.slots, setup.size);
            Ok(Some(chain))
        })
    }

    /// Writes the next used descriptor, which stands for `slots` entries. The first of a burst is kept until
    /// [`Virtqueue::publish`]: the driver looks at no other before it.
    #[inline]
    fn use_slots(&mut self, id: u16, len: u32, slots: u16) {
        let write = if self.setup.access == Access::Write { F_WRITE } else { 0 };
        let flags = self.next_used.used_flags() | write;
        let rest = u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
        if self.unpublished.is_none() {
            self.unpublished = Some((self.next_used, rest));
        } else {
            self.write_used(self.next_used, |desc, at| desc.store_u64(at, rest));
        }
        self.next_used = self.next_used.after(slots, self.setup.size);
    }

    #[inline]
    fn write_used(&self, place: Place, store: impl FnOnce(&Window, usize)) {
        let at = usize::from(place.index()) * DESC_SIZE + REST;
        store(&self.desc, at);
        if let Some(log) = &self.log {
            log.pages().mark(self.setup.desc + at as u64, REST as u64);
        }
    }

    fn mark_event(&self) {
        if let Some(log) = &self.log {
            log.mark_used(0, EVENT_SIZE);
        }
    }
}

impl Virtqueue for PackedRing {
    fn setup(&self) -> &RingSetup {
        &self.setup
    }

    /// The place of the first chain that is not completed, in both halves.
    fn base(&self) -> u32 {
        u32::from(self.next_used.0) | u32::from(self.next_used.0) << 16
    }

    fn taken(&self) -> &Taken {
        &self.taken
    }

    #[inline]
    fn take_burst(&mut self, max_chains: usize, max_bytes: usize) -> Result<usize, RingError> {
        self.take(Until::Either(max_chains, max_bytes))
    }

    #[inline]
    fn reserve(&mut self, chains: usize, bytes: usize) -> Result<usize, RingError> {
        self.take(Until::Both(chains, bytes))
    }

    fn is_all_taken(&self) -> bool {
        self.taken.slots() >= usize::from(self.setup.size)
    }

    #[inline]
    fn complete(&mut self, written: u32) {
        let log = self.log.as_ref().map(RingLog::pages);
        if let Some(chain) = self.taken.give_back(written as usize, log) {
            self.use_slots(chain.id, written, chain.slots);
        }
    }

    #[inline]
    fn complete_unwritten(&mut self, n: usize) {
        // virtio 1.3, 2.8.3: with IN_ORDER, one descriptor names the last buffer of a batch and stands for all of them.
        let mut batch = None;
        for _ in 0..n {
            let Some(chain) = self.taken.give_back(0, None) else { break };
            if self.setup.in_order {
                batch = Some((chain.id, batch.map_or(0, |(_, slots)| slots) + chain.slots));
            } else {
                self.use_slots(chain.id, 0, chain.slots);
            }
        }
        if let Some((id, slots)) = batch {
            self.use_slots(id, 0, slots);
        }
    }

    #[inline]
    fn publish(&mut self) -> bool {
        let Some((place, rest)) = self.unpublished.take() else { return false };
        // Release: the packet bytes and the other used descriptors of the burst are written before this one is seen.
        self.write_used(place, |desc, at| desc.store_u64_release(at, rest));
        self.used_any = true;
        true
    }

    fn untake(&mut self) {
        self.taken.clear();
        self.next_avail = self.next_used;
    }

    fn arm_kicks(&mut self) -> Result<bool, RingError> {
        if self.setup.event_idx {
            self.device_event.store_u16(OFF_WRAP, self.next_avail.0);
            // Release: a driver that sees that one place is asked for sees which.
            self.device_event.store_u16_release(FLAGS, EVENT_FLAG_DESC);
        } else {
            self.device_event.store_u16(FLAGS, EVENT_FLAG_ENABLE);
        }
        self.mark_event();
        // Pairs with the driver's full barrier between the flags of its descriptor and its read of this area (virtio
        // 1.3, 2.8.21.3.1): either it sees that kicks are armed, or we see its descriptor.
        fence(Ordering::SeqCst);
        Ok(!self.is_all_taken() && look(&self.desc, self.next_avail).is_some())
    }

    /// With EVENT_IDX there is nothing to write: the place that was asked for stays behind.
    fn suppress_kicks(&mut self) {
        if !self.setup.event_idx {
            self.device_event.store_u16(FLAGS, EVENT_FLAG_DISABLE);
            self.mark_event();
        }
    }

    fn used_any(&self) -> bool {
        self.used_any
    }

    fn forget_calls(&mut self) {
        self.signalled = None;
    }

    #[inline]
    fn needs_call(&mut self) -> bool {
        let new = self.next_used;
        // Pairs with the driver's full barrier between its write of this area and its look at the next used descriptor
        // (virtio 1.3, 2.8.14): either it sees what was published, or we see that it wants to be called.
        fence(Ordering::SeqCst);
        let old = self.signalled.replace(new);
        let flags = self.driver_event.load_u16_acquire(FLAGS);
        if flags != EVENT_FLAG_DESC || !self.setup.event_idx {
            return flags != EVENT_FLAG_DISABLE;
        }
        let event = Place(self.driver_event.load_u16(OFF_WRAP));
        let size = self.setup.size;
        // Nothing is known of what the driver saw before the first decision, so the first is always a call; a place
        // that the ring does not have is asked for by nobody sane.
        old.is_none_or(|old| event.index() >= size || new.since(event.after(1, size), size) < new.since(old, size))
    }

    fn set_log(&mut self, log: Option<RingLog>) {
        self.log = log;
    }

    fn mark_written(&self, written: usize) {
        if let Some(log) = &self.log {
            self.taken.mark(written, log.pages());
        }
    }
}

/// The second half of the descriptor at `place`, if the driver has made it available. Acquire pairs with the driver's
/// barrier before it writes the flags (virtio 1.3, 2.8.21.1): the rest of the chain is seen.
#[inline]
fn look(desc: &Window, place: Place) -> Option<u64> {
    let rest = desc.load_u64_acquire(usize::from(place.index()) * DESC_SIZE + REST);
    let flags = (rest >> 48) as u16;
    (flags & (F_AVAIL | F_USED) == place.avail_flags()).then_some(rest)
}

/// Walks the chain at `place`, of whose first descriptor the second half was read, and adds its slices to `buffers`.
#[inline]
fn walk(
    setup: &RingSetup,
    table: &Window,
    place: Place,
    rest: u64,
    free: usize,
    buffers: &mut Buffers,
) -> Result<Walked, RingError> {
    let desc = Desc::packed(table.read_u64(usize::from(place.index()) * DESC_SIZE), rest);
    if desc.is_whole_chain(setup) {
        let len = desc.len as usize;
        buffers.push(desc.address, len)?;
        return Ok(Walked { id: desc.number, slots: 1, descriptors: 1, len });
    }
    let mut walk = Walk::new(setup, place.index(), buffers);
    if desc.flags & F_INDIRECT != 0 {
        let (table, entries) = walk.indirect(desc)?;
        walk.packed_table(&table, entries)?;
        return walk.end(desc.number, 1);
    }
    let (mut desc, mut at, mut slots) = (desc, place, 1);
    walk.add(desc)?;
    while desc.flags & F_NEXT != 0 {
        if usize::from(slots) == free {
            return Err(RingError::ChainTooLong { head: place.index(), limit: setup.size });
        }
        at = at.after(1, setup.size);
        slots += 1;
        let byte = usize::from(at.index()) * DESC_SIZE;
        desc = Desc::packed(table.read_u64(byte), table.read_u64(byte + REST));
        if desc.flags & F_INDIRECT != 0 {
            return Err(walk.no_indirect_here());
        }
        walk.add(desc)?;
    }
    // The buffer's id stands in the last descriptor of its chain (virtio 1.3, 2.8.6).
    walk.end(desc.number, slots)
}
