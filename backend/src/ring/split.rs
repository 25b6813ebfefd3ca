//! The split virtqueue (virtio 1.3, 2.7): descriptor table, available ring, used ring.
//!
//! Chains are completed in the order in which they were taken, so the used index alone tells where a ring stands: a
//! ring that is set up anew goes on from `used->idx` whatever base the front end remembers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::chain::{self, Chain, DESC_SIZE};
use super::{MAX_QUEUE_SIZE, RingError, RingSetup};
use crate::memory::{Buffers, GuestSlice, MemoryTable, Window};

const AVAIL_F_NO_INTERRUPT: u16 = virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT as u16;
const USED_F_NO_NOTIFY: u16 = virtio_bindings::virtio_ring::VRING_USED_F_NO_NOTIFY as u16;

// Both rings open with flags and index, 16 bits each; an event field ends them (virtio 1.3, 2.7.6 and 2.7.8).
const FLAGS: usize = 0;
const IDX: usize = 2;
const ENTRIES: usize = 4;
const AVAIL_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;
const EVENT: usize = 2;

/// Slices of completed chains are forgotten together, at the latest when this many have gathered.
const FORGET_SLICES: usize = 1024;

/// The device's side of a split virtqueue.
#[derive(Debug)]
pub struct SplitRing {
    setup: RingSetup,
    desc: Window,
    avail: Window,
    used: Window,
    buffers: Buffers,
    /// Chains taken and not yet completed, oldest first.
    taken: VecDeque<Chain>,
    taken_len: usize,
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
}

