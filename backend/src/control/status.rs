//! What the daemon is doing, as `vnicctl status` shows it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::nic::{FeatureNames, Lane, Nic};
use crate::worker::{self, Direction};

use super::ModeStatus;

/// The daemon.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Its devices.
    pub devices: Vec<DeviceStatus>,
}

/// A device.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeviceStatus {
    /// Its name, the first part of its queues' names.
    pub name: String,
    /// Where its packets go.
    pub uplink: String,
    /// Process of the front end that is connected.
    pub front_end_pid: Option<i32>,
    /// Features that the driver acknowledged, by name.
    pub features: Option<String>,
    /// What became of its front ends; the names are those of [`crate::nic::FrontEndCounters`].
    #[serde(default)]
    pub front_ends: Value,
    /// Its queue pairs, those that ever ran.
    pub pairs: Vec<PairStatus>,
    /// Queue pairs that it offers.
    pub queue_pairs: u16,
}

/// A queue pair, or one direction of it where each has a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PairStatus {
    /// Its name.
    pub id: String,
    /// Whether its receive ring is started.
    pub rx_started: bool,
    /// Whether its transmit ring is started.
    pub tx_started: bool,
    /// The worker that serves it.
    pub worker: String,
    /// The CPU that this worker is pinned to, if it is.
    pub cpu: Option<usize>,
    /// Its mode.
    pub mode: ModeStatus,
    /// What it counted; the names are those of [`crate::worker::PairCounters`].
    pub counters: Value,
}

impl Status {
    /// As it is now.
    #[must_use]
    pub fn of(devices: &[Arc<Nic>]) -> Self {
        let version = env!("CARGO_PKG_VERSION").into();
        Self { version, pid: std::process::id(), devices: devices.iter().map(|d| DeviceStatus::of(d)).collect() }
    }
}

impl DeviceStatus {
    fn of(device: &Nic) -> Self {
        let front_end = device.front_end();
        let started = |lane: &Lane, direction| {
            let id = lane.id.with(direction);
            lane.id.covers(id) && front_end.as_ref().is_some_and(|f| f.started.contains(&id))
        };
        let now = worker::now();
        let pair = |lane: &Lane| {
            lane.worker().map(|worker| PairStatus {
                id: lane.id.to_string(),
                rx_started: started(lane, Direction::Rx),
                tx_started: started(lane, Direction::Tx),
                worker: worker.name,
                cpu: lane.place().cpu,
                mode: ModeStatus::of(lane.gauges.read(), now),
                counters: serde_json::to_value(&*lane.counters).unwrap_or(Value::Null),
            })
        };
        Self {
            name: device.name().to_string(),
            uplink: device.uplink().to_owned(),
            front_end_pid: front_end.as_ref().map(|f| f.pid),
            features: front_end.as_ref().and_then(|f| f.features).map(|f| FeatureNames(f).to_string()),
            front_ends: serde_json::to_value(&*device.front_ends().counters).unwrap_or(Value::Null),
            pairs: device.lanes().iter().filter_map(pair).collect(),
            queue_pairs: device.rings() / 2,
        }
    }
}
