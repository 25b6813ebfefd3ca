//! Changes of mode as subscribers read them, a JSON-RPC notification a line.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::rpc;
use crate::mode::{Mode, Reason, Time};
use crate::worker::{self, ModeEvent};

/// The method of a notification that holds a [`ModeChange`].
pub const MODE_CHANGED: &str = "mode.changed";
/// The method of a notification that holds a [`Lost`].
pub const EVENTS_LOST: &str = "events.lost";

/// A lane changed its mode.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ModeChange {
    /// The queue pair, or its direction where each has a mode of its own.
    pub id: String,
    /// The mode before.
    pub from: Mode,
    /// The mode now.
    pub to: Mode,
    /// Why.
    pub reason: Reason,
    /// When, in seconds since the daemon's start.
    pub at_s: f64,
    /// When, in UTC (RFC 3339).
    pub time: String,
}

/// Changes that came faster than they were read.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// How many.
    pub events: u64,
}

/// The clock that begins at the daemon's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct SinceStart(Time);

impl SinceStart {
    pub(super) fn now() -> Self {
        Self(worker::now())
    }

    pub(super) fn seconds(self, at: Time) -> f64 {
        at.duration_since(self.0).as_secs_f64()
    }
}

/// The line that tells of a change.
pub(super) fn line(event: &ModeEvent, start: SinceStart) -> String {
    let ModeEvent { id, switch } = event;
    let ago = worker::now().duration_since(switch.at);
    let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    let change = ModeChange {
        id: id.to_string(),
        from: switch.to.toggled(),
        to: switch.to,
        reason: switch.reason,
        at_s: start.seconds(switch.at),
        time: humantime::format_rfc3339_micros(time).to_string(),
    };
    rpc::notification(MODE_CHANGED, &json!(change))
}

/// The line that tells of changes that were lost.
pub(super) fn lost_line(events: u64) -> String {
    rpc::notification(EVENTS_LOST, &json!(Lost { events }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Switch;
    use crate::worker::QueueId;

    #[test]
    fn a_change_tells_both_modes_and_both_times() {
        let start = SinceStart::now();
        let switch = Switch { at: worker::now(), to: Mode::Polling, reason: Reason::Override };
        let event = ModeEvent { id: QueueId::pair("nic0".parse().unwrap(), 3), switch };
        let value: serde_json::Value = serde_json::from_str(&line(&event, start)).unwrap();
        assert_eq!((value["method"].as_str(), value.get("id")), (Some(MODE_CHANGED), None));
        let change: ModeChange = serde_json::from_value(value["params"].clone()).unwrap();
        assert_eq!((change.id.as_str(), change.from, change.to), ("nic0/3", Mode::Interrupt, Mode::Polling));
        assert!(change.at_s >= 0.0, "{change:?}");
        let time = humantime::parse_rfc3339(&change.time).unwrap();
        assert!(SystemTime::now().duration_since(time).unwrap().as_secs() < 60, "{change:?}");
    }
}
