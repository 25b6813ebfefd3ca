//! The driver's side of a virtqueue of either format: what a test offers, waits for and asks to be told of.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::desc::{Desc, INDIRECT, NEXT, Offered, RingMemory, WRITE};
use super::format::{Calls, Format, Kicks, QueueLayout, RingFormat};
use super::{PackedRing, SharedMemory, SplitRing};

#[derive(Debug)]
enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

impl Ring {
    fn new(memory: RingMemory, layout: QueueLayout, size: u16, format: RingFormat) -> Self {
        if format.packed {
            Self::Packed(PackedRing::new(memory, layout, size, format))
        } else {
            Self::Split(SplitRing::new(memory, layout, size, format))
        }
    }
}

/// Bytes of the three parts of a ring.
fn part_sizes(size: u16, format: RingFormat) -> [u64; 3] {
    if format.packed { PackedRing::sizes(size.into()) } else { SplitRing::sizes(size.into()) }
}

/// A driver's ring.
#[derive(Debug)]
pub struct Queue {
    memory: RingMemory,
    /// Its number at the device.
    pub index: usize,
    /// Its entries.
    pub size: u16,
    /// Where it lies.
    pub layout: QueueLayout,
    format: RingFormat,
    /// Written to tell the device of chains.
    pub kick: EventFd,
    /// Written by the device to tell of used chains.
    pub call: EventFd,
    /// Written by the device when the ring is broken.
    pub err: EventFd,
    ring: Ring,
    calls: Calls,
    /// Chains that the device has, in the order in which they were offered.
    offered: VecDeque<Offered>,
    /// Chains that a used element of a later one gave back, with it.
    used: VecDeque<(u16, u32)>,
}

impl Queue {
    /// A ring of `size` entries in fresh memory.
    pub fn new(memory: &mut SharedMemory, index: usize, size: u16, format: RingFormat) -> Result<Self> {
        let [desc, avail, used] = part_sizes(size, format).map(|len| memory.allocate(len));
        let (layout, memory) = (QueueLayout { desc, avail, used }, RingMemory(memory.map.clone()));
        Ok(Self {
            ring: Ring::new(memory.clone(), layout, size, format),
            memory,
            index,
            size,
            layout,
            format,
            kick: EventFd::new(EFD_NONBLOCK)?,
            call: EventFd::new(EFD_NONBLOCK)?,
            err: EventFd::new(EFD_NONBLOCK)?,
            calls: format.first_calls(),
            offered: VecDeque::new(),
            used: VecDeque::new(),
        })
    }

    /// Empties a ring that the device does not serve, as a driver reset does.
    pub fn reset(&mut self) {
        let Self { memory, layout, size, format, .. } = self;
        let parts = [layout.desc, layout.avail, layout.used].into_iter().zip(part_sizes(*size, *format));
        parts.for_each(|(at, len)| memory.write(at, &vec![0; len as usize]));
        self.ring = Ring::new(memory.clone(), *layout, *size, *format);
        self.calls = format.first_calls();
        self.offered.clear();
        self.used.clear();
        for fd in [&self.kick, &self.call, &self.err] {
            let _ = fd.read();
        }
    }

    fn ring(&self) -> &dyn Format {
        match &self.ring {
            Ring::Split(ring) => ring,
            Ring::Packed(ring) => ring,
        }
    }

    fn ring_mut(&mut self) -> &mut dyn Format {
        match &mut self.ring {
            Ring::Split(ring) => ring,
            Ring::Packed(ring) => ring,
        }
    }

    /// The ring as a split one.
    ///
    /// # Panics
    /// When it is packed.
    pub fn split(&mut self) -> &mut SplitRing {
        let Ring::Split(ring) = &mut self.ring else { panic!("ring {} is packed", self.index) };
        ring
    }

    /// The ring as a packed one.
    ///
    /// # Panics
    /// When it is split.
    pub fn packed(&mut self) -> &mut PackedRing {
        let Ring::Packed(ring) = &mut self.ring else { panic!("ring {} is split", self.index) };
        ring
    }

    /// What the features say of it.
    #[must_use]
    pub fn format(&self) -> RingFormat {
        self.format
    }

    /// Writes a descriptor as it stands into the table; of a packed ring, with all of its flags into a slot.
    pub fn write_desc(&self, index: u16, desc: Desc) {
        self.write_table(self.layout.desc + u64::from(index) * Desc::SIZE, &[desc]);
    }

    /// Writes descriptors as they stand to a place of the test's, as an indirect table.
    pub fn write_table(&self, at: u64, table: &[Desc]) {
        let bytes: Vec<u8> = table.iter().flat_map(|desc| self.ring().encode(desc)).collect();
        self.memory.write(at, &bytes);
    }

    /// Offers a chain of buffers to the device; they are seen at once, but the device is not kicked. Says what the
    /// device will name it by. `None`: the ring is full.
    pub fn add(&mut self, buffers: &[(u64, u32)], write: bool) -> Option<u16> {
        let last = buffers.len().saturating_sub(1);
        let chain = descs(buffers, write, |i| if i == last { 0 } else { NEXT });
        self.offer(&chain, writable(buffers, write))
    }

