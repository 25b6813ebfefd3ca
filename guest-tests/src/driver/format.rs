//! What the two ring formats have in common: how a ring is negotiated, where it lies, how each side asks to be told.

use super::desc::{Desc, Offered};
use super::nic::{EVENT_IDX, IN_ORDER, PACKED};

/// What the features say of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFormat {
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
}

impl RingFormat {
    /// Of a driver that acknowledged these features.
    #[must_use]
    pub fn of(features: u64) -> Self {
        let has = |feature: u64| features & feature != 0;
        Self { packed: has(PACKED), event_idx: has(EVENT_IDX), in_order: has(IN_ORDER) }
    }

    /// When a driver wants to be called that has not said anything yet.
    pub(super) fn first_calls(self) -> Calls {
        if self.event_idx { Calls::After(0) } else { Calls::Always }
    }
}

/// When the driver wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// For whatever is used.
    Always,
    /// Not at all: it polls. A split ring with EVENT_IDX can only ask for a call far off.
    Never,
    /// With EVENT_IDX, when so many more were used and the one after them, too: chains of a split ring, descriptors of a
    /// packed one. Without it, always.
    After(u16),
}

/// When the device wants to be kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicks {
    /// For whatever is offered.
    Always,
    /// Not at all: it polls.
    Never,
    /// When this is offered: an index of the available ring; of a packed ring, a slot and in bit 15 its wrap counter.
    At(u16),
}

/// Where a ring lies, in guest addresses.
#[derive(Clone, Copy, Debug)]
pub struct QueueLayout {
    /// Descriptor table, or the packed ring.
    pub desc: u64,
    /// Available ring, or the driver's event suppression area.
    pub avail: u64,
    /// Used ring, or the device's event suppression area.
    pub used: u64,
}

/// What a ring format does in its own way.
pub(super) trait Format {
    /// A descriptor as it lies in memory.
    fn encode(&self, desc: &Desc) -> [u8; 16];
    /// Flags of an entry of an indirect table beside those of its buffer.
    fn indirect_flags(&self, last: bool) -> u16;
    /// Offers a chain; links, ids and wrap bits are filled in. `None`: the ring is full.
    fn offer_chain(&mut self, chain: &[Desc], writable: u32) -> Option<Offered>;
    /// Whether the device wants to be kicked for what was offered since this was asked last.
    fn wants_kick(&mut self) -> bool;
    /// When the device wants to be kicked.
    fn kicks(&self) -> Kicks;
    /// Says when the driver wants to be called.
    fn set_calls(&self, calls: Calls);
    /// The next used element.
    fn next_used(&self) -> Option<(u16, u32)>;
    /// Goes on behind the next used element, which stands for these chains.
    fn advance(&mut self, batch: &[Offered]);
    /// Where the ring stands.
    fn base(&self) -> u32;
    /// Puts an empty ring to another place.
    fn start_at(&mut self, base: u32);
    /// What the device wrote last, as address and length.
    fn device_written(&self) -> Vec<(u64, u64)>;
}
