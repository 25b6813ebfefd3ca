//! A ring's descriptors: one a slot, and if wanted an indirect table of two a slot (virtio 1.3, 2.7.5).

#![forbid(unsafe_code)]

use anyhow::Result;

use super::memory::{Memory, View};

/// Bytes of a descriptor.
const DESC: usize = 16;

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Number of entries, a power of two.
    pub size: u16,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// The device writes the buffers: a receive queue.
    pub device_writes: bool,
    /// Bytes of a slot's buffer.
    pub buffer_len: u32,
    /// Bytes from one slot's buffer to the next.
    pub stride: usize,
    /// Where in its stride a buffer starts.
    pub offset: usize,
    /// Bytes of a first descriptor in an indirect table; the rest of the buffer is the second. None: no such table.
    pub indirect_split: Option<u32>,
}

impl RingConfig {
    /// Where a slot's buffer starts among all buffers.
    #[inline]
    pub(super) fn at(&self, slot: u16) -> usize {
        usize::from(slot) * self.stride + self.offset
    }
}

/// The descriptor table and what stands in it.
#[derive(Debug)]
pub(super) struct Descriptors {
    config: RingConfig,
    table: View,
    indirect: Option<(u32, View)>,
    /// Guest address of all buffers.
    buffers: u64,
    /// Bytes of each slot's chain.
    lens: Box<[u32]>,
}

impl Descriptors {
    /// A table whose chains have whole buffers.
    pub(super) fn new(memory: &mut Memory, config: RingConfig, buffers: u64) -> Result<Self> {
        let size = usize::from(config.size);
        let indirect = match config.indirect_split {
            Some(split) => Some((split, memory.cut(size * 2 * DESC)?)),
            None => None,
        };
        let mut all = Self { config, table: memory.cut(size * DESC)?, indirect, buffers, lens: vec![0; size].into() };
        for slot in 0..config.size {
            all.write(slot, config.buffer_len);
        }
        Ok(all)
    }

    pub(super) fn table(&self) -> &View {
        &self.table
    }

    #[inline]
    pub(super) fn len_of(&self, slot: u16) -> u32 {
        self.lens[usize::from(slot)]
    }

    /// Gives a slot a chain of `len` bytes.
    pub(super) fn write(&mut self, slot: u16, len: u32) {
        self.lens[usize::from(slot)] = len;
        let flags = if self.config.device_writes { F_WRITE } else { 0 };
        let (at, address) = (usize::from(slot) * DESC, self.buffers + self.config.at(slot) as u64);
        match &self.indirect {
            Some((split, tables)) if *split < len => {
                let table = 2 * at;
                write_desc(tables, table, address, *split, flags | F_NEXT, 1);
                write_desc(tables, table + DESC, address + u64::from(*split), len - split, flags, 0);
                write_desc(&self.table, at, tables.guest_address() + table as u64, 2 * DESC as u32, F_INDIRECT, 0);
            }
            _ => write_desc(&self.table, at, address, len, flags, 0),
        }
    }
}

fn write_desc(view: &View, at: usize, address: u64, len: u32, flags: u16, next: u16) {
    let mut bytes = [0; DESC];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    view.write(at, &bytes);
}
