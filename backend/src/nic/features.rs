//! Virtio features: what is offered, and what a driver's choice means to its packets.
//!
//! | offered | when | why |
//! |--|--|--|
//! | VERSION_1, INDIRECT_DESC, EVENT_IDX | always | the ring engine |
//! | RING_PACKED, IN_ORDER | always | fewer cache lines a packet |
//! | LOG_ALL | always | live migration; front ends set it themselves |
//! | MRG_RXBUF | always | segmented frames fit small buffers |
//! | CSUM, GUEST_CSUM | the uplink finishes and leaves checksums | no checksum is computed twice |
//! | HOST_TSO4/6, GUEST_TSO4/6, HOST_ECN, GUEST_ECN | the uplink segments TCP | one frame instead of 45 |
//! | HOST_USO, GUEST_USO4/6 | the uplink segments UDP | the same for UDP |
//! | MTU | always | a guest with MTU told sends nothing larger |
//! | MAC, STATUS | an address was given; always | front ends that read the configuration space from here; others set both bits themselves |
//! | MQ, CTRL_VQ | more than one pair | front ends keep the control queue to themselves, yet some ask for the bit |
//! | GUEST_ANNOUNCE | always | a migrated guest says itself where it is; the front end tells it to, by its own control queue |
//! | PROTOCOL_FEATURES | always | vhost-user |
//!
//! Not offered: RING_RESET (front ends do not pass it on), RSS and HASH_REPORT (no message carries their table),
//! NOTIFICATION_DATA, ACCESS_PLATFORM, UFO.

use std::fmt;

use vhost::vhost_user::VhostUserVirtioFeatures;
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::offload::{HEADER_LEN, Offloads};
use crate::worker;

/// Bytes of an Ethernet header and of a VLAN tag in it.
const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;

