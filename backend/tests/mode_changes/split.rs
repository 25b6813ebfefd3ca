//! A driver's side of a split ring (virtio 1.3, 2.7.13 and 2.7.14).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vnicd::memory::{MemoryTable, Window};

use crate::driver::Driver;
use crate::shared::{BUFFER, BUFFERS, DESC, DEVICE, DRIVER, Format, SIZE, buffer, page};

const F_WRITE: u16 = 2;
const NO_EVENTS: u16 = 1;

const FLAGS: usize = 0;
const IDX: usize = 2;
const ENTRIES: usize = 4;
const USED_EVENT: usize = ENTRIES + SIZE as usize * 2;
const AVAIL_EVENT: usize = ENTRIES + SIZE as usize * 8;

pub(crate) struct SplitDriver {
    event_idx: bool,
    avail: Window,
    used: Window,
    buffers: Window,
    avail_idx: u16,
    published: u16,
    last_used: u16,
}

impl Driver for SplitDriver {
    fn new(table: &Arc<MemoryTable>, format: Format) -> Self {
        let desc = page(table, DESC);
        for slot in 0..SIZE {
            let at = usize::from(slot) * 16;
            desc.write(at, (BUFFERS + buffer(slot) as u64).to_le_bytes());
            desc.write(at + 8, (BUFFER as u32).to_le_bytes());
            desc.write(at + 12, F_WRITE.to_le_bytes());
        }
        Self {
            event_idx: format.event_idx,
            avail: page(table, DRIVER),
            used: page(table, DEVICE),
            buffers: page(table, BUFFERS),
            avail_idx: 0,
            published: 0,
            last_used: 0,
        }
    }

    fn send(&mut self, number: u64) {
        let slot = self.avail_idx % SIZE;
        self.buffers.write(buffer(slot), number.to_le_bytes());
        self.avail.write(ENTRIES + usize::from(slot) * 2, slot.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.avail_idx);
        self.published = new;
        self.avail.store_u16_release(IDX, new);
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return self.used.load_u16(FLAGS) & NO_EVENTS == 0;
        }
        let event = self.used.load_u16(AVAIL_EVENT);
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    fn take(&mut self) -> Option<(u64, u32)> {
        if !self.is_back() {
            return None;
        }
        let slot = self.last_used % SIZE;
        let element = u64::from_le_bytes(self.used.read(ENTRIES + usize::from(slot) * 8));
        assert_eq!(element as u32, u32::from(slot), "another chain came back");
        self.last_used = self.last_used.wrapping_add(1);
        Some((u64::from_le_bytes(self.buffers.read(buffer(slot))), (element >> 32) as u32))
    }

    fn arm_calls(&mut self) -> bool {
        if self.event_idx {
            self.avail.store_u16(USED_EVENT, self.last_used);
        } else {
            self.avail.store_u16(FLAGS, 0);
        }
        fence(Ordering::SeqCst);
        self.is_back()
    }

    fn suppress_calls(&mut self) {
        if !self.event_idx {
            self.avail.store_u16(FLAGS, NO_EVENTS);
        }
    }
}

impl SplitDriver {
    fn is_back(&self) -> bool {
        self.used.load_u16_acquire(IDX) != self.last_used
    }
}
