//! The driver's side of a split virtqueue (virtio 1.3, 2.7.13), able to break every rule.

use std::collections::HashMap;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::SharedMemory;

/// The next descriptor continues the chain.
const NEXT: u16 = 1;
/// The device writes.
const WRITE: u16 = 2;
const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Desc {
    /// Guest address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// `VIRTQ_DESC_F_*`.
    pub flags: u16,
    /// The descriptor after it.
    pub next: u16,
}

/// Where a ring lies, in guest addresses.
#[derive(Clone, Copy, Debug)]
pub struct QueueLayout {
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// A driver's ring.
#[derive(Debug)]
pub struct Queue {
    memory: GuestMemoryMmap,
    /// Its number at the device.
    pub index: usize,
    /// Its entries.
    pub size: u16,
    /// Where it lies.
    pub layout: QueueLayout,
    event_idx: bool,
    /// Written to tell the device of chains.
    pub kick: EventFd,
    /// Written by the device to tell of used chains.
    pub call: EventFd,
    /// Written by the device when the ring is broken.
    pub err: EventFd,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
    /// Index up to which chains are offered.
    pub avail_idx: u16,
    /// Index up to which used chains are taken back.
    pub used_idx: u16,
    /// Available index at the last kick decision.
    kicked_idx: u16,
}

impl Queue {
    /// A ring of `size` entries in fresh memory.
    pub fn new(memory: &mut SharedMemory, index: usize, size: u16, event_idx: bool) -> Result<Self> {
        let entries = u64::from(size);
        let layout = QueueLayout {
            desc: memory.allocate(entries * 16),
            avail: memory.allocate(6 + entries * 2),
            used: memory.allocate(6 + entries * 8),
        };
        Ok(Self {
            memory: memory.map.clone(),
            index,
            size,
            layout,
            event_idx,
            kick: EventFd::new(EFD_NONBLOCK)?,
            call: EventFd::new(EFD_NONBLOCK)?,
            err: EventFd::new(EFD_NONBLOCK)?,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            avail_idx: 0,
            used_idx: 0,
            kicked_idx: 0,
        })
    }

    fn store(&self, address: u64, value: u16) {
        self.memory.store(value, GuestAddress(address), Ordering::Release).expect("the ring lies in memory");
    }

    fn load(&self, address: u64) -> u16 {
        self.memory.load(GuestAddress(address), Ordering::Acquire).expect("the ring lies in memory")
    }

    /// Writes a descriptor into the table.
    pub fn write_desc(&self, index: u16, desc: Desc) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&desc.next.to_le_bytes());
        let at = GuestAddress(self.layout.desc + u64::from(index) * 16);
        self.memory.write_slice(&bytes, at).expect("the ring lies in memory");
    }

    /// Offers a chain of buffers to the device; they are seen at once, but the device is not kicked. `None`: the ring
    /// has no free descriptors.
    pub fn add(&mut self, buffers: &[(u64, u32)], write: bool) -> Option<u16> {
        if self.free.len() < buffers.len() {
            return None;
        }
        let ids: Vec<u16> = buffers.iter().filter_map(|_| self.free.pop()).collect();
        for (i, (address, len)) in buffers.iter().enumerate() {
            let next = ids.get(i + 1).copied();
            let flags = if write { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.write_desc(ids[i], Desc { address: *address, len: *len, flags, next: next.unwrap_or(0) });
        }
        let head = ids[0];
        self.chains.insert(head, ids);
        self.offer(head);
        Some(head)
    }

    /// Offers whatever stands at `head`.
    pub fn offer(&mut self, head: u16) {
        self.store(self.layout.avail + 4 + u64::from(self.avail_idx % self.size) * 2, head);
        self.set_avail_idx(self.avail_idx.wrapping_add(1));
    }

    /// Sets the available index, right or wrong.
    pub fn set_avail_idx(&mut self, idx: u16) {
        self.avail_idx = idx;
        self.store(self.layout.avail + 2, idx);
    }

    /// Whether the device wants to be kicked for what was offered since this was asked last.
    pub fn wants_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let (old, new) = (std::mem::replace(&mut self.kicked_idx, self.avail_idx), self.avail_idx);
        if self.event_idx {
            let event = self.load(self.layout.used + 4 + u64::from(self.size) * 8);
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        self.load(self.layout.used) & NO_NOTIFY == 0
    }

    /// Kicks the device if it wants that, as a driver does after offering chains.
    pub fn kick(&mut self) -> Result<bool> {
        let wanted = self.wants_kick();
        if wanted {
            self.kick.write(1)?;
        }
        Ok(wanted)
    }

    /// Says whether the driver wants to be called (flags; without EVENT_IDX).
    pub fn set_no_interrupt(&self, off: bool) {
        self.store(self.layout.avail, if off { NO_INTERRUPT } else { 0 });
    }

    /// Has the driver called when the used index passes `event` (EVENT_IDX).
    pub fn set_used_event(&self, event: u16) {
        self.store(self.layout.avail + 4 + u64::from(self.size) * 2, event);
    }

    /// The used index as the device shows it.
    pub fn device_idx(&self) -> u16 {
        self.load(self.layout.used + 2)
    }

    /// Takes the next used chain back: its head and how many bytes the device wrote.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.device_idx() == self.used_idx {
            return None;
        }
        let at = self.layout.used + 4 + u64::from(self.used_idx % self.size) * 8;
        let element: [u8; 8] = self.memory.read_obj(GuestAddress(at)).expect("the ring lies in memory");
        let id = u32::from_le_bytes([element[0], element[1], element[2], element[3]]) as u16;
        let len = u32::from_le_bytes([element[4], element[5], element[6], element[7]]);
        self.used_idx = self.used_idx.wrapping_add(1);
        self.free.extend(self.chains.remove(&id).unwrap_or_default());
        Some((id, len))
    }

    /// Waits for the next used chain, woken by the call eventfd like a driver.
    pub fn wait_used(&mut self, patience: Duration) -> Result<(u16, u32)> {
        let end = Instant::now() + patience;
        loop {
            if self.event_idx {
                self.set_used_event(self.used_idx);
            }
            // Pairs with the device's barrier between its used index and its read of used_event.
            fence(Ordering::SeqCst);
            if let Some(used) = self.take_used() {
                return Ok(used);
            }
            let left = end.saturating_duration_since(Instant::now());
            if !is_signalled(&self.call, left) {
                bail!(
                    "ring {}: nothing used and no call within {patience:?} (used index {})",
                    self.index,
                    self.used_idx
                );
            }
        }
    }
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
