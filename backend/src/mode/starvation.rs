//! Whether somebody else wants the CPU on which a worker polls: often the guest's own vCPU, which then waits for a
//! thread that only looks whether the guest has done something.

use super::{Policy, Time, Usage};

/// Of the time that the thread wanted to run, the least share whose loss counts: less is the housekeeping that every
/// CPU sees, or what a host takes from a virtual machine. Another thread that wants the CPU gets half of it.
const LOST_ONE_IN: u64 = 4;

/// Readings in a row that must tell of it: a single one may be an accident.
const READINGS: u32 = 2;

/// How often the time without polling doubles.
const MOST_DOUBLINGS: u32 = 5;

/// Judges the worker's clocks.
#[derive(Debug)]
pub(super) struct Starvation {
    first_backoff_ns: u64,
    doublings: u32,
    /// Starved again before this: the time without polling was too short.
    trusted_from: Time,
    before: Option<(Usage, u64)>,
    /// Readings in a row that told of a loss.
    in_a_row: u32,
}

impl Starvation {
    pub(super) fn new(policy: &Policy) -> Self {
        let first_backoff_ns = u64::from(policy.preempted_backoff_ms) * 1_000_000;
        Self { first_backoff_ns, doublings: 0, trusted_from: Time::default(), before: None, in_a_row: 0 }
    }

    /// Whether the thread was preempted for a time that matters, in this reading and the one before. `awake_ns` is the time since
    /// the beginning that it did not sleep of its own accord.
    pub(super) fn judge(&mut self, usage: Usage, awake_ns: u64) -> bool {
        let Some((before, awake_before_ns)) = self.before.replace((usage, awake_ns)) else { return false };
        let awake_ns = awake_ns.saturating_sub(awake_before_ns);
        let ran_ns = usage.cpu.saturating_sub(before.cpu).as_nanos();
        let lost_ns = u128::from(awake_ns).saturating_sub(ran_ns);
        let is_lost =
            usage.preemptions > before.preemptions && lost_ns * u128::from(LOST_ONE_IN) > u128::from(awake_ns);
        self.in_a_row = if is_lost { self.in_a_row + 1 } else { 0 };
        self.in_a_row >= READINGS
    }

    /// Until when a worker that was starved now does not poll: longer each time that it comes back too early.
    pub(super) fn back_off(&mut self, now: Time) -> Time {
        self.doublings = if now < self.trusted_from { (self.doublings + 1).min(MOST_DOUBLINGS) } else { 0 };
        let backoff_ns = self.first_backoff_ns << self.doublings;
        self.trusted_from = now.after_ns(2 * backoff_ns);
        now.after_ns(backoff_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_policy;
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn housekeeping_is_no_starvation_and_neither_is_sleep() {
        let mut starvation = Starvation::new(&test_policy());
        let mut judge = |cpu_ms, preemptions, awake_ms| {
            starvation.judge(Usage { cpu: Duration::from_millis(cpu_ms), preemptions }, awake_ms * MS)
        };
        assert!(!judge(1000, 70, 10), "nothing to compare with");
        assert!(!judge(1008, 71, 20), "two milliseconds of ten");
        assert!(!judge(1015, 72, 30), "once");
        assert!(judge(1020, 73, 40), "twice");
        assert!(judge(1025, 74, 50), "still");
        assert!(!judge(1030, 74, 60), "time went by, but nobody took the CPU");
        assert!(!judge(1035, 75, 70), "once again");
        assert!(!judge(1036, 76, 71), "it slept most of the time");
    }

    #[test]
    fn who_is_starved_again_waits_longer() {
        let mut starvation = Starvation::new(&Policy { preempted_backoff_ms: 10, ..test_policy() });
        let mut now = Time::from_nanos(5 * MS);
        for ms in [10, 20, 40, 80, 160, 320, 320] {
            let until = starvation.back_off(now);
            assert_eq!(until.since_ns(now), ms * MS);
            now = until.after_ns(5 * MS);
        }
        let later = now.after_ns(1000 * MS);
        assert_eq!(starvation.back_off(later).since_ns(later), 10 * MS);
    }
}
