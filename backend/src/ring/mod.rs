//! Virtqueues, the device's side (virtio 1.3, 2.6 to 2.8).
//!
//! One file a ring format behind one set of verbs, [`Virtqueue`]. What a worker does with a ring, in this order:
//!
//! 1. [`Virtqueue::suppress_kicks`]: the driver need not kick, we are looking;
//! 2. [`Virtqueue::take_burst`] (transmit) or [`Virtqueue::reserve`] (receive) until nothing more comes,
//!    [`Virtqueue::complete`] for every chain that is done, [`Virtqueue::publish`] once a burst, a call if
//!    [`Virtqueue::needs_call`];
//! 3. [`Virtqueue::arm_kicks`] before sleeping; when it says that work slipped in, back to 1.
//!
//! The driver is not trusted. Whatever it puts into the ring ends as packets or as a [`RingError`], after which the
//! ring is not touched again until the driver sets it up anew.

#![forbid(unsafe_code)]

mod any;
mod chain;
mod error;
mod log;
mod packed;
mod place;
mod resume;
mod split;
mod stand;
mod taken;

pub use any::Ring;
pub use error::RingError;
pub use log::RingLog;
pub use packed::PackedRing;
pub use resume::{resume, was_served};
pub use split::SplitRing;
pub use taken::{Chain, Taken};

/// Largest ring that virtio allows (virtio 1.3, 2.6).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Whether the device reads a ring's buffers (transmit queue) or writes them (receive queue).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The driver's packets: every descriptor is device-readable.
    Read,
    /// The driver's empty buffers: every descriptor is device-writable.
    Write,
}

/// What the front end tells of a ring before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// `VIRTIO_F_RING_PACKED` was negotiated.
    pub packed: bool,
    /// `VIRTIO_F_IN_ORDER` was negotiated: the driver knows that chains are completed in order.
    pub in_order: bool,
    /// Number of descriptors: up to [`MAX_QUEUE_SIZE`], a power of two for a split ring.
    pub size: u16,
    /// Guest address of the descriptor table, or the packed descriptor ring.
    pub desc: u64,
    /// Guest address of the available ring, or the packed ring's driver event area.
    pub avail: u64,
    /// Guest address of the used ring, or the packed ring's device event area.
    pub used: u64,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC` was negotiated.
    pub indirect: bool,
    /// What the device does with the buffers.
    pub access: Access,
    /// Bytes that every chain must at least have: the virtio-net header.
    pub min_chain_len: u32,
}

/// What a device does with a ring, whatever its format. Chains are completed in the order in which they are taken.
pub trait Virtqueue {
    /// How the ring was set up.
    fn setup(&self) -> &RingSetup;

    /// Where the ring stands: the first chain that is not completed (vhost-user, `VHOST_USER_GET_VRING_BASE`).
    fn base(&self) -> u32;

    /// Chains taken and not yet completed, oldest first.
    fn taken(&self) -> &Taken;

    /// Takes chains until `max_chains` or `max_bytes` are taken and not completed, or the driver has no more; says
    /// how many are taken now.
    ///
    /// # Errors
    /// When the driver broke the ring. Chains taken before the broken one are still good.
    fn take_burst(&mut self, max_chains: usize, max_bytes: usize) -> Result<usize, RingError>;

    /// Takes chains until at least `chains` and at least `bytes` are taken and not completed, or the driver has no
    /// more; says how many are taken now.
    ///
    /// # Errors
    /// As [`Virtqueue::take_burst`].
    fn reserve(&mut self, chains: usize, bytes: usize) -> Result<usize, RingError>;

    /// Whether the whole ring is taken: the driver can offer no more until something is completed.
    fn is_all_taken(&self) -> bool;

    /// Hands the oldest taken chain back to the driver with `written` bytes written to it; seen by the driver after
    /// [`Virtqueue::publish`].
    fn complete(&mut self, written: u32);

    /// The same for as many of the oldest taken chains as there are numbers.
    fn complete_burst(&mut self, written: &[u32]);

    /// Hands the oldest `n` taken chains back with nothing written to them.
    fn complete_unwritten(&mut self, n: usize);

    /// Shows the driver what was completed. Once a burst; says whether there was anything.
    fn publish(&mut self) -> bool;

    /// Gives taken chains back untouched: they will be taken again, from whatever memory the guest has then.
    fn untake(&mut self);

    /// Asks the driver to kick at its next chain, and looks again. `Ok(true)`: a chain slipped in meanwhile that no
    /// kick will tell of; take it before sleeping.
    ///
    /// # Errors
    /// When the driver broke the ring.
    fn arm_kicks(&mut self) -> Result<bool, RingError>;

    /// Tells the driver that it need not kick.
    fn suppress_kicks(&mut self);

    /// Whether the ring has ever given a chain back, as far as its place tells.
    fn used_any(&self) -> bool;

    /// Forgets what the driver was called for: the next [`Virtqueue::needs_call`] says no only to a driver that
    /// suppresses all calls.
    fn forget_calls(&mut self);

    /// Whether the driver wants a call for what was published since the last time this was asked.
    fn needs_call(&mut self) -> bool;

    /// Starts or stops marking what is written from now on.
    fn set_log(&mut self, log: Option<RingLog>);

    /// Marks the first `written` bytes of the taken chains, for a frame that is not completed.
    fn mark_written(&self, written: usize);
}

#[cfg(test)]
mod tests;
