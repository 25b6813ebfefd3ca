//! A ring of either format, for whoever does not look at packets.

use std::sync::Arc;

use super::{PackedRing, RingError, RingSetup, SplitRing, Virtqueue};
use crate::memory::MemoryTable;
use crate::record::RingRecord;

/// A virtqueue of either format. The packet path looks inside once a round and works on the format that it finds.
#[derive(Debug)]
pub enum Ring {
    /// The split format.
    Split(SplitRing),
    /// The packed format.
    Packed(PackedRing),
}

impl Ring {
    /// Sets up a ring in the memory of `table`. A packed ring goes on at `base`; a split one knows its place itself.
    ///
    /// # Errors
    /// When the size or the base is not allowed or a part of the ring is not in guest memory or not aligned.
    pub fn new(table: &Arc<MemoryTable>, setup: RingSetup, base: u32) -> Result<Self, RingError> {
        if setup.packed {
            PackedRing::new(table, setup, base).map(Self::Packed)
        } else {
            SplitRing::new(table, setup).map(Self::Split)
        }
    }

    /// Notes from now on where the ring stands, if its memory does not tell.
    pub fn set_record(&mut self, record: RingRecord) {
        if let Self::Packed(ring) = self {
            ring.set_record(record);
        }
    }
}

impl std::ops::Deref for Ring {
    type Target = dyn Virtqueue;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Split(ring) => ring,
            Self::Packed(ring) => ring,
        }
    }
}

impl std::ops::DerefMut for Ring {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Split(ring) => ring,
            Self::Packed(ring) => ring,
        }
    }
}