/// Every feature this crate knows, with its name for log lines.
const NAMES: [(u32, &str); 25] = [
    (VIRTIO_F_VERSION_1, "VERSION_1"),
    (VIRTIO_F_RING_PACKED, "RING_PACKED"),
    (VIRTIO_F_IN_ORDER, "IN_ORDER"),
    (VIRTIO_NET_F_MRG_RXBUF, "MRG_RXBUF"),
    (VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC"),
    (VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX"),
    (VIRTIO_NET_F_CSUM, "CSUM"),
    (VIRTIO_NET_F_HOST_TSO4, "HOST_TSO4"),
    (VIRTIO_NET_F_HOST_TSO6, "HOST_TSO6"),
    (VIRTIO_NET_F_HOST_ECN, "HOST_ECN"),
    (VIRTIO_NET_F_HOST_USO, "HOST_USO"),
    (VIRTIO_NET_F_GUEST_CSUM, "GUEST_CSUM"),
    (VIRTIO_NET_F_GUEST_TSO4, "GUEST_TSO4"),
    (VIRTIO_NET_F_GUEST_TSO6, "GUEST_TSO6"),
    (VIRTIO_NET_F_GUEST_ECN, "GUEST_ECN"),
    (VIRTIO_NET_F_GUEST_USO4, "GUEST_USO4"),
    (VIRTIO_NET_F_GUEST_USO6, "GUEST_USO6"),
    (VIRTIO_NET_F_MTU, "MTU"),
    (VIRTIO_NET_F_MAC, "MAC"),
    (VIRTIO_NET_F_STATUS, "STATUS"),
    (VIRTIO_NET_F_MQ, "MQ"),
    (VIRTIO_NET_F_CTRL_VQ, "CTRL_VQ"),
    (VIRTIO_NET_F_GUEST_ANNOUNCE, "GUEST_ANNOUNCE"),
    (VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits().trailing_zeros(), "PROTOCOL_FEATURES"),
    (VhostUserVirtioFeatures::LOG_ALL.bits().trailing_zeros(), "LOG_ALL"),
];

/// The features offered over an uplink that takes and gives `offloads`, with `pairs` queue pairs.
#[must_use]
pub fn offered(offloads: Offloads, pairs: usize, mac: bool) -> u64 {
    let Offloads { csum, tso4, tso6, ecn, uso4, uso6 } = offloads;
    [
        (VIRTIO_F_VERSION_1, true),
        (VIRTIO_F_RING_PACKED, true),
        (VIRTIO_F_IN_ORDER, true),
        (VIRTIO_NET_F_MRG_RXBUF, true),
        (VIRTIO_RING_F_INDIRECT_DESC, true),
        (VIRTIO_RING_F_EVENT_IDX, true),
        (VIRTIO_NET_F_CSUM, csum),
        (VIRTIO_NET_F_HOST_TSO4, tso4),
        (VIRTIO_NET_F_HOST_TSO6, tso6),
        (VIRTIO_NET_F_HOST_ECN, ecn),
        (VIRTIO_NET_F_HOST_USO, uso4 && uso6),
        (VIRTIO_NET_F_GUEST_CSUM, csum),
        (VIRTIO_NET_F_GUEST_TSO4, tso4),
        (VIRTIO_NET_F_GUEST_TSO6, tso6),
        (VIRTIO_NET_F_GUEST_ECN, ecn),
        (VIRTIO_NET_F_GUEST_USO4, uso4),
        (VIRTIO_NET_F_GUEST_USO6, uso6),
        (VIRTIO_NET_F_MTU, true),
        (VIRTIO_NET_F_MAC, mac),
        (VIRTIO_NET_F_STATUS, true),
        (VIRTIO_NET_F_MQ, pairs > 1),
        (VIRTIO_NET_F_CTRL_VQ, pairs > 1),
        (VIRTIO_NET_F_GUEST_ANNOUNCE, true),
        (VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits().trailing_zeros(), true),
        (VhostUserVirtioFeatures::LOG_ALL.bits().trailing_zeros(), true),
    ]
    .into_iter()
    .filter(|(_, offer)| *offer)
    .fold(0, |bits, (bit, _)| bits | 1 << bit)
}

/// What the features that a driver acknowledged mean to its packets.
#[must_use]
pub fn understood(acked: u64, mtu: Option<u16>) -> worker::Features {
    let has = |bit: u32| acked & (1 << bit) != 0;
    let mergeable = has(VIRTIO_NET_F_MRG_RXBUF);
    worker::Features {
        header_len: if mergeable || has(VIRTIO_F_VERSION_1) { HEADER_LEN } else { HEADER_LEN - 2 },
        mergeable,
        max_frame: mtu.filter(|_| has(VIRTIO_NET_F_MTU)).map(|mtu| usize::from(mtu) + ETHERNET_LEN + VLAN_LEN),
        guest: Offloads {
            csum: has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: has(VIRTIO_NET_F_GUEST_ECN),
            uso4: has(VIRTIO_NET_F_GUEST_USO4),
            uso6: has(VIRTIO_NET_F_GUEST_USO6),
        },
        host: Offloads {
            csum: has(VIRTIO_NET_F_CSUM),
            tso4: has(VIRTIO_NET_F_HOST_TSO4),
            tso6: has(VIRTIO_NET_F_HOST_TSO6),
            ecn: has(VIRTIO_NET_F_HOST_ECN),
            uso4: has(VIRTIO_NET_F_HOST_USO),
            uso6: has(VIRTIO_NET_F_HOST_USO),
        },
    }
}

/// A feature word, written as its names.
#[derive(Clone, Copy, Debug)]
pub struct FeatureNames(pub u64);

impl fmt::Display for FeatureNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        for (bit, name) in NAMES {
            if rest & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = " ";
                rest &= !(1 << bit);
            }
        }
        if rest != 0 {
            write!(f, "{separator}{rest:#x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_feature_has_a_name() {
        let names = FeatureNames(offered(Offloads::ALL, 2, true)).to_string();
        assert!(names.starts_with("VERSION_1 RING_PACKED"), "{names}");
        assert!(!names.contains("0x"), "{names}");
        assert_eq!(FeatureNames(1 << 40).to_string(), "0x10000000000");
    }

    #[test]
    fn features_that_nothing_stands_behind_are_not_offered() {
        // RING_RESET, RSS, HASH_REPORT, NOTIFICATION_DATA, ACCESS_PLATFORM, UFO both ways.
        for bit in [40, 60, 57, 38, 33, 10, 14] {
            assert_eq!(offered(Offloads::ALL, 32, true) & (1 << bit), 0, "feature {bit}");
        }
        assert_eq!(offered(Offloads::ALL, 1, true) & (1 << VIRTIO_NET_F_MQ), 0);
    }

    #[test]
    fn a_legacy_guest_has_the_short_header() {
        assert_eq!(understood(0, None).header_len, 10);
        assert_eq!(understood(1 << VIRTIO_NET_F_MRG_RXBUF, None).header_len, 12);
        assert_eq!(understood(1 << VIRTIO_F_VERSION_1, None).header_len, 12);
    }
}
