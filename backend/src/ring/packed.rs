//! The packed virtqueue (virtio 1.3, 2.8): one ring of descriptors that driver and device write in turn, and an event
//! area of each side.
//!
//! A place in the ring is an index and a wrap counter that changes each time round. Chains are completed in the order in
//! which they were taken, so the device's places are a number of entries apart: those of the chains it has taken.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{DESC_SIZE, Desc, F_INDIRECT, F_NEXT, F_WRITE, Walk};
use super::place::{F_AVAIL, F_USED, Place};
use super::stand::Stand;
use super::taken::{Taken, Until};
use super::{Access, MAX_QUEUE_SIZE, RingError, RingLog, RingSetup, Virtqueue};
use crate::memory::{Entries, MemoryTable, View, Window};
use crate::record::RingRecord;

// An event area: where an event is wanted, and whether (virtio 1.3, 2.8.14).
pub(super) const OFF_WRAP: usize = 0;
pub(super) const FLAGS: usize = 2;
pub(super) const EVENT_SIZE: usize = 4;
const EVENT_FLAG_ENABLE: u16 = virtio_bindings::virtio_ring::VRING_PACKED_EVENT_FLAG_ENABLE as u16;
const EVENT_FLAG_DISABLE: u16 = virtio_bindings::virtio_ring::VRING_PACKED_EVENT_FLAG_DISABLE as u16;
const EVENT_FLAG_DESC: u16 = virtio_bindings::virtio_ring::VRING_PACKED_EVENT_FLAG_DESC as u16;

/// Descriptors of a cache line, and how many are asked for before they are looked at: each is written as used later, and a
/// line that was only read then waits for the driver's CPU to give it up.
const LINE_DESCS: u16 = 4;
const AHEAD: u16 = 4 * LINE_DESCS;

/// The device's side of a packed virtqueue.
#[derive(Debug)]
pub struct PackedRing {
    setup: RingSetup,
    desc: Entries<DESC_SIZE>,
    driver_event: Window,
    device_event: Window,
    taken: Taken,
    /// Next descriptor to take.
    next_avail: Place,
    used: Used,
    /// Place of the last call decision; none before the first.
    signalled: Option<Place>,
    used_any: bool,
    log: Option<RingLog>,
    record: Option<RingRecord>,
}

impl PackedRing {
    /// Sets up a ring in the memory of `table`. `base` tells where it stands (vhost-user, `VHOST_USER_SET_VRING_BASE`): it
    /// goes on at the place of the next used descriptor, in the upper half, or at that in the lower half if the upper is zero.
    ///
    /// # Errors
    /// When the size or the base is not allowed, or a part of the ring is not in guest memory or not aligned.
    pub fn new(table: &Arc<MemoryTable>, setup: RingSetup, base: u32) -> Result<Self, RingError> {
        if setup.size == 0 || setup.size > MAX_QUEUE_SIZE {
            return Err(RingError::PackedSize(setup.size));
        }
        let start = Place::of_base(base);
        if start.index() >= setup.size {
            return Err(RingError::Base { base, size: setup.size });
        }
        let desc = table.entries(setup.desc, setup.size.into(), 16)?;
        let driver_event = table.window(setup.avail, EVENT_SIZE, 4)?;
        let device_event = table.window(setup.used, EVENT_SIZE, 4)?;
        Ok(Self {
            setup,
            desc,
            driver_event,
            device_event,
            taken: Taken::new(table.clone()),
            next_avail: start,
            used: Used { next: start, unpublished: None },
            signalled: None,
            used_any: start != Place(Place::WRAP),
            log: None,
            record: None,
        })
    }

    /// Notes from now on where the ring stands, for a daemon that has to go on without being told.
    pub fn set_record(&mut self, record: RingRecord) {
        if !self.setup.event_idx {
            // A driver looks at the place only with EVENT_IDX; a ring that was reset has zeroes there.
            self.device_event.store_u16(OFF_WRAP, Place::WRAP);
        }
        record.set_stand(Stand::started(self.used.next).into());
        self.record = Some(record);
    }

