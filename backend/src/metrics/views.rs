//! What is shown of devices, taken from what workers count and show.

use std::collections::HashMap;
use std::sync::Arc;

use crate::mode::{State, Time};
use crate::nic::{FrontEndCounters, Lane, Nic, Nics};
use crate::worker::{self, PairCounters, QueueId};

/// What is shown of a lane: a queue pair, or one direction of it.
#[derive(Debug)]
pub(super) struct LaneView {
    pub(super) id: QueueId,
    pub(super) counters: Arc<PairCounters>,
    pub(super) state: State,
}

/// What is shown of a device.
#[derive(Debug)]
pub(super) struct DeviceView {
    pub(super) name: &'static str,
    pub(super) front_end_connected: bool,
    pub(super) link_up: bool,
    pub(super) front_ends: Arc<FrontEndCounters>,
    /// Its lanes, those that ever ran.
    pub(super) lanes: Vec<LaneView>,
}

/// Looks at devices, and remembers what it showed of what must not go back.
#[derive(Debug)]
pub(super) struct Viewer {
    nics: Nics,
    spent: Spent,
}

impl Viewer {
    pub(super) fn new(nics: Nics) -> Self {
        Self { nics, spent: Spent::default() }
    }

    /// The devices as they are now.
    pub(super) fn look(&mut self) -> Vec<DeviceView> {
        let now = worker::now();
        let Self { nics, spent } = self;
        let mut lane = |lane: &Lane| LaneView {
            id: lane.id,
            counters: lane.counters.clone(),
            state: spent.grown(lane.id, lane.gauges.read(), now),
        };
        let device = |nic: &Arc<Nic>| DeviceView {
            name: nic.name().as_str(),
            front_end_connected: nic.front_end().is_some(),
            link_up: nic.link_up(),
            front_ends: nic.front_ends().counters.clone(),
            lanes: nic.lanes().iter().filter(|lane| lane.mailbox().is_some()).map(&mut lane).collect(),
        };
        nics.all().iter().map(device).collect()
    }
}

/// The times that were shown last: waiting, draining, polling.
#[derive(Debug, Default)]
pub(super) struct Spent(HashMap<QueueId, [u64; 3]>);

impl Spent {
    /// The state up to `now`. Between two looks of its worker that is a guess, and times that fall short of what was
    /// guessed before stay as they were: a counter that went back would be taken for one that began anew.
    pub(super) fn grown(&mut self, id: QueueId, state: State, now: Time) -> State {
        let mut state = state.until(now);
        let shown = self.0.entry(id).or_default();
        for (shown, ns) in shown.iter_mut().zip([&mut state.waiting_ns, &mut state.draining_ns, &mut state.polling_ns])
        {
            *shown = (*shown).max(*ns);
            *ns = *shown;
        }
        state
    }
}
