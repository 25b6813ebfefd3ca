//! The driver of a ring: good chains, so that much is reached, and whatever else can be written into a ring.

use arbitrary::Arbitrary;
use vnicd::ring::{Access, RingSetup};

use crate::guest::{BASE, Guest};

pub const DESC: u64 = BASE;
pub const AVAIL: u64 = BASE + 0x2000;
pub const USED: u64 = BASE + 0x3000;
const BUFFERS: u64 = BASE + 0x4000;

/// What the driver or the device does.
#[derive(Arbitrary, Debug)]
pub enum Step {
    // The driver.
    Offer { index: u8, parts: u8, len: u16, table: bool },
    Desc { index: u8, address: Address, len: u16, flags: u8, owner: u8, number: u8 },
    TableDesc { index: u8, address: Address, len: u16, flags: u8, number: u8 },
    Avail { slot: u8, head: u8 },
    AvailIdx(u16),
    Event(u16, u16),
    Write(u16, [u8; 8]),
    // The device.
    Take(u8, u16),
    Reserve(u8, u16),
    Complete(u16),
    CompleteBurst(u8, u16),
    CompleteUnwritten(u8),
    Publish,
    Untake(u16),
    ArmKicks,
    SuppressKicks,
    NeedsCall,
    ForgetCalls,
    Restart,
}

/// What a descriptor points at.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Address {
    Buffer(u16),
    Table,
    Ring(u16),
    Any(u64),
}

impl Address {
    fn get(self) -> u64 {
        match self {
            Self::Buffer(at) => BUFFERS + 0x1000 + u64::from(at),
            Self::Table => BUFFERS,
            Self::Ring(at) => BASE + u64::from(at % 0x4000),
            Self::Any(at) => at,
        }
    }
}

/// A driver that mostly writes what it likes.
pub struct Driver<'a> {
    pub guest: &'a Guest,
    pub setup: RingSetup,
    /// Where it offers the next good chain: an index as the available ring has it, or a place in a packed ring.
    pub next: u16,
}

impl Driver<'_> {
    /// What the driver does in a step; says whether the step is its own.
    pub fn drive(&mut self, step: &Step) -> bool {
        let Self { guest, setup, .. } = *self;
        match *step {
            Step::Offer { index, parts, len, table } => self.offer(index.into(), parts % 8 + 1, len, table),
            Step::Desc { index, address, len, flags, owner, number } => {
                // Mostly the flags that mean something; whose a packed descriptor is.
                let owner = if setup.packed { u16::from(owner & 1) << 7 | u16::from(owner & 2) << 14 } else { 0 };
                let desc = (address.get(), len, u16::from(flags & 7) | owner, number.into());
                self.descriptor(setup.desc, index.into(), desc);
            }
            Step::TableDesc { index, address, len, flags, number } => {
                self.descriptor(BUFFERS, index.into(), (address.get(), len, flags.into(), number.into()));
            }
            Step::Avail { slot, head } => guest.write(setup.avail + 4 + u64::from(slot) * 2, &[head, 0]),
            Step::AvailIdx(idx) => guest.write(setup.avail + 2, &idx.to_le_bytes()),
            Step::Event(at, flags) if setup.packed => {
                guest.write(setup.avail, &[at.to_le_bytes(), flags.to_le_bytes()].concat());
            }
            Step::Event(at, flags) => {
                guest.write(setup.avail, &flags.to_le_bytes());
                guest.write(setup.avail + 4 + u64::from(setup.size) * 2, &at.to_le_bytes());
            }
            Step::Write(at, bytes) => guest.write(BASE + u64::from(at), &bytes),
            _ => return false,
        }
        true
    }

    /// Writes a descriptor of address, length, flags and number.
    fn descriptor(&self, table: u64, index: u16, (address, len, flags, number): (u64, u16, u16, u16)) {
        let (flags, number) = (flags.to_le_bytes(), number.to_le_bytes());
        let rest = if self.setup.packed { [number, flags] } else { [flags, number] };
        let bytes = [&address.to_le_bytes()[..], &u32::from(len).to_le_bytes(), &rest.concat()].concat();
        self.guest.write(table + u64::from(index) * 16, &bytes);
    }

    /// Offers a chain as it should be, from descriptor `index` on in a split ring.
    fn offer(&mut self, index: u16, parts: u8, len: u16, table: bool) {
        let RingSetup { packed, size, .. } = self.setup;
        let (parts, mask) = (u16::from(parts).min(size), size - 1);
        let direction = if self.setup.access == Access::Write { 2 } else { 0 };
        let part = |n: u16, next: u16| {
            let flags = direction | if n + 1 < parts { 1 } else { 0 };
            (BUFFERS + 0x1000 + u64::from(n) * 0x400, len % 0x2000, flags, next)
        };
        let whole = (BUFFERS, parts * 16, 4, 0);
        if table {
            (0..parts).for_each(|n| self.descriptor(BUFFERS, n, part(n, n + 1)));
        }
        let own = if table { 1 } else { parts };
        for n in 0..own {
            if packed {
                let (address, len, flags, _) = if table { whole } else { part(n, 0) };
                let owner = if self.next >> 15 != 0 { 1 << 7 } else { 1 << 15 };
                self.descriptor(self.setup.desc, self.next & 0x7fff, (address, len, flags | owner, index));
                self.next += 1;
                if self.next & 0x7fff == size {
                    self.next = !self.next & 1 << 15;
                }
            } else {
                let at = index.wrapping_add(n);
                let desc = if table { whole } else { part(n, at.wrapping_add(1) & mask) };
                self.descriptor(self.setup.desc, at & mask, desc);
            }
        }
        if !packed {
            let slot = u64::from(self.next & mask);
            self.guest.write(self.setup.avail + 4 + slot * 2, &(index & mask).to_le_bytes());
            self.next = self.next.wrapping_add(1);
            self.guest.write(self.setup.avail + 2, &self.next.to_le_bytes());
        }
    }
}