    /// The same with the buffers in an indirect table at `table`.
    pub fn add_indirect(&mut self, table: u64, buffers: &[(u64, u32)], write: bool) -> Option<u16> {
        let last = buffers.len().saturating_sub(1);
        let entries = descs(buffers, write, |i| self.ring().indirect_flags(i == last));
        self.write_table(table, &entries);
        let head = Desc::new(table, (entries.len() as u64 * Desc::SIZE) as u32, INDIRECT);
        self.offer(&[head], writable(buffers, write))
    }

    /// Offers a chain of descriptors as they stand, but for links, ids and wrap bits.
    pub fn add_descs(&mut self, chain: &[Desc]) -> Option<u16> {
        self.offer(chain, 0)
    }

    fn offer(&mut self, chain: &[Desc], writable: u32) -> Option<u16> {
        let offered = self.ring_mut().offer_chain(chain, writable)?;
        let id = offered.id;
        self.offered.push_back(offered);
        Some(id)
    }

    /// Whether the device wants to be kicked for what was offered since this was asked last.
    pub fn wants_kick(&mut self) -> bool {
        // Pairs with the device's barrier between arming kicks and its last look at the ring.
        fence(Ordering::SeqCst);
        self.ring_mut().wants_kick()
    }

    /// When the device wants to be kicked, as it shows it.
    #[must_use]
    pub fn kicks(&self) -> Kicks {
        self.ring().kicks()
    }

    /// Kicks the device if it wants that, as a driver does after offering chains.
    pub fn kick(&mut self) -> Result<bool> {
        let wanted = self.wants_kick();
        if wanted {
            self.kick.write(1)?;
        }
        Ok(wanted)
    }

    /// Says when the driver wants to be called; [`Queue::wait_used`] keeps to it.
    pub fn set_calls(&mut self, calls: Calls) {
        self.calls = calls;
        self.ring().set_calls(calls);
        // Pairs with the device's barrier between what it shows as used and its call decision.
        fence(Ordering::SeqCst);
    }

    /// Takes the next used chain back: its id and how many bytes the device wrote.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used.is_empty() {
            let (id, len) = self.ring().next_used()?;
            let batch = self.batch(id);
            self.ring_mut().advance(&batch);
            let skipped = batch.len().saturating_sub(1);
            // Buffers that were skipped are used as a whole (virtio 1.3, 2.7.9 and 2.8.8).
            self.used.extend(batch[..skipped].iter().map(|chain| (chain.id, chain.writable)));
            self.used.push_back((id, len));
        }
        self.used.pop_front()
    }

    /// The chains that a used element for `id` gives back.
    fn batch(&mut self, id: u16) -> Vec<Offered> {
        let Some(at) = self.offered.iter().position(|chain| chain.id == id) else { return Vec::new() };
        if self.format.in_order {
            self.offered.drain(..=at).collect()
        } else {
            self.offered.remove(at).into_iter().collect()
        }
    }

    /// Waits for the next used chain, woken by the call eventfd like a driver, unless it polls.
    pub fn wait_used(&mut self, patience: Duration) -> Result<(u16, u32)> {
        let end = Instant::now() + patience;
        loop {
            if self.used.is_empty() && matches!(self.calls, Calls::After(_)) {
                self.set_calls(Calls::After(0));
            }
            if let Some(used) = self.take_used() {
                return Ok(used);
            }
            let left = end.saturating_duration_since(Instant::now());
            if self.calls == Calls::Never && !left.is_zero() {
                std::thread::sleep(Duration::from_micros(200).min(left));
            } else if !is_signalled(&self.call, left) {
                bail!("ring {}: nothing used and no call within {patience:?} (at {:#x})", self.index, self.base());
            }
        }
    }

    /// Where the ring stands, as SET_VRING_BASE says it and GET_VRING_BASE must answer: an index, or both halves of a
    /// packed ring's (vhost-user, "Vring descriptor indices").
    #[must_use]
    pub fn base(&self) -> u32 {
        self.ring().base()
    }

    /// Has an empty ring stand at another place, before it is started.
    pub fn start_at(&mut self, base: u32) {
        self.ring_mut().start_at(base);
    }

    /// What the device wrote last of the ring itself, as guest address and length.
    #[must_use]
    pub fn device_written(&self) -> Vec<(u64, u64)> {
        self.ring().device_written()
    }
}

fn descs(buffers: &[(u64, u32)], write: bool, flags: impl Fn(usize) -> u16) -> Vec<Desc> {
    let access = if write { WRITE } else { 0 };
    let numbered = buffers.iter().enumerate();
    numbered
        .map(|(i, (address, len))| Desc { address: *address, len: *len, flags: access | flags(i), next: i as u16 + 1 })
        .collect()
}

fn writable(buffers: &[(u64, u32)], write: bool) -> u32 {
    buffers.iter().map(|(_, len)| if write { *len } else { 0 }).fold(0, u32::wrapping_add)
}

/// Whether an eventfd is written within `patience`; reads it.
pub fn is_signalled(fd: &EventFd, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        if fd.read().is_ok() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
