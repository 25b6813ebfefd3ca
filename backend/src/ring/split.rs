//! The split virtqueue (virtio 1.3, 2.7): descriptor table, available ring, used ring.
//!
//! Chains are completed in the order in which they were taken, so the used index alone tells where a ring stands: a
//! ring that is set up anew goes on from `used->idx` whatever base the front end remembers.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{DESC_SIZE, Desc, Walk};
use super::taken::{Taken, Until};
use super::{MAX_QUEUE_SIZE, RingError, RingLog, RingSetup, Virtqueue};
use crate::memory::{Entries, MemoryTable, Window};

const AVAIL_F_NO_INTERRUPT: u16 = virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT as u16;
const USED_F_NO_NOTIFY: u16 = virtio_bindings::virtio_ring::VRING_USED_F_NO_NOTIFY as u16;

// Both rings open with flags and index, 16 bits each; an event field ends them (virtio 1.3, 2.7.6 and 2.7.8).
const FLAGS: usize = 0;
const IDX: usize = 2;
const ENTRIES: usize = 4;
const AVAIL_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;
const EVENT: usize = 2;

/// The device's side of a split virtqueue.
#[derive(Debug)]
pub struct SplitRing {
    setup: RingSetup,
    desc: Entries<DESC_SIZE>,
    avail: Window,
    avail_ring: Entries<AVAIL_ENTRY>,
    used: Window,
    used_ring: Entries<USED_ENTRY>,
    taken: Taken,
    /// Available index at the last look.
    avail_idx: u16,
    /// Next entry of the available ring to take.
    next_avail: u16,
    /// Next entry of the used ring to write.
    next_used: u16,
    /// Used index as the driver sees it.
    published: u16,
    /// Used index at the last call decision; none before the first.
    signalled: Option<u16>,
    log: Option<RingLog>,
}

impl SplitRing {
    /// Sets up a ring in the memory of `table`, at the place where the used ring says it stood.
    ///
    /// # Errors
    /// When the size is not allowed or a part of the ring is not in guest memory or not aligned.
    pub fn new(table: &Arc<MemoryTable>, setup: RingSetup) -> Result<Self, RingError> {
        if !setup.size.is_power_of_two() || setup.size > MAX_QUEUE_SIZE {
            return Err(RingError::Size(setup.size));
        }
        let size = usize::from(setup.size);
        let event = if setup.event_idx { EVENT } else { 0 };
        let desc = table.entries(setup.desc, size, 16)?;
        let avail = table.window(setup.avail, ENTRIES + size * AVAIL_ENTRY + event, 2)?;
        let used = table.window(setup.used, ENTRIES + size * USED_ENTRY + event, 4)?;
        let next_used = used.load_u16_acquire(IDX);
        Ok(Self {
            setup,
            desc,
            avail,
            // Inside the windows above.
            avail_ring: table.entries(setup.avail + ENTRIES as u64, size, 2)?,
            used,
            used_ring: table.entries(setup.used + ENTRIES as u64, size, 4)?,
            taken: Taken::new(table.clone()),
            avail_idx: next_used,
            next_avail: next_used,
            next_used,
            published: next_used,
            signalled: None,
            log: None,
        })
    }

    #[inline]
    fn take(&mut self, mut until: Until) -> Result<usize, RingError> {
        loop {
            let (max, max_bytes) = self.taken.wants(&until);
            if max == 0 {
                break;
            }
            if self.avail_idx == self.next_avail {
                self.look()?;
                if self.avail_idx == self.next_avail {
                    break;
                }
            }
            let offered = self.avail_idx.wrapping_sub(self.next_avail);
            let max = max.min(offered.into());
            let took = self.take_whole(max, max_bytes);
            if took < max && self.taken.wants(&until).0 > 0 {
                let slot = usize::from(self.next_avail & (self.setup.size - 1));
                until.walked += self.walk(self.avail_ring.view().load_u16(slot))?;
                self.next_avail = self.next_avail.wrapping_add(1);
            }
        }
        Ok(self.taken.len())
    }

    /// Takes chains of one descriptor, as most are, until one is not that; says how many.
    #[inline]
    fn take_whole(&mut self, max: usize, max_bytes: usize) -> usize {
        let Self { setup, taken, next_avail, .. } = self;
        let (setup, avail, desc) = (*setup, self.avail_ring.view(), self.desc.view());
        let start = *next_avail;
        let took = taken.push_near(max, max_bytes, setup.access, |n| {
            let slot = start.wrapping_add(n as u16) & (setup.size - 1);
            let head = avail.load_u16(slot.into());
            if head >= setup.size {
                return None;
            }
            let desc = Desc::split(desc.read_words(head.into()));
            desc.is_whole_chain(&setup).then_some((head, desc.address, desc.len))
        });
        *next_avail = start.wrapping_add(took as u16);
        took
    }

    fn walk(&mut self, head: u16) -> Result<usize, RingError> {
        let (table, size) = (&self.desc, self.setup.size);
        Walk::chain(&self.setup, head, &mut self.taken, |walk| walk.split(table, head, size, true).map(|()| (head, 1)))
    }

    /// Reads the available index. Acquire pairs with the driver's barrier between entries and index (virtio 1.3,
    /// 2.7.13.3): the entries and descriptors that it covers are seen.
    #[inline]
    fn look(&mut self) -> Result<(), RingError> {
        let (avail_idx, next_used, size) = (self.avail.load_u16_acquire(IDX), self.next_used, self.setup.size);
        let (offered, taken) = (avail_idx.wrapping_sub(next_used), self.next_avail.wrapping_sub(next_used));
        if offered > size || offered < taken {
            return Err(RingError::AvailIndex { avail_idx, next_used, size });
        }
        self.avail_idx = avail_idx;
        Ok(())
    }

