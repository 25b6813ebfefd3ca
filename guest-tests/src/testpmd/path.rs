//! The ways in which DPDK's driver uses its rings, and how to make it take each of them.
//!
//! They are the ten of DPDK's own test plan for virtio-user ("loopback multi paths port restart"). The driver takes
//! another way without an error when it does not get what it wants, so a test asks [`super::Rig::takes`] afterwards.
//! The plan has its tenth way, packed and vectorized, without IN_ORDER; the driver demands IN_ORDER for that.

/// One of these ways.
#[derive(Clone, Copy, Debug)]
pub struct DataPath {
    /// Properties of the virtio-user device.
    pub device: &'static str,
    /// Receive offloads that testpmd turns on: a way without vector instructions has one that these cannot do.
    pub rx_offloads: &'static [&'static str],
    /// Entries of each ring; a packed one may have any number.
    pub ring_size: u16,
    /// How the driver says that it receives.
    pub rx: &'static str,
    /// How the driver says that it sends.
    pub tx: &'static str,
}

/// Large receive offload.
const LRO: &[&str] = &["tcp_lro"];

impl DataPath {
    /// Packed, mergeable buffers.
    pub const PACKED_MERGEABLE: Self =
        Self::new("packed_vq=1,mrg_rxbuf=1,in_order=0", &[], "packed ring mergeable buffer", "packed ring standard");
    /// Packed, a buffer a frame.
    pub const PACKED: Self =
        Self::new("packed_vq=1,mrg_rxbuf=0,in_order=0", &[], "packed ring standard", "packed ring standard");
    /// Packed, used in order, mergeable buffers.
    pub const PACKED_IN_ORDER_MERGEABLE: Self =
        Self::new("packed_vq=1,mrg_rxbuf=1,in_order=1", &[], "packed ring mergeable buffer", "packed ring standard");
    /// Packed, used in order, a buffer a frame, sent with vector instructions.
    pub const PACKED_IN_ORDER: Self = Self::new(
        "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1",
        LRO,
        "packed ring standard",
        "packed ring vectorized",
    );
    /// Packed, used in order, a buffer a frame, sent and received with vector instructions.
    pub const PACKED_VECTORIZED: Self = Self::new(
        "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1",
        &[],
        "packed ring vectorized",
        "packed ring vectorized",
    );
    /// Split, used in order, mergeable buffers.
    pub const SPLIT_IN_ORDER_MERGEABLE: Self = Self::new("mrg_rxbuf=1,in_order=1", &[], "inorder", "inorder");
    /// Split, used in order, a buffer a frame.
    pub const SPLIT_IN_ORDER: Self = Self::new("mrg_rxbuf=0,in_order=1", &[], "inorder", "inorder");
    /// Split, mergeable buffers.
    pub const SPLIT_MERGEABLE: Self = Self::new("mrg_rxbuf=1,in_order=0", &[], "mergeable buffer", "standard");
    /// Split, a buffer a frame.
    pub const SPLIT: Self = Self::new("mrg_rxbuf=0,in_order=0,vectorized=1", LRO, "standard", "standard");
    /// Split, a buffer a frame, received with vector instructions.
    pub const SPLIT_VECTORIZED: Self = Self::new("mrg_rxbuf=0,in_order=0,vectorized=1", &[], "vectorized", "standard");

    const fn new(
        device: &'static str,
        rx_offloads: &'static [&'static str],
        rx: &'static str,
        tx: &'static str,
    ) -> Self {
        Self { device, rx_offloads, ring_size: 256, rx, tx }
    }

    /// The same with rings of so many entries.
    pub const fn ring_size(self, ring_size: u16) -> Self {
        Self { ring_size, ..self }
    }

    /// Whether a frame may fill several receive buffers.
    pub fn mergeable(&self) -> bool {
        self.device.contains("mrg_rxbuf=1")
    }

    /// Whether the driver is sound after its rings were reset. One that receives from packed rings by vector instructions
    /// frees the buffers again that it had received and not yet replaced: two frames may share a buffer from then on.
    pub fn survives_reset(&self) -> bool {
        self.rx != Self::PACKED_VECTORIZED.rx
    }

    /// What must have been negotiated, and what must not.
    pub(super) fn features(&self) -> [(&'static str, bool); 3] {
        [("RING_PACKED", "packed_vq=1"), ("IN_ORDER", "in_order=1"), ("MRG_RXBUF", "mrg_rxbuf=1")]
            .map(|(feature, property)| (feature, self.device.contains(property)))
    }
}
