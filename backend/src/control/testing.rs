//! Devices for tests.

use std::sync::Arc;

use crate::mode::Policy;
use crate::nic::{Nic, NicSetup, Placement};
use crate::offload::Offloads;
use crate::opener::Client;
use crate::record::Records;
use crate::uplink::{Rx, Tx, loopback_pair};
use crate::worker::{Guard, Moderation, Threads, Workers, mode_events};

/// A device on loopback wires. No worker runs.
pub(super) fn nic(name: &str, pairs: usize, threads: Threads) -> Arc<Nic> {
    made(name, pairs, threads, Placement { cpus: Vec::new(), nodes: None })
}

/// The same, with its threads placed.
pub(crate) fn nic_with(pairs: usize, threads: Threads, placement: Placement) -> Arc<Nic> {
    made("nic0", pairs, threads, placement)
}

fn made(name: &str, pairs: usize, threads: Threads, placement: Placement) -> Arc<Nic> {
    let wires = (0..pairs).map(|_| loopback_pair());
    Arc::new(Nic::new(NicSetup {
        name: name.parse().unwrap(),
        uplinks: wires.map(|(tx, rx)| (Tx::Wire(tx), Rx::Wire(rx))).collect(),
        switches: Vec::new(),
        uplink: "loopback".into(),
        interface: None,
        is_hosts: false,
        uplink_mac: None,
        mac: None,
        mtu: None,
        offloads: Offloads::ALL,
        max_queue_size: 256,
        placement,
        realtime: None,
        threads,
        workers: Arc::new(Workers::default()),
        policy: Policy::default(),
        moderation: Moderation::default(),
        guard: Guard::default(),
        events: mode_events().unwrap().0,
        records: Records::in_memory().unwrap(),
        opener: Client::default(),
    }))
}
