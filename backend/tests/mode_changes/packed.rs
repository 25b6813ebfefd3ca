//! A driver's side of a packed ring (virtio 1.3, 2.8.21 and 2.8.22).

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vnicd::memory::{MemoryTable, Window};

use crate::driver::Driver;
use crate::shared::{BUFFER, BUFFERS, DESC, DEVICE, DRIVER, Format, SIZE, buffer, page};

const F_WRITE: u16 = 2;
const F_AVAIL: u16 = 1 << 7;
const F_USED: u16 = 1 << 15;

// A descriptor: address, then these.
const LEN: usize = 8;
const ID: usize = 12;
const DESC_FLAGS: usize = 14;

// An event area.
const OFF_WRAP: usize = 0;
const EVENT_FLAGS: usize = 2;
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_PLACE: u16 = 2;

/// Chains are counted on; a count says the place.
#[derive(Clone, Copy)]
struct Count(u64);

impl Count {
    fn slot(self) -> u16 {
        (self.0 % u64::from(SIZE)) as u16
    }

    fn wrap(self) -> bool {
        (self.0 / u64::from(SIZE)).is_multiple_of(2)
    }

    fn off_wrap(self) -> u16 {
        self.slot() | u16::from(self.wrap()) << 15
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

pub(crate) struct PackedDriver {
    event_idx: bool,
    desc: Window,
    driver_event: Window,
    device_event: Window,
    buffers: Window,
    next_avail: Count,
    published: Count,
    next_used: Count,
}

impl Driver for PackedDriver {
    fn new(table: &Arc<MemoryTable>, format: Format) -> Self {
        Self {
            event_idx: format.event_idx,
            desc: page(table, DESC),
            driver_event: page(table, DRIVER),
            device_event: page(table, DEVICE),
            buffers: page(table, BUFFERS),
            next_avail: Count(0),
            published: Count(0),
            next_used: Count(0),
        }
    }

    /// All but the first of a batch become available at once: the device looks at no other before it.
    fn send(&mut self, number: u64) {
        let slot = self.next_avail.slot();
        let at = usize::from(slot) * 16;
        self.buffers.write(buffer(slot), number.to_le_bytes());
        self.desc.write(at, (BUFFERS + buffer(slot) as u64).to_le_bytes());
        self.desc.write(at + LEN, (BUFFER as u32).to_le_bytes());
        self.desc.write(at + ID, slot.to_le_bytes());
        if self.next_avail.0 != self.published.0 {
            self.desc.store_u16(at + DESC_FLAGS, avail_flags(self.next_avail));
        }
        self.next_avail = self.next_avail.next();
    }

    fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_avail);
        self.published = new;
        self.desc.store_u16_release(usize::from(old.slot()) * 16 + DESC_FLAGS, avail_flags(old));
        fence(Ordering::SeqCst);
        match self.device_event.load_u16_acquire(EVENT_FLAGS) {
            AT_PLACE => {
                let event = self.device_event.load_u16(OFF_WRAP);
                (old.0..new.0).any(|count| Count(count).off_wrap() == event)
            }
            flags => flags != DISABLE,
        }
    }

    fn take(&mut self) -> Option<(u64, u32)> {
        if !self.is_back() {
            return None;
        }
        let slot = self.next_used.slot();
        let at = usize::from(slot) * 16;
        assert_eq!(u16::from_le_bytes(self.desc.read(at + ID)), slot, "another chain came back");
        self.next_used = self.next_used.next();
        let written = u32::from_le_bytes(self.desc.read(at + LEN));
        Some((u64::from_le_bytes(self.buffers.read(buffer(slot))), written))
    }

    fn arm_calls(&mut self) -> bool {
        if self.event_idx {
            self.driver_event.store_u16(OFF_WRAP, self.next_used.off_wrap());
            self.driver_event.store_u16_release(EVENT_FLAGS, AT_PLACE);
        } else {
            self.driver_event.store_u16(EVENT_FLAGS, ENABLE);
        }
        fence(Ordering::SeqCst);
        self.is_back()
    }

    fn suppress_calls(&mut self) {
        self.driver_event.store_u16(EVENT_FLAGS, DISABLE);
    }
}

impl PackedDriver {
    fn is_back(&self) -> bool {
        let flags = self.desc.load_u16_acquire(usize::from(self.next_used.slot()) * 16 + DESC_FLAGS);
        // A descriptor that nobody has used yet looks used where the wrap counter is 0.
        let used = if self.next_used.wrap() { F_AVAIL | F_USED } else { 0 };
        self.next_used.0 != self.published.0 && flags & (F_AVAIL | F_USED) == used
    }
}

fn avail_flags(count: Count) -> u16 {
    F_WRITE | if count.wrap() { F_AVAIL } else { F_USED }
}
