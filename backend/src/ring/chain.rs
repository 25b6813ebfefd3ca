//! Descriptor chains: every descriptor is copied out once before it is judged, so that a driver that rewrites it meanwhile
//! changes nothing. What both formats have in common; how a chain goes on from one descriptor to the next is the format's.

use super::{Access, RingError, RingSetup, Taken};
use crate::memory::Entries;

/// Bytes of a descriptor.
pub(super) const DESC_SIZE: usize = 16;

/// How many more slices than descriptors a chain may have: a buffer has two where two regions of memory adjoin. More than
/// any guest has regions.
const MAX_BORDERS: usize = 1024;

// The same bits in both formats (virtio 1.3, 2.7.5 and 2.8.13).
pub(super) const F_NEXT: u16 = virtio_bindings::virtio_ring::VRING_DESC_F_NEXT as u16;
pub(super) const F_WRITE: u16 = virtio_bindings::virtio_ring::VRING_DESC_F_WRITE as u16;
pub(super) const F_INDIRECT: u16 = virtio_bindings::virtio_ring::VRING_DESC_F_INDIRECT as u16;

/// A descriptor in private memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desc {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// The next descriptor of the chain (split), or the buffer's id (packed).
    pub(super) number: u16,
}

impl Desc {
    /// A descriptor of the split format: address, then length, flags and next in one word (virtio 1.3, 2.7.5).
    #[inline]
    pub(super) fn split((address, rest): (u64, u64)) -> Self {
        Self { address, len: rest as u32, flags: (rest >> 32) as u16, number: (rest >> 48) as u16 }
    }

    /// A descriptor of the packed format: address, then length, id and flags in one word (virtio 1.3, 2.8.13).
    #[inline]
    pub(super) fn packed((address, rest): (u64, u64)) -> Self {
        Self { address, len: rest as u32, flags: (rest >> 48) as u16, number: (rest >> 32) as u16 }
    }

    /// Whether it is a whole chain that needs no walk: most are. The rest, and whatever is wrong, is for [`Walk`].
    #[inline]
    pub(super) fn is_whole_chain(&self, setup: &RingSetup) -> bool {
        let direction = if setup.access == Access::Write { F_WRITE } else { 0 };
        self.flags & (F_NEXT | F_INDIRECT | F_WRITE) == direction && self.len >= setup.min_chain_len.max(1)
    }
}

/// A chain on the way through its descriptors.
pub(super) struct Walk<'a> {
    setup: &'a RingSetup,
    /// What the chain is called in errors: its first descriptor.
    head: u16,
    taken: &'a mut Taken,
    /// Number of its first slice.
    first: usize,
    descriptors: u16,
    len: usize,
}

impl<'a> Walk<'a> {
    /// Walks the chain at `head` by `walk`, which says its id and the entries of the ring that it occupies, and adds it
    /// to `taken`. Says how many descriptors or slices that took.
    #[cold]
    pub(super) fn chain(
        setup: &'a RingSetup,
        head: u16,
        taken: &'a mut Taken,
        walk: impl FnOnce(&mut Self) -> Result<(u16, u16), RingError>,
    ) -> Result<usize, RingError> {
        let first = taken.buffers().len();
        let mut this = Self { setup, head, taken, first, descriptors: 0, len: 0 };
        match walk(&mut this).and_then(|end| this.has_room_for_header().map(|()| end)) {
            Ok((id, slots)) => {
                let walked = usize::from(this.descriptors).max(this.slices());
                this.taken.push(this.first, id, slots, this.len);
                this.taken.note_walked(walked);
                Ok(walked)
            }
            Err(e) => {
                this.taken.buffers_mut().truncate(first);
                Err(e)
            }
        }
    }

    fn has_room_for_header(&self) -> Result<(), RingError> {
        let (len, min) = (self.len, self.setup.min_chain_len as usize);
        if len < min { Err(RingError::NoRoomForHeader { head: self.head, len, min }) } else { Ok(()) }
    }

    /// Adds the buffer of a descriptor.
    pub(super) fn add(&mut self, desc: Desc) -> Result<(), RingError> {
        if self.descriptors == self.setup.size {
            return Err(RingError::ChainTooLong { head: self.head, limit: self.setup.size });
        }
        self.descriptors += 1;
        if (desc.flags & F_WRITE != 0) != (self.setup.access == Access::Write) {
            return Err(RingError::WrongDirection { head: self.head });
        }
        self.taken.buffers_mut().push(desc.address, desc.len)?;
        self.len += desc.len as usize;
        let limit = usize::from(self.setup.size) + MAX_BORDERS;
        if self.slices() > limit { Err(RingError::TooScattered { head: self.head, limit }) } else { Ok(()) }
    }

    fn slices(&self) -> usize {
        self.taken.buffers().len() - self.first
    }

    /// The table that an indirect descriptor of the ring itself refers to, and its number of entries.
    pub(super) fn indirect(&self, desc: Desc) -> Result<(Entries<DESC_SIZE>, u16), RingError> {
        if !self.setup.indirect || desc.flags & F_NEXT != 0 {
            return Err(self.no_indirect_here());
        }
        let Desc { address, len, .. } = desc;
        let entries = len as usize / DESC_SIZE;
        let size = self.setup.size;
        if entries == 0 || !(len as usize).is_multiple_of(DESC_SIZE) || entries > usize::from(size) {
            return Err(RingError::IndirectLength { head: self.head, len, size });
        }
        Ok((self.taken.buffers().table().entries(address, entries, 1)?, entries as u16))
    }

    pub(super) fn no_indirect_here(&self) -> RingError {
        RingError::IndirectNotAllowed { head: self.head }
    }

    /// Follows a chain of the split format through a table of `table_len` descriptors, and into an indirect one if this
    /// is the ring's own.
    pub(super) fn split(
        &mut self,
        table: &Entries<DESC_SIZE>,
        first: u16,
        table_len: u16,
        own: bool,
    ) -> Result<(), RingError> {
        let mut index = first;
        loop {
            if index >= table_len {
                return Err(RingError::DescIndex { index, len: table_len });
            }
            let desc = Desc::split(table.view().read_words(index.into()));
            if desc.flags & F_INDIRECT != 0 {
                if !own {
                    return Err(self.no_indirect_here());
                }
                let (table, entries) = self.indirect(desc)?;
                return self.split(&table, 0, entries, false);
            }
            self.add(desc)?;
            if desc.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = desc.number;
        }
    }

    /// Adds all buffers of an indirect table of the packed format: the table's length says how many (virtio 1.3, 2.8.7).
    ///
    /// DPDK's driver marks the buffers of such tables as device-writable even where the device is to read them. Reading
    /// does no harm, so the mark is not looked at there.
    pub(super) fn packed_table(&mut self, table: &Entries<DESC_SIZE>, entries: u16) -> Result<(), RingError> {
        let ignored = if self.setup.access == Access::Read { F_WRITE } else { 0 };
        for index in 0..entries {
            let desc = Desc::packed(table.view().read_words(index.into()));
            if desc.flags & F_INDIRECT != 0 {
                return Err(self.no_indirect_here());
            }
            self.add(Desc { flags: desc.flags & !ignored, ..desc })?;
        }
        Ok(())
    }
}
