//! A pair's mode in words and numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mode::{Activity, Mode, Reason, Setting, State, Time};
use crate::nic::Lane;
use crate::worker;

/// A lane and its mode.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LaneMode {
    /// The queue pair, or its direction where each has a mode of its own.
    pub id: String,
    /// The worker that serves it. None: no front end has started a ring of it yet, and this is how it will begin.
    pub worker: Option<String>,
    /// Its mode.
    pub mode: ModeStatus,
}

impl LaneMode {
    pub(super) fn of(lane: &Lane) -> Self {
        let worker = lane.worker().map(|worker| worker.name);
        Self { id: lane.id.to_string(), worker, mode: ModeStatus::of(lane.gauges.read(), worker::now()) }
    }
}

/// The mode of a pair, or of one direction of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ModeStatus {
    /// The mode.
    pub mode: Mode,
    /// How long it has been so, in seconds.
    pub for_s: f64,
    /// What put it there, or holds it there.
    pub reason: Reason,
    /// Who chooses the mode now.
    pub setting: Setting,
    /// In how many seconds what is set gives way to what stood before. None: never.
    pub setting_ends_in_s: Option<f64>,
    /// What the worker is doing.
    pub activity: Activity,
    /// Changes of mode so far, by reason.
    pub switches: BTreeMap<String, u64>,
    /// Seconds asleep with kicks armed so far.
    pub waiting_s: f64,
    /// Seconds draining so far.
    pub draining_s: f64,
    /// Seconds polling so far.
    pub polling_s: f64,
    /// Segments a second over the rate window, when the worker last looked.
    #[serde(default)]
    pub pps: u64,
    /// Bits a second over the rate window, when the worker last looked.
    #[serde(default)]
    pub bits_per_second: u64,
    /// How long polling may find nothing before it ends, in `auto`, in microseconds.
    pub polling_window_us: f64,
}

impl ModeStatus {
    pub(super) fn of(state: State, now: Time) -> Self {
        let state = state.until(now);
        let seconds = |ns: u64| ns as f64 / 1e9;
        Self {
            mode: state.mode,
            for_s: now.duration_since(state.since).as_secs_f64(),
            reason: state.reason,
            setting: state.setting,
            setting_ends_in_s: state.setting_ends.map(|end| end.duration_since(now).as_secs_f64()),
            activity: state.activity,
            switches: Reason::ALL.iter().zip(state.switches).map(|(reason, n)| (reason.name().into(), n)).collect(),
            waiting_s: seconds(state.waiting_ns),
            draining_s: seconds(state.draining_ns),
            polling_s: seconds(state.polling_ns),
            pps: state.pps,
            bits_per_second: state.bits_per_second,
            polling_window_us: state.polling_window_ns as f64 / 1e3,
        }
    }
}
