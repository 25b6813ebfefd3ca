//! Descriptor chains of the split format (virtio 1.3, 2.7.5): walked once, every descriptor copied out before it is
//! judged, so that a driver that rewrites it meanwhile changes nothing.

use std::ops::Range;

use super::{Access, RingError, RingSetup};
use crate::memory::{Buffers, Window};

/// Bytes of a descriptor.
pub(super) const DESC_SIZE: usize = 16;

const F_NEXT: u16 = virtio_bindings::virtio_ring::VRING_DESC_F_NEXT as u16;
const F_WRITE: u16 = virtio_bindings::virtio_ring::VRING_DESC_F_WRITE as u16;
const F_INDIRECT: u16 = virtio_bindings::virtio_ring::VRING_DESC_F_INDIRECT as u16;

/// A chain taken from the available ring, its buffers resolved.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Number of its first descriptor: its name in the used ring.
    pub head: u16,
    /// Where its slices are in the ring's [`Buffers`].
    pub slices: Range<usize>,
    /// Length of all slices together, in bytes.
    pub len: usize,
}

#[derive(Clone, Copy)]
struct Desc {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Desc {
    fn read(table: &Window, index: u16) -> Self {
        let bytes: [u8; DESC_SIZE] = table.read(usize::from(index) * DESC_SIZE);
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

/// Walks the chain at `head` and adds its slices to `buffers`.
#[inline]
pub(super) fn walk(setup: &RingSetup, table: &Window, head: u16, buffers: &mut Buffers) -> Result<Chain, RingError> {
    let start = buffers.len();
    if head < setup.size {
        let desc = Desc::read(table, head);
        let direction = if setup.access == Access::Write { F_WRITE } else { 0 };
        let len = desc.len as usize;
        // Most chains: one descriptor. The rest, and whatever is wrong, is for the walk.
        if desc.flags & (F_NEXT | F_INDIRECT | F_WRITE) == direction && len >= setup.min_chain_len.max(1) {
            buffers.push(desc.address, len)?;
            return Ok(Chain { head, slices: start..buffers.len(), len });
        }
    }
    walk_slowly(setup, table, head, buffers)
}

fn walk_slowly(setup: &RingSetup, table: &Window, head: u16, buffers: &mut Buffers) -> Result<Chain, RingError> {
    let start = buffers.len();
    let mut walk = Walk { setup, head, buffers, left: setup.size, len: 0 };
    walk.table(table, head, setup.size, setup.indirect)?;
    let len = walk.len;
    if len < setup.min_chain_len {
        return Err(RingError::NoRoomForHeader { head, len, min: setup.min_chain_len });
    }
    Ok(Chain { head, slices: start..buffers.len(), len })
}

struct Walk<'a> {
    setup: &'a RingSetup,
    head: u16,
    buffers: &'a mut Buffers,
    /// Descriptors that may still follow.
    left: u16,
    len: usize,
}

impl Walk<'_> {
    /// Follows a chain through one table of `table_len` descriptors, and into an indirect one if that is allowed here.
    fn table(&mut self, table: &Window, first: u16, table_len: u16, may_indirect: bool) -> Result<(), RingError> {
        let head = self.head;
        let mut index = first;
        loop {
            if index >= table_len {
                return Err(RingError::DescIndex { index, len: table_len });
            }
            let desc = Desc::read(table, index);
            if desc.flags & F_INDIRECT != 0 {
                if !may_indirect || desc.flags & F_NEXT != 0 {
                    return Err(RingError::IndirectNotAllowed { head });
                }
                return self.indirect(desc);
            }
            self.left = self.left.checked_sub(1).ok_or(RingError::ChainTooLong { head, limit: self.setup.size })?;
            if (desc.flags & F_WRITE != 0) != (self.setup.access == Access::Write) {
                return Err(RingError::WrongDirection { head });
            }
            self.buffers.push(desc.address, desc.len as usize)?;
            self.len += desc.len as usize;
            if desc.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = desc.next;
        }
    }

    fn indirect(&mut self, desc: Desc) -> Result<(), RingError> {
        let Desc { address, len, .. } = desc;
        let entries = len as usize / DESC_SIZE;
        let size = self.setup.size;
        if entries == 0 || !(len as usize).is_multiple_of(DESC_SIZE) || entries > usize::from(size) {
            return Err(RingError::IndirectLength { head: self.head, len, size });
        }
        let table = self.buffers.table().window(address, len as usize, 1)?;
        self.table(&table, 0, entries as u16, false)
    }
}
