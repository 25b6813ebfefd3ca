//! A pair whose rounds the test makes up.

mod orders;
mod rules;

use std::time::Duration;

use super::*;
use crate::mode::test_policy;
use crate::mode::{Direction, ModeError, Usage, Way};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

struct Pair {
    governor: Governor,
    now: u64,
    report: Report,
    /// CPU time so far.
    cpu: u64,
}

impl Pair {
    fn new(policy: Policy) -> Self {
        Self {
            governor: Governor::new(&policy.check().unwrap(), Time::default()),
            now: 0,
            report: Report::default(),
            cpu: 0,
        }
    }

    fn of(mode: Setting) -> Self {
        Self::new(Policy { mode, ..test_policy() })
    }

    fn time(&self) -> Time {
        Time::from_nanos(self.now)
    }

    /// A round that took 1 µs and moved so many small frames out of the guest.
    fn round(&mut self, packets: u32, left: Direction) -> Verdict {
        self.now += US;
        self.cpu += US;
        let tx = Way { packets, segments: packets, bytes: 64 * u64::from(packets), left, ..self.report.tx };
        let verdict = self.governor.after_round(&Report { now: self.time(), tx, ..self.report });
        self.report.usage = None;
        verdict
    }

    fn empty(&mut self) -> Verdict {
        self.round(0, Direction::Empty)
    }

    /// Moves a frame every so often for a time, in rounds of 1 µs.
    fn frames_every(&mut self, gap_us: u64, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            let packets = u32::from((self.now / US).is_multiple_of(gap_us));
            match self.round(packets, Direction::Empty) {
                Verdict::Again => {}
                Verdict::Wait { .. } | Verdict::Rest { .. } => {
                    self.now = self.now.next_multiple_of(gap_us * US);
                    self.governor.woke(self.time(), Cause::Kick);
                }
            }
        }
    }

    fn is(&self) -> (Mode, Reason) {
        let state = self.governor.state(self.time());
        (state.mode, state.reason)
    }

    fn wait_until(&mut self) -> Option<u64> {
        match self.empty() {
            Verdict::Wait { until } => until.map(Time::as_nanos),
            verdict => panic!("{verdict:?}"),
        }
    }
}

const WAIT: Verdict = Verdict::Wait { until: None };
