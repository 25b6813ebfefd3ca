//! The driver's side of a split virtqueue (virtio 1.3, 2.7), made for speed.
//!
//! A chain is one descriptor, or one that points to an indirect table of two, and descriptor `n` belongs to slot `n` for
//! good. Free slots wait in a queue that the available index walks through, so a device that completes in order finds
//! the same numbers in the available ring round after round, and nothing is written that is there already: the cache
//! lines of descriptors and available entries stay shared between both sides.

#![forbid(unsafe_code)]

use std::sync::atomic::{Ordering, fence};

use anyhow::{Result, ensure};

use super::descriptors::Descriptors;
pub use super::descriptors::RingConfig;
use super::memory::{Memory, View};

const FLAGS: usize = 0;
const IDX: usize = 2;
const ENTRIES: usize = 4;
const AVAIL_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;

const F_NO_INTERRUPT: u16 = 1;
const F_NO_NOTIFY: u16 = 1;

/// A chain that the device gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its slot.
    pub slot: u16,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// The device broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// More chains came back than are out.
    #[error("the used index jumped to {used_idx} while {last_used} were seen and {in_flight} are out")]
    UsedIndex {
        /// The device's index.
        used_idx: u16,
        /// The driver's.
        last_used: u16,
        /// Chains that the device has.
        in_flight: u16,
    },
    /// A chain that the device does not have.
    #[error("the device gave back chain {0}, which it does not have")]
    NotOut(u32),
}

/// The driver's side of a ring and its buffers.
#[derive(Debug)]
pub struct Ring {
    config: RingConfig,
    descriptors: Descriptors,
    avail: View,
    used: View,
    buffers: View,
    /// Slots by the available index at which they will be used next.
    free: Box<[u16]>,
    /// Whether the device has the slot.
    out: Box<[bool]>,
    /// What stands in the available ring.
    offered: Box<[u16]>,
    avail_idx: u16,
    published: u16,
    used_idx: u16,
    last_used: u16,
}

impl Ring {
    /// A ring of free slots in `memory`.
    ///
    /// # Errors
    /// When the size is no power of two or the memory is used up.
    pub fn new(memory: &mut Memory, config: RingConfig) -> Result<Self> {
        ensure!(config.size.is_power_of_two(), "ring size {} is no power of two", config.size);
        ensure!(config.offset + config.buffer_len as usize <= config.stride, "buffers overlap");
        let size = usize::from(config.size);
        let buffers = memory.cut(size * config.stride)?;
        Ok(Self {
            descriptors: Descriptors::new(memory, config, buffers.guest_address())?,
            avail: memory.cut(ENTRIES + size * AVAIL_ENTRY + 2)?,
            used: memory.cut(ENTRIES + size * USED_ENTRY + 2)?,
            buffers,
            free: (0..config.size).collect(),
            out: vec![false; size].into(),
            offered: vec![0; size].into(),
            avail_idx: 0,
            published: 0,
            used_idx: 0,
            last_used: 0,
            config,
        })
    }

    /// Bytes of memory that a ring needs.
    #[must_use]
    pub fn bytes(config: &RingConfig) -> usize {
        usize::from(config.size) * (config.stride + 3 * 16 + AVAIL_ENTRY + USED_ENTRY) + 6 * 4096
    }

    /// How it was made.
    #[must_use]
    pub fn config(&self) -> &RingConfig {
        &self.config
    }

    /// Descriptor table, available ring and used ring, for the front end to tell of.
    #[must_use]
    pub fn parts(&self) -> [&View; 3] {
        [self.descriptors.table(), &self.avail, &self.used]
    }

    /// All buffers; a slot's starts at [`Ring::at`].
    #[must_use]
    pub fn buffers(&self) -> &View {
        &self.buffers
    }

    /// Where a slot's buffer starts.
    #[inline]
    #[must_use]
    pub fn at(&self, slot: u16) -> usize {
        self.config.at(slot)
    }

    /// How many chains may be offered.
    #[inline]
    #[must_use]
    pub fn room(&self) -> u16 {
        self.config.size - self.in_flight()
    }