    #[inline]
    fn take(&mut self, mut until: Until) -> Result<usize, RingError> {
        loop {
            let (max, max_bytes) = self.taken.wants(&until);
            // A descriptor that is taken still looks available.
            let max = max.min(usize::from(self.setup.size) - self.taken.slots());
            if max == 0 {
                break;
            }
            if self.take_whole(max, max_bytes) < max && self.taken.wants(&until).0 > 0 {
                let place = self.next_avail;
                let Some(rest) = look(self.desc.view(), place) else { break };
                let address = self.desc.view().read_words(place.index().into()).0;
                until.walked += self.walk(Desc::packed((address, rest)))?;
            }
        }
        Ok(self.taken.len())
    }

    /// Takes chains of one descriptor, as most are, until one is not that; says how many.
    #[inline]
    fn take_whole(&mut self, max: usize, max_bytes: usize) -> usize {
        let Self { setup, taken, next_avail, .. } = self;
        let (setup, table) = (*setup, self.desc.view());
        let (start, mut place) = (*next_avail, *next_avail);
        let writes_all = setup.access == Access::Write || !setup.in_order;
        let took = taken.push_near(max, max_bytes, setup.access, |_| {
            if writes_all && place.index() % LINE_DESCS == 0 {
                table.prefetch_to_write(usize::from(place.index() + AHEAD));
            }
            let rest = look(table, place)?;
            let desc = Desc::packed((table.read_words(place.index().into()).0, rest));
            place = place.after(1, setup.size);
            desc.is_whole_chain(&setup).then_some((desc.number, desc.address, desc.len))
        });
        *next_avail = start.after(took as u16, setup.size);
        took
    }

    /// Takes the chain that starts with `desc`; says how many descriptors it has.
    fn walk(&mut self, mut desc: Desc) -> Result<usize, RingError> {
        let Self { setup, desc: table, next_avail, taken, .. } = self;
        let free = setup.size - taken.slots() as u16;
        let (start, mut end) = (*next_avail, next_avail.after(1, setup.size));
        let walked = Walk::chain(setup, start.index(), taken, |walk| {
            if desc.flags & F_INDIRECT != 0 {
                let (table, entries) = walk.indirect(desc)?;
                walk.packed_table(&table, entries)?;
                return Ok((desc.number, 1));
            }
            let mut slots = 1;
            walk.add(desc)?;
            while desc.flags & F_NEXT != 0 {
                if slots == free {
                    return Err(RingError::ChainTooLong { head: start.index(), limit: setup.size });
                }
                desc = Desc::packed(table.view().read_words(end.index().into()));
                if desc.flags & F_INDIRECT != 0 {
                    return Err(walk.no_indirect_here());
                }
                walk.add(desc)?;
                end = end.after(1, setup.size);
                slots += 1;
            }
            // The buffer's id stands in the last descriptor of its chain (virtio 1.3, 2.8.6).
            Ok((desc.number, slots))
        })?;
        *next_avail = end;
        Ok(walked)
    }

    fn mark_event(&self) {
        if let Some(log) = &self.log {
            log.mark_used(0, EVENT_SIZE);
        }
    }
}

/// The device's used descriptors: where the next one goes, and the one that is kept back.
#[derive(Debug)]
struct Used {
    next: Place,
    /// The first that the driver does not see yet, and what makes it seen.
    unpublished: Option<(Place, u64)>,
}

impl Used {
    /// Writes descriptors, each told by the chain's id, the bytes written to it and the entries that it stands for. The
    /// first of a burst is kept until [`Virtqueue::publish`]: the driver looks at no other before it.
    #[inline]
    fn write(
        &mut self,
        desc: &Entries<DESC_SIZE>,
        setup: &RingSetup,
        log: Option<&RingLog>,
        used: impl Iterator<Item = (u16, u32, u16)>,
    ) {
        let (table, size) = (desc.view(), setup.size);
        let write = if setup.access == Access::Write { F_WRITE } else { 0 };
        let mut next = self.next;
        let mut used = used.map(|(id, len, slots)| {
            let place = next;
            next = place.after(slots, size);
            let flags = place.used_flags() | write;
            (place, u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48)
        });
        if self.unpublished.is_none() {
            self.unpublished = used.next();
        }
        for (place, rest) in used {
            table.store_second(place.index().into(), rest);
            mark_desc(setup, log, place);
        }
        self.next = next;
    }
}

