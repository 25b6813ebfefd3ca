//! The worker: a round over a pair, what it costs, and how it sleeps.

use std::collections::VecDeque;
use std::time::Duration;

use super::Outcome;
use super::Traffic;
use super::traffic::Frame;
use super::{MS, SECOND, US};
use crate::mode::{Cause, Direction, Governor, Mode, Policy, Report, Time, Uplink, Usage, Verdict, Way};

/// Most frames and bytes that a direction moves in a round.
const BUDGET: usize = 64;
const BUDGET_BYTES: u64 = 256 << 10;
const RING: usize = 1024;

/// How often the worker reads its clocks, and how long a competitor has the CPU at a time.
const USAGE_EVERY: u64 = 10 * MS;
const SLICE: u64 = 3 * MS;

/// What things cost, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    pub(super) round: u64,
    pub(super) packet: u64,
    /// Arming kicks and looking once more.
    pub(super) arm: u64,
    /// From what wakes a worker to its first round, and the CPU time of a sleep.
    pub(super) wake: u64,
}

impl Costs {
    /// A test uplink.
    pub(super) const FAST: Self = Self { round: 200, packet: 100, arm: 300, wake: 5_000 };
    /// A TAP.
    pub(super) const TAP: Self = Self { packet: 700, ..Self::FAST };

    /// The highest rate.
    pub(super) fn max_pps(self) -> u64 {
        let packets = 2 * BUDGET as u64;
        packets * SECOND / (self.round + packets * self.packet)
    }

    /// The longest round over small frames.
    pub(super) fn full_round(self) -> u64 {
        self.round + 2 * BUDGET as u64 * self.packet
    }
}

/// A worker with one pair and its traffic.
pub(super) struct Sim {
    pub(super) governor: Governor,
    pub(super) now: u64,
    pub(super) outcome: Outcome,
    /// Somebody else wants the CPU.
    pub(super) is_contested: bool,
    pub(super) uplink: Uplink,
    pub(super) no_kick_fd: bool,
    costs: Costs,
    traffic: Traffic,
    /// Frames, and whether the next round was to take them when they came.
    rings: [VecDeque<(Frame, bool)>; 2],
    usage: Usage,
    usage_read: u64,
    /// Since when the worker has its CPU.
    running_since: u64,
    idle_since: Option<u64>,
    /// When the sleep before this round began.
    slept: Option<u64>,
}

impl Sim {
    pub(super) fn new(policy: Policy, costs: Costs, traffic: Traffic) -> Self {
        Self {
            governor: Governor::new(&policy.check().unwrap(), Time::default()),
            now: 0,
            outcome: Outcome::default(),
            is_contested: false,
            uplink: Uplink::Up,
            no_kick_fd: false,
            costs,
            traffic,
            rings: Default::default(),
            usage: Usage::default(),
            usage_read: 0,
            running_since: 0,
            idle_since: None,
            slept: None,
        }
    }

    /// Runs from nothing to the end.
    pub(super) fn run(policy: Policy, costs: Costs, traffic: Traffic, ns: u64) -> Outcome {
        let mut sim = Self::new(policy, costs, traffic);
        sim.go_on(ns);
        sim.outcome
    }

    /// From now on something else comes.
    pub(super) fn set_traffic(&mut self, traffic: Traffic) {
        self.traffic = traffic.from(self.now);
    }

    /// Begins to measure.
    pub(super) fn forget(&mut self) {
        self.outcome = Outcome::default();
    }

    /// Goes on for `ns`, or a little longer: a round or a sleep is not interrupted.
    pub(super) fn go_on(&mut self, ns: u64) {
        let from = self.now;
        while self.now < from + ns {
            let report = self.round();
            let verdict = self.governor.after_round(&report);
            while let Some(switch) = self.governor.take_switch() {
                self.outcome.switches.push(switch);
            }
            let has_work = self.rings.iter().any(|ring| !ring.is_empty());
            match verdict {
                Verdict::Again => {}
                _ if has_work && report.is_ready() => panic!("{verdict:?} with work left at {}", self.now),
                Verdict::Rest { until } => self.sleep(Some(until), false, from + ns),
                Verdict::Wait { until } => {
                    self.spend(self.costs.arm);
                    self.arrive();
                    if self.rings.iter().any(|ring| !ring.is_empty()) {
                        self.governor.woke(Time::from_nanos(self.now), Cause::Nothing);
                    } else {
                        self.sleep(until, true, from + ns);
                    }
                }
            }
        }
        self.outcome.elapsed += self.now - from;
    }