    /// Chains that the device has, or that are not taken back from it.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.avail_idx.wrapping_sub(self.last_used)
    }

    /// The slot that is offered next: to be filled before.
    #[inline]
    #[must_use]
    pub fn next_slot(&self) -> u16 {
        self.free[self.index(self.avail_idx)]
    }

    /// Bytes of the chain last offered in a slot.
    #[inline]
    #[must_use]
    pub fn len_of(&self, slot: u16) -> u32 {
        self.descriptors.len_of(slot)
    }

    /// Offers the next slot with `len` bytes; seen by the device after [`Ring::publish`]. There must be room.
    #[inline]
    pub fn offer(&mut self, len: u32) {
        assert!(self.room() > 0, "the ring is full");
        let at = self.index(self.avail_idx);
        let slot = self.free[at];
        if self.descriptors.len_of(slot) != len {
            self.descriptors.write(slot, len);
        }
        if self.offered[at] != slot {
            self.offered[at] = slot;
            self.avail.write(ENTRIES + at * AVAIL_ENTRY, &slot.to_le_bytes());
        }
        self.out[usize::from(slot)] = true;
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    /// Shows the device what was offered. None when that is nothing; else whether it wants a kick.
    #[inline]
    pub fn publish(&mut self) -> Option<bool> {
        let (old, new) = (self.published, self.avail_idx);
        if old == new {
            return None;
        }
        // Release: descriptors, entries and packets are written before the index covers them.
        self.avail.store_u16(IDX, new, Ordering::Release);
        self.published = new;
        // Pairs with the device's full barrier between arming kicks and its second look (virtio 1.3, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        Some(if self.config.event_idx {
            let event = self.used.load_u16(ENTRIES + usize::from(self.config.size) * USED_ENTRY, Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.used.load_u16(FLAGS, Ordering::Relaxed) & F_NO_NOTIFY == 0
        })
    }

    /// Looks at the used index; how many chains can be taken back by [`Ring::take`].
    ///
    /// # Errors
    /// When more came back than are out.
    #[inline]
    pub fn look(&mut self) -> Result<u16, DeviceError> {
        // Acquire pairs with the device's release: used elements and packets are written before the index covers them.
        let used_idx = self.used.load_u16(IDX, Ordering::Acquire);
        let (last_used, in_flight) = (self.last_used, self.published.wrapping_sub(self.last_used));
        if used_idx.wrapping_sub(last_used) > in_flight {
            return Err(DeviceError::UsedIndex { used_idx, last_used, in_flight });
        }
        self.used_idx = used_idx;
        Ok(used_idx.wrapping_sub(last_used))
    }

    /// Takes a chain back that the last [`Ring::look`] saw.
    ///
    /// # Errors
    /// When the device does not have that chain.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Used>, DeviceError> {
        if self.last_used == self.used_idx {
            return Ok(None);
        }
        let at = self.index(self.last_used);
        let [i0, i1, i2, i3, l0, l1, l2, l3] = self.used.read(ENTRIES + at * USED_ENTRY);
        let (id, len) = (u32::from_le_bytes([i0, i1, i2, i3]), u32::from_le_bytes([l0, l1, l2, l3]));
        let Some(slot) = u16::try_from(id).ok().filter(|id| self.out.get(usize::from(*id)) == Some(&true)) else {
            return Err(DeviceError::NotOut(id));
        };
        self.out[usize::from(slot)] = false;
        self.free[at] = slot;
        self.last_used = self.last_used.wrapping_add(1);
        Ok(Some(Used { slot, len }))
    }

    /// Asks for a call when `more` chains beyond the next one have come back, and looks again: whether any is here
    /// already, of which no call may tell. Without EVENT_IDX the next chain calls.
    ///
    /// # Errors
    /// When more came back than are out.
    pub fn arm_calls(&mut self, more: u16) -> Result<bool, DeviceError> {
        if self.config.event_idx {
            self.set_used_event(self.last_used.wrapping_add(more));
        } else {
            self.avail.store_u16(FLAGS, 0, Ordering::Relaxed);
        }
        // Pairs with the device's full barrier between its used index and its look at used_event or flags (2.7.7.1).
        fence(Ordering::SeqCst);
        Ok(self.look()? > more)
    }

    /// Tells the device that it need not call. With EVENT_IDX one call in 65,536 chains is left.
    pub fn suppress_calls(&mut self) {
        if self.config.event_idx {
            self.set_used_event(self.last_used.wrapping_sub(1));
        } else {
            self.avail.store_u16(FLAGS, F_NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    fn set_used_event(&self, event: u16) {
        self.avail.store_u16(ENTRIES + usize::from(self.config.size) * AVAIL_ENTRY, event, Ordering::Relaxed);
    }

    #[inline]
    fn index(&self, idx: u16) -> usize {
        usize::from(idx & (self.config.size - 1))
    }
}
