//! The driver's side of a split virtqueue (virtio 1.3, 2.7.13), able to break every rule.

use std::sync::atomic::{Ordering, fence};

use super::desc::{Desc, Free, NEXT, Offered, RingMemory};
use super::format::{Calls, Format, Kicks, QueueLayout, RingFormat};

const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;
/// Before the entries of either ring: flags and index.
const ENTRIES: u64 = 4;

/// A split ring.
#[derive(Debug)]
pub struct SplitRing {
    memory: RingMemory,
    layout: QueueLayout,
    size: u16,
    event_idx: bool,
    free: Free,
    /// Index up to which chains are offered.
    pub avail_idx: u16,
    /// Index up to which used chains are taken back.
    pub used_idx: u16,
    /// Available index at the last kick decision.
    kicked_idx: u16,
}

impl SplitRing {
    pub(super) fn new(memory: RingMemory, layout: QueueLayout, size: u16, format: RingFormat) -> Self {
        let RingFormat { event_idx, in_order, .. } = format;
        let free = Free::new(size, in_order);
        Self { memory, layout, size, event_idx, free, avail_idx: 0, used_idx: 0, kicked_idx: 0 }
    }

    /// Bytes of the three parts of a ring of so many entries.
    pub(super) fn sizes(size: u64) -> [u64; 3] {
        [size * Desc::SIZE, ENTRIES + size * 2 + 2, ENTRIES + size * 8 + 2]
    }

    /// Offers whatever stands at `head`.
    pub fn offer(&mut self, head: u16) {
        self.memory.store(self.layout.avail + ENTRIES + u64::from(self.avail_idx % self.size) * 2, head);
        self.set_avail_idx(self.avail_idx.wrapping_add(1));
    }

    /// Sets the available index, right or wrong.
    pub fn set_avail_idx(&mut self, idx: u16) {
        self.avail_idx = idx;
        self.memory.store(self.layout.avail + 2, idx);
    }

    /// The used index as the device shows it.
    #[must_use]
    pub fn device_idx(&self) -> u16 {
        self.memory.load(self.layout.used + 2)
    }

    fn used_event(&self) -> u64 {
        self.layout.avail + ENTRIES + u64::from(self.size) * 2
    }

    fn avail_event(&self) -> u64 {
        self.layout.used + ENTRIES + u64::from(self.size) * 8
    }
}

impl Format for SplitRing {
    fn encode(&self, desc: &Desc) -> [u8; 16] {
        desc.split()
    }

    fn indirect_flags(&self, last: bool) -> u16 {
        if last { 0 } else { NEXT }
    }

    fn offer_chain(&mut self, chain: &[Desc], writable: u32) -> Option<Offered> {
        if chain.is_empty() || self.free.len() < chain.len() {
            return None;
        }
        let descs: Vec<u16> = chain.iter().filter_map(|_| self.free.take()).collect();
        for (i, desc) in chain.iter().enumerate() {
            let next = descs.get(i + 1).copied().unwrap_or(desc.next);
            let at = self.layout.desc + u64::from(descs[i]) * Desc::SIZE;
            self.memory.write(at, &Desc { next, ..*desc }.split());
        }
        self.offer(descs[0]);
        Some(Offered { id: descs[0], descs, writable })
    }

    fn wants_kick(&mut self) -> bool {
        let (old, new) = (std::mem::replace(&mut self.kicked_idx, self.avail_idx), self.avail_idx);
        match self.kicks() {
            Kicks::Always => true,
            Kicks::Never => false,
            Kicks::At(event) => new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old),
        }
    }

    fn kicks(&self) -> Kicks {
        if self.event_idx {
            Kicks::At(self.memory.load(self.avail_event()))
        } else if self.memory.load(self.layout.used) & NO_NOTIFY == 0 {
            Kicks::Always
        } else {
            Kicks::Never
        }
    }

    fn set_calls(&self, calls: Calls) {
        // With EVENT_IDX the flags say nothing (virtio 1.3, 2.7.7): never is the longest way off.
        match (self.event_idx, calls) {
            (false, calls) => {
                self.memory.store(self.layout.avail, if calls == Calls::Never { NO_INTERRUPT } else { 0 })
            }
            (true, Calls::Always) => self.memory.store(self.used_event(), self.used_idx),
            (true, Calls::Never) => self.memory.store(self.used_event(), self.used_idx.wrapping_sub(1)),
            (true, Calls::After(n)) => self.memory.store(self.used_event(), self.used_idx.wrapping_add(n)),
        }
    }

    fn next_used(&self) -> Option<(u16, u32)> {
        if self.device_idx() == self.used_idx {
            return None;
        }
        let at = self.layout.used + ENTRIES + u64::from(self.used_idx % self.size) * 8;
        let element = u64::from_le_bytes(self.memory.read(at));
        Some((element as u16, (element >> 32) as u32))
    }

    fn advance(&mut self, batch: &[Offered]) {
        // What the test offered by itself is no chain of ours.
        let chains = batch.len().max(1) as u16;
        let shown = self.device_idx().wrapping_sub(self.used_idx);
        assert!(chains <= shown, "the device used a batch of {chains}, its index says {shown}");
        self.used_idx = self.used_idx.wrapping_add(chains);
        self.free.give_back(batch.iter().flat_map(|chain| chain.descs.iter().copied()));
    }

    fn base(&self) -> u32 {
        self.used_idx.into()
    }

    fn start_at(&mut self, base: u32) {
        let idx = base as u16;
        self.set_avail_idx(idx);
        self.memory.store(self.layout.used + 2, idx);
        (self.used_idx, self.kicked_idx) = (idx, idx);
        fence(Ordering::SeqCst);
    }

    fn device_written(&self) -> Vec<(u64, u64)> {
        vec![(self.layout.used, Self::sizes(self.size.into())[2])]
    }
}