    fn spend(&mut self, ns: u64) {
        self.now += ns;
        self.outcome.cpu += ns;
        self.usage.cpu += Duration::from_nanos(ns);
    }

    fn arrive(&mut self) {
        while let Some(frame) = self.traffic.take(self.now) {
            let ring = &mut self.rings[frame.way];
            if ring.len() < RING {
                let is_next = ring.len() < BUDGET && ring.len() as u64 * frame.bytes < BUDGET_BYTES;
                ring.push_back((frame, is_next));
            }
        }
    }

    fn round(&mut self) -> Report {
        if self.is_contested && self.now - self.running_since >= SLICE {
            self.now += SLICE;
            self.usage.preemptions += 1;
            self.running_since = self.now;
        }
        let from = self.now;
        self.arrive();
        self.spend(self.costs.round);
        let slept = self.slept.take();
        let ways = [0, 1].map(|way| self.burst(way, from, slept));
        self.arrive();
        let [rx, tx] = [0, 1].map(|way| {
            let has_budget_left = (ways[way].packets as usize) < BUDGET && ways[way].bytes < BUDGET_BYTES;
            let is_backlog = !has_budget_left && !self.rings[way].is_empty();
            let left = if is_backlog { Direction::Ready } else { Direction::Empty };
            Way { left, no_kick_fd: self.no_kick_fd && way == 1, ..ways[way] }
        });
        if rx.packets + tx.packets == 0 {
            if self.governor.mode() == Mode::Polling {
                match self.outcome.empty_rounds.last_mut() {
                    Some((end, ns)) if *end == from && *ns < 10 * US => (*end, *ns) = (self.now, *ns + self.now - from),
                    _ => self.outcome.empty_rounds.push((self.now, self.now - from)),
                }
            }
            let idle_since = *self.idle_since.get_or_insert(from);
            self.outcome.longest_spin = self.outcome.longest_spin.max(self.now - idle_since);
        } else {
            self.idle_since = None;
        }
        let usage = (self.now - self.usage_read >= USAGE_EVERY).then(|| {
            self.usage_read = self.now;
            self.usage
        });
        Report { now: Time::from_nanos(self.now), rx, tx, uplink: self.uplink, deadline: None, usage }
    }

    fn burst(&mut self, way: usize, from: u64, slept: Option<u64>) -> Way {
        let mut moved = Way::default();
        while (moved.packets as usize) < BUDGET && moved.bytes < BUDGET_BYTES {
            let Some((frame, is_next)) = self.rings[way].pop_front() else { break };
            self.spend(self.costs.packet);
            self.traffic.served(self.now);
            self.outcome.delivered[way] += 1;
            self.outcome.add_latency(self.now - frame.at);
            let late = from - frame.at;
            let [asleep, awake] = &mut self.outcome.seen_late;
            match slept {
                _ if !is_next => {}
                Some(began) if frame.at >= began => *asleep = late.max(*asleep),
                _ => *awake = late.max(*awake),
            }
            moved.packets += 1;
            moved.segments += frame.segments;
            moved.bytes += frame.bytes;
        }
        moved
    }

    fn sleep(&mut self, until: Option<Time>, is_armed: bool, end: u64) {
        let began = self.now;
        self.idle_since = None;
        let until = until.map_or(u64::MAX, Time::as_nanos).min(end);
        let wakes = [is_armed, is_armed && !self.no_kick_fd];
        let mut woken = None;
        // What arrives without waking anybody is found when the sleep is over.
        while let Some(at) = self.traffic.peek().filter(|at| *at < until) {
            self.now = at;
            let before = [0, 1].map(|way| self.rings[way].len());
            self.arrive();
            let way = (0..2).find(|way| self.rings[*way].len() > before[*way] && wakes[*way]);
            if let Some(way) = way {
                woken = Some(if way == 1 { Cause::Kick } else { Cause::Uplink });
                self.outcome.kicks += u64::from(way == 1);
                break;
            }
        }
        if woken.is_none() {
            self.now = until.max(self.now);
            if until == end {
                // The run ends in its sleep; the next one begins with a message.
                self.governor.woke(Time::from_nanos(self.now), Cause::Mailbox);
                return;
            }
        }
        self.outcome.sleeps += 1;
        self.slept = Some(began);
        self.spend(self.costs.wake);
        self.running_since = self.now;
        self.governor.woke(Time::from_nanos(self.now), woken.unwrap_or(Cause::Timeout));
    }
}
