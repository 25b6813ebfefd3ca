//! What was counted, with the time of the reading: two of them make a rate.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ModeStatus, SinceStart};
use crate::nic::Lane;
use crate::worker;

/// A reading.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stats {
    /// When it was taken, in seconds since the daemon's start.
    pub at_s: f64,
    /// The lanes that have a worker.
    pub lanes: Vec<LaneStats>,
}

/// What one lane counted.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LaneStats {
    /// The queue pair, or its direction where each has a worker.
    pub id: String,
    /// Its mode, and the time that it spent in each.
    pub mode: ModeStatus,
    /// Its counts; the names are those of [`worker::PairCounters`].
    pub counters: Map<String, Value>,
}

impl Stats {
    pub(super) fn of(lanes: &[&Lane], start: SinceStart) -> Self {
        let now = worker::now();
        let running = lanes.iter().filter(|lane| lane.worker().is_some());
        let stats = |lane: &&Lane| LaneStats {
            id: lane.id.to_string(),
            mode: ModeStatus::of(lane.gauges.read(), now),
            counters: match serde_json::to_value(&*lane.counters) {
                Ok(Value::Object(counters)) => counters,
                _ => Map::new(),
            },
        };
        Self { at_s: start.seconds(now), lanes: running.map(stats).collect() }
    }
}