#[inline]
fn mark_desc(setup: &RingSetup, log: Option<&RingLog>, place: Place) {
    if let Some(log) = log {
        log.pages().mark(setup.desc + u64::from(place.index()) * DESC_SIZE as u64, DESC_SIZE as u64);
    }
}

impl Virtqueue for PackedRing {
    fn setup(&self) -> &RingSetup {
        &self.setup
    }

    /// The place of the first chain that is not completed, in both halves.
    fn base(&self) -> u32 {
        self.used.next.base()
    }

    fn taken(&self) -> &Taken {
        &self.taken
    }

    #[inline]
    fn take_burst(&mut self, max_chains: usize, max_bytes: usize) -> Result<usize, RingError> {
        self.take(Until::either(max_chains, max_bytes))
    }

    #[inline]
    fn reserve(&mut self, chains: usize, bytes: usize) -> Result<usize, RingError> {
        self.take(Until::both(chains, bytes))
    }

    fn is_all_taken(&self) -> bool {
        self.taken.slots() >= usize::from(self.setup.size)
    }

    fn complete(&mut self, written: u32) {
        self.complete_burst(&[written]);
    }

    #[inline]
    fn complete_burst(&mut self, written: &[u32]) {
        if let Some(log) = &self.log {
            self.taken.mark_each(written, log.pages());
        }
        let used = self.taken.chains().iter().zip(written).map(|(chain, len)| (chain.id, *len, chain.slots));
        self.used.write(&self.desc, &self.setup, self.log.as_ref(), used);
        self.taken.give_back(written.len());
    }

    #[inline]
    fn complete_unwritten(&mut self, n: usize) {
        let n = n.min(self.taken.len());
        let Self { desc, setup, used, log, .. } = self;
        let chains = &self.taken.chains()[..n];
        if setup.in_order {
            // virtio 1.3, 2.8.8: one descriptor names the last buffer of a batch and stands for all of them.
            let slots = chains.iter().map(|chain| chain.slots).sum();
            used.write(desc, setup, log.as_ref(), chains.last().map(|last| (last.id, 0, slots)).into_iter());
        } else {
            used.write(desc, setup, log.as_ref(), chains.iter().map(|chain| (chain.id, 0, chain.slots)));
        }
        self.taken.give_back(n);
    }

    #[inline]
    fn publish(&mut self) -> bool {
        self.taken.rest();
        let Some((place, rest)) = self.used.unpublished.take() else { return false };
        if let Some(record) = &self.record {
            record.set_stand(Stand { next: self.used.next, published: Some((place, (rest >> 32) as u16)) }.into());
        }
        // Release: the packet bytes and the other used descriptors of the burst are written before this one is seen.
        self.desc.view().store_second_release(place.index().into(), rest);
        mark_desc(&self.setup, self.log.as_ref(), place);
        self.used_any = true;
        true
    }

    fn untake(&mut self) {
        self.taken.clear();
        self.next_avail = self.used.next;
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
        Ok(!self.is_all_taken() && look(self.desc.view(), self.next_avail).is_some())
    }

    /// With EVENT_IDX the place that was asked for stays behind, and there is nothing to write, unless none was asked for
    /// yet: the area starts as one that asks for every kick.
    fn suppress_kicks(&mut self) {
        if !self.setup.event_idx || self.device_event.load_u16(FLAGS) == EVENT_FLAG_ENABLE {
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
        // What is completed and not published is nothing to call for yet.
        let new = self.used.unpublished.map_or(self.used.next, |(place, _)| place);
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

/// The second word of the descriptor at `place`, if the driver has made it available. Acquire pairs with the driver's
/// barrier before it writes the flags (virtio 1.3, 2.8.21.1): the rest of the chain is seen.
#[inline]
fn look(table: View<'_, DESC_SIZE>, place: Place) -> Option<u64> {
    let rest = table.load_second_acquire(place.index().into());
    let flags = (rest >> 48) as u16;
    (flags & (F_AVAIL | F_USED) == place.avail_flags()).then_some(rest)
}
