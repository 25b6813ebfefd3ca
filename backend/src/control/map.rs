//! Who serves which queue, and where.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::nic::Nic;
use crate::worker::Direction;

/// What one name stands for: a queue pair, or a direction of it where each has a worker.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// The name.
    pub id: String,
    /// The worker that serves it, by name. None: no front end has started a ring of it yet.
    pub worker: Option<String>,
    /// The kernel's id of the worker's thread.
    pub thread_id: Option<i32>,
    /// The CPU that the worker is pinned to, if it is.
    pub cpu: Option<usize>,
    /// The CPU that its processor is pinned to, if it has one (`threads = "pipeline"`) and that is.
    pub processor_cpu: Option<usize>,
    /// The NUMA node of the guest's memory, if its threads are placed by that (`numa = "auto"`).
    pub node: Option<usize>,
    /// The front end's index of its receive queue.
    pub rx_ring: Option<u16>,
    /// The front end's index of its transmit queue.
    pub tx_ring: Option<u16>,
    /// Where its packets go.
    pub uplink: String,
    /// Number of its queue there.
    pub uplink_queue: u16,
    /// Process of the front end that is connected to its device.
    pub front_end_pid: Option<i32>,
}

/// The map of all devices.
pub(super) fn map(devices: &[Arc<Nic>]) -> Vec<MapEntry> {
    devices.iter().flat_map(|device| of_device(device)).collect()
}

fn of_device(device: &Nic) -> impl Iterator<Item = MapEntry> {
    let front_end_pid = device.front_end().map(|front_end| front_end.pid);
    device.lanes().iter().map(move |lane| {
        let (worker, place) = (lane.worker(), lane.place());
        let (pair, direction) = (lane.id.pair, lane.id.direction);
        MapEntry {
            id: lane.id.to_string(),
            worker: worker.as_ref().map(|worker| worker.name.clone()),
            thread_id: worker.as_ref().map(|worker| worker.thread_id),
            cpu: place.cpu,
            processor_cpu: place.processor_cpu,
            node: place.node,
            rx_ring: (direction != Direction::Tx).then_some(pair * 2),
            tx_ring: (direction != Direction::Rx).then_some(pair * 2 + 1),
            uplink: device.uplink().into(),
            uplink_queue: pair,
            front_end_pid,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::nic;
    use crate::worker::Threads;

    #[test]
    fn rings_are_where_the_front_end_counts_them() {
        let rings = |threads| -> Vec<_> {
            let map = map(&[nic("nic0", 2, threads)]);
            map.into_iter().map(|e| (e.id, e.rx_ring, e.tx_ring, e.uplink_queue)).collect()
        };
        let is = |id: &str, rx, tx, queue| (id.to_owned(), rx, tx, queue);
        assert_eq!(rings(Threads::PerPair), [is("nic0/0", Some(0), Some(1), 0), is("nic0/1", Some(2), Some(3), 1)]);
        assert_eq!(
            rings(Threads::PerDirection)[2..],
            [is("nic0/1/rx", Some(2), None, 1), is("nic0/1/tx", None, Some(3), 1)]
        );
    }
}