    /// Marks what the device wrote to the oldest chains, and their used elements.
    #[inline]
    fn mark_completed(&self, written: &[u32]) {
        if let Some(log) = &self.log {
            self.taken.mark_each(written, log.pages());
            (0..written.len()).for_each(|n| self.mark_element(self.next_used.wrapping_add(n as u16)));
        }
    }

    #[inline]
    fn mark_element(&self, index: u16) {
        self.mark_used(ENTRIES + usize::from(index & (self.setup.size - 1)) * USED_ENTRY, USED_ENTRY);
    }

    #[inline]
    fn mark_used(&self, at: usize, len: usize) {
        if let Some(log) = &self.log {
            log.mark_used(at, len);
        }
    }
}

impl Virtqueue for SplitRing {
    fn setup(&self) -> &RingSetup {
        &self.setup
    }

    /// The first chain that is not completed, 16 bits.
    fn base(&self) -> u32 {
        self.next_used.into()
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
        self.taken.len() >= usize::from(self.setup.size)
    }

    fn complete(&mut self, written: u32) {
        self.complete_burst(&[written]);
    }

    #[inline]
    fn complete_burst(&mut self, written: &[u32]) {
        let (used, mask) = (self.used_ring.view(), self.setup.size - 1);
        let mut next_used = self.next_used;
        for (chain, len) in self.taken.chains().iter().zip(written) {
            used.write_u64(usize::from(next_used & mask), u64::from(*len) << 32 | u64::from(chain.id));
            next_used = next_used.wrapping_add(1);
        }
        self.mark_completed(written);
        self.next_used = next_used;
        self.taken.give_back(written.len());
    }

    #[inline]
    fn complete_unwritten(&mut self, n: usize) {
        let n = n.min(self.taken.len());
        if self.setup.in_order {
            // virtio 1.3, 2.7.8.1: one element names the last chain of a batch and stands for all of them.
            if let Some(last) = n.checked_sub(1).map(|last| self.taken.chains()[last]) {
                let slot = usize::from(self.next_used & (self.setup.size - 1));
                self.used_ring.view().write_u64(slot, last.id.into());
                self.mark_element(self.next_used);
                self.taken.give_back(n);
                self.next_used = self.next_used.wrapping_add(n as u16);
            }
            return;
        }
        let (used, mask) = (self.used_ring.view(), self.setup.size - 1);
        let mut next_used = self.next_used;
        for chain in &self.taken.chains()[..n] {
            used.write_u64(usize::from(next_used & mask), chain.id.into());
            next_used = next_used.wrapping_add(1);
        }
        if self.log.is_some() {
            (0..n).for_each(|n| self.mark_element(self.next_used.wrapping_add(n as u16)));
        }
        self.next_used = next_used;
        self.taken.give_back(n);
    }

    #[inline]
    fn publish(&mut self) -> bool {
        self.taken.rest();
        let new = self.next_used != self.published;
        if new {
            // Release: the used elements and the packet bytes are written before the index covers them.
            self.used.store_u16_release(IDX, self.next_used);
            self.mark_used(IDX, 2);
            self.published = self.next_used;
        }
        new
    }

    fn untake(&mut self) {
        self.taken.clear();
        self.next_avail = self.next_used;
        self.avail_idx = self.next_used;
    }

    fn arm_kicks(&mut self) -> Result<bool, RingError> {
        let at = if self.setup.event_idx { ENTRIES + usize::from(self.setup.size) * USED_ENTRY } else { FLAGS };
        self.used.store_u16(at, if self.setup.event_idx { self.next_avail } else { 0 });
        self.mark_used(at, 2);
        // Pairs with the driver's full barrier between its available index and its read of avail_event or flags
        // (virtio 1.3, 2.7.13.4.1): either it sees that kicks are armed, or we see its chain.
        fence(Ordering::SeqCst);
        self.look()?;
        Ok(self.avail_idx != self.next_avail)
    }

    /// With EVENT_IDX there is nothing to write: the event index stays behind, and the driver passes it once in 65,536
    /// chains.
    fn suppress_kicks(&mut self) {
        if !self.setup.event_idx {
            self.used.store_u16(FLAGS, USED_F_NO_NOTIFY);
            self.mark_used(FLAGS, 2);
        }
    }

    fn used_any(&self) -> bool {
        self.published != 0
    }

    fn forget_calls(&mut self) {
        self.signalled = None;
    }

    #[inline]
    fn needs_call(&mut self) -> bool {
        let new = self.published;
        // Pairs with the driver's full barrier between its write of used_event or flags and its look at the used
        // index (virtio 1.3, 2.7.7.1): either it sees our index, or we see that it wants to be called.
        fence(Ordering::SeqCst);
        let old = self.signalled.replace(new);
        if !self.setup.event_idx {
            return self.avail.load_u16(FLAGS) & AVAIL_F_NO_INTERRUPT == 0;
        }
        let used_event = self.avail.load_u16(ENTRIES + usize::from(self.setup.size) * AVAIL_ENTRY);
        // Nothing is known of what the driver saw before the first decision, so the first is always a call.
        old.is_none_or(|old| new.wrapping_sub(used_event).wrapping_sub(1) < new.wrapping_sub(old))
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