impl SplitRing {
    /// Sets up a ring in the memory of `table`, at the place where the used ring says it stood.
    ///
    /// # Errors
    /// When the size is not allowed or a part of the ring is not in guest memory or not aligned.
    pub fn new(table: &Arc<MemoryTable>, setup: RingSetup) -> Result<Self, RingError> {
        if !setup.size.is_power_of_two() || setup.size > MAX_QUEUE_SIZE {
            return Err(RingError::Size(setup.size.into()));
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
            buffers: Buffers::new(table.clone()),
            taken: VecDeque::new(),
            taken_len: 0,
            avail_idx: next_used,
            next_avail: next_used,
            next_used,
            published: next_used,
            signalled: None,
        })
    }

    /// How the ring was set up.
    #[must_use]
    pub fn setup(&self) -> &RingSetup {
        &self.setup
    }

    /// Where the ring stands: the first chain that is not completed (vhost-user, `VHOST_USER_GET_VRING_BASE`).
    #[must_use]
    pub fn base(&self) -> u16 {
        self.next_used
    }

    /// Takes chains until `max_chains` or `max_bytes` are taken and not completed, or the driver has no more; says
    /// how many are taken now.
    ///
    /// # Errors
    /// When the driver broke the ring. Chains taken before the broken one are still good.
    pub fn take_burst(&mut self, max_chains: usize, max_bytes: usize) -> Result<usize, RingError> {
        while self.taken.len() < max_chains && self.taken_len < max_bytes && self.has_next()? {
            let slot = usize::from(self.next_avail & (self.setup.size - 1));
            let head = self.avail.load_u16(ENTRIES + slot * AVAIL_ENTRY);
            let slices = self.buffers.len();
            match chain::walk(&self.setup, &self.desc, head, &mut self.buffers) {
                Ok(chain) => {
                    self.taken_len += chain.len;
                    self.taken.push_back(chain);
                    self.next_avail = self.next_avail.wrapping_add(1);
                }
                Err(e) => {
                    self.buffers.truncate(slices);
                    return Err(e);
                }
            }
        }
        Ok(self.taken.len())
    }

    /// Whether the driver offers a chain that is not taken. Reads the index only when those seen before are used up.
    #[inline]
    fn has_next(&mut self) -> Result<bool, RingError> {
        if self.avail_idx == self.next_avail {
            self.look()?;
        }
        Ok(self.avail_idx != self.next_avail)
    }

    /// Reads the available index. Acquire pairs with the driver's barrier between entries and index (virtio 1.3,
    /// 2.7.13.3): the entries and descriptors that it covers are seen.
    #[inline]
    fn look(&mut self) -> Result<(), RingError> {
        let avail_idx = self.avail.load_u16_acquire(IDX);
        let size = self.setup.size;
        if avail_idx.wrapping_sub(self.next_used) > size
            || avail_idx.wrapping_sub(self.next_used) < self.next_avail.wrapping_sub(self.next_used)
        {
            return Err(RingError::AvailIndex { avail_idx, next_used: self.next_used, size });
        }
        self.avail_idx = avail_idx;
        Ok(())
    }

    /// Chains taken and not yet completed, oldest first.
    #[must_use]
    pub fn taken(&self) -> &VecDeque<Chain> {
        &self.taken
    }

    /// Bytes of all chains taken and not yet completed.
    #[must_use]
    pub fn taken_len(&self) -> usize {
        self.taken_len
    }

    /// Whether every entry of the ring is taken: the driver can offer no more until some are completed.
    #[must_use]
    pub fn is_all_taken(&self) -> bool {
        self.taken.len() >= usize::from(self.setup.size)
    }

    /// The buffers of taken chains number `first` to `first + n`, in a row.
    #[inline]
    #[must_use]
    pub fn slices(&self, first: usize, n: usize) -> &[GuestSlice<'_>] {
        match (self.taken.get(first), self.taken.get((first + n).wrapping_sub(1))) {
            (Some(a), Some(z)) if n > 0 => self.buffers.get(a.slices.start..z.slices.end),
            _ => &[],
        }
    }

    /// Hands the oldest taken chain back to the driver with `len` bytes written to it; seen by the driver after
    /// [`SplitRing::publish`].
    #[inline]
    pub fn complete(&mut self, len: u32) {
        let Some(chain) = self.taken.pop_front() else { return };
        self.taken_len -= chain.len;
        let slot = usize::from(self.next_used & (self.setup.size - 1));
        let element = (u64::from(len) << 32) | u64::from(chain.head);
        self.used.write(ENTRIES + slot * USED_ENTRY, element.to_le_bytes());
        self.next_used = self.next_used.wrapping_add(1);
        if self.taken.is_empty() {
            self.buffers.clear();
        } else if chain.slices.end >= FORGET_SLICES {
            let gone = chain.slices.end;
            self.buffers.drop_front(gone);
            for chain in &mut self.taken {
                chain.slices = chain.slices.start - gone..chain.slices.end - gone;
            }
        }
    }

    /// Shows the driver what was completed. Once a burst; says whether there was anything.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let new = self.next_used != self.published;
        if new {
            // Release: the used elements and the packet bytes are written before the index covers them.
            self.used.store_u16_release(IDX, self.next_used);
            self.published = self.next_used;
        }
        new
    }

    /// Gives taken chains back untouched: they will be taken again, from whatever memory the guest has then.
    pub fn untake(&mut self) {
        self.taken.clear();
        self.taken_len = 0;
        self.buffers.clear();
        self.next_avail = self.next_used;
        self.avail_idx = self.next_used;
    }

    /// Asks the driver to kick at its next chain, and looks again. `Ok(true)`: a chain slipped in meanwhile that no
    /// kick will tell of; take it before sleeping.
    ///
    /// # Errors
    /// When the driver broke the ring.
    pub fn arm_kicks(&mut self) -> Result<bool, RingError> {
        if self.setup.event_idx {
            self.used.store_u16(ENTRIES + usize::from(self.setup.size) * USED_ENTRY, self.next_avail);
        } else {
            self.used.store_u16(FLAGS, 0);
        }
        // Pairs with the driver's full barrier between its available index and its read of avail_event or flags
        // (virtio 1.3, 2.7.13.4.1): either it sees that kicks are armed, or we see its chain.
        fence(Ordering::SeqCst);
        self.look()?;
        Ok(self.avail_idx != self.next_avail)
    }

    /// Tells the driver that it need not kick. With EVENT_IDX there is nothing to write: the event index stays behind,
    /// and the driver passes it once in 65,536 chains.
    pub fn suppress_kicks(&mut self) {
        if !self.setup.event_idx {
            self.used.store_u16(FLAGS, USED_F_NO_NOTIFY);
        }
    }

    /// Whether the ring has ever given a chain back, as far as its index tells.
    #[must_use]
    pub fn used_any(&self) -> bool {
        self.published != 0
    }

    /// Forgets what the driver was called for: the next [`SplitRing::needs_call`] says no only to a driver that
    /// suppresses all calls.
    pub fn forget_calls(&mut self) -> &mut Self {
        self.signalled = None;
        self
    }

    /// Whether the driver wants a call for what was published since the last time this was asked.
    #[inline]
    pub fn needs_call(&mut self) -> bool {
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
}
