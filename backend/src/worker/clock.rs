//! The worker's clocks.

#![forbid(unsafe_code)]

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

use crate::mode::{Time, Usage};

/// How often a worker that does not sleep looks at its thread's clocks, which costs a system call.
const READING_NS: u64 = 10_000_000;

/// The time on the clock that all of the daemon reads (`CLOCK_MONOTONIC`).
#[inline]
#[must_use]
pub fn now() -> Time {
    // It does not fail for this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Time::default(), |time| Time::from(Duration::from(time)))
}

/// Reads the clocks of the calling thread now and then.
#[derive(Debug, Default)]
pub(super) struct ThreadClocks {
    due: Time,
}

impl ThreadClocks {
    /// The thread's clocks, if it is time to look at them.
    #[inline]
    pub(super) fn read_if_due(&mut self, now: Time) -> Option<Usage> {
        if now < self.due {
            return None;
        }
        self.due = Time::from_nanos(now.as_nanos() + READING_NS);
        // The CPU time that getrusage tells is as old as the last tick of the scheduler.
        let cpu = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
        let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
        Some(Usage { cpu: cpu.into(), preemptions: usage.involuntary_context_switches().try_into().unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go_on_and_are_read_when_it_is_time() {
        let mut clocks = ThreadClocks::default();
        let start = now();
        let before = clocks.read_if_due(start).unwrap();
        assert_eq!(clocks.read_if_due(start), None);
        let mut at = start;
        while at.duration_since(start) < Duration::from_millis(12) {
            at = now();
        }
        let after = clocks.read_if_due(at).unwrap();
        assert!(after.cpu > before.cpu && after.preemptions >= before.preemptions, "{before:?} {after:?}");
    }
}
