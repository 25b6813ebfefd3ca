//! The split virtqueue (virtio 1.3, 2.7): descriptor table, available ring, used ring.
//!
//! Chains are completed in the order in which they were taken, so the used index alone tells where a ring stands: a
//! ring that is set up anew goes on from `used->idx` whatever base the front end remembers.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{DESC_SIZE, Desc, Walk};
use super::taken::{Taken, Until, Walked};
use super::{MAX_QUEUE_SIZE, RingError, RingLog, RingSetup, Virtqueue};
use crate::memory::{Buffers, MemoryTable, Window};

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
    desc: Window,
    avail: Window,
    used: Window,
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
        let desc = table.window(setup.desc, size * DESC_SIZE, 16)?;
        let avail = table.window(setup.avail, ENTRIES + size * AVAIL_ENTRY + event, 2)?;
        let used = table.window(setup.used, ENTRIES + size * USED_ENTRY + event, 4)?;
        let next_used = used.load_u16_acquire(IDX);
        Ok(Self {
            setup,
            desc,
            avail,
            used,
            taken: Taken::new(table.clone()),
            avail_idx: next_used,
            next_avail: next_used,
            next_used,
            published: next_used,
            signalled: None,
            log: None,
        })
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.setup.size - 1))
    }

    #[inline]
    fn take(&mut self, until: Until) -> Result<usize, RingError> {
        let Self { setup, desc, avail, avail_idx, next_avail, next_used, taken, .. } = self;
        taken.take(until, |buffers| {
            if avail_idx == next_avail {
                *avail_idx = look(avail, setup.size, *next_avail, *next_used)?;
                if avail_idx == next_avail {
                    return Ok(None);
                }
            }
            let slot = usize::from(*next_avail & (setup.size - 1));
            let head = avail.load_u16(ENTRIES + slot * AVAIL_ENTRY);
            let chain = walk(setup, desc, head, buffers)?;
            *next_avail = next_avail.wrapping_add(1);
            Ok(Some(chain))
        })
    }

    /// Writes the next used element. It covers `chains` chains, of which it names the last.
    #[inline]
    fn use_slot(&mut self, id: u16, len: u32, chains: u16) {
        let at = ENTRIES + self.slot(self.next_used) * USED_ENTRY;
        self.used.write(at, ((u64::from(len) << 32) | u64::from(id)).to_le_bytes());
        self.mark_used(at, USED_ENTRY);
        self.next_used = self.next_used.wrapping_add(chains);
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
        self.take(Until::Either(max_chains, max_bytes))
    }

    #[inline]
    fn reserve(&mut self, chains: usize, bytes: usize) -> Result<usize, RingError> {
        self.take(Until::Both(chains, bytes))
    }

    fn is_all_taken(&self) -> bool {
        self.taken.len() >= usize::from(self.setup.size)
    }

    #[inline]
    fn complete(&mut self, written: u32) {
        let log = self.log.as_ref().map(RingLog::pages);
        if let Some(chain) = self.taken.give_back(written as usize, log) {
            self.use_slot(chain.id, written, 1);
        }
    }

    #[inline]
    fn complete_unwritten(&mut self, n: usize) {
        // virtio 1.3, 2.7.8.1: with IN_ORDER, one element names the last chain of a batch and stands for all of them.
        let mut batch = (0, 0);
        for _ in 0..n {
            let Some(chain) = self.taken.give_back(0, None) else { break };
            if self.setup.in_order {
                batch = (chain.id, batch.1 + 1);
            } else {
                self.use_slot(chain.id, 0, 1);
            }
        }
        if batch.1 > 0 {
            self.use_slot(batch.0, 0, batch.1);
        }
    }

    #[inline]
    fn publish(&mut self) -> bool {
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
        self.avail_idx = look(&self.avail, self.setup.size, self.next_avail, self.next_used)?;
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

/// Reads the available index. Acquire pairs with the driver's barrier between entries and index (virtio 1.3,
/// 2.7.13.3): the entries and descriptors that it covers are seen.
#[inline]
fn look(avail: &Window, size: u16, next_avail: u16, next_used: u16) -> Result<u16, RingError> {
    let avail_idx = avail.load_u16_acquire(IDX);
    let (offered, taken) = (avail_idx.wrapping_sub(next_used), next_avail.wrapping_sub(next_used));
    if offered > size || offered < taken {
        return Err(RingError::AvailIndex { avail_idx, next_used, size });
    }
    Ok(avail_idx)
}

/// Walks the chain at `head` and adds its slices to `buffers`.
#[inline]
fn walk(setup: &RingSetup, table: &Window, head: u16, buffers: &mut Buffers) -> Result<Walked, RingError> {
    if head < setup.size {
        let desc = Desc::read_split(table, head);
        if desc.is_whole_chain(setup) {
            let len = desc.len as usize;
            buffers.push(desc.address, len)?;
            return Ok(Walked { id: head, slots: 1, descriptors: 1, len });
        }
    }
    let mut walk = Walk::new(setup, head, buffers);
    walk.split(table, head, setup.size, true)?;
    walk.end(head, 1)
}
