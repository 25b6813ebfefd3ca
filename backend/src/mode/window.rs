//! How long polling may find nothing: a window that grows while it pays, and a ceiling over what is burnt.

use super::rate::Sliding;
use super::{Policy, Time};

/// What a window that was nothing grows to. It does not shrink below as long as work comes often: shorter is hardly more
/// than the sleep that it is to save.
const STEP_NS: u64 = 10_000;

/// How many mean gaps a window holds at `enter_pps` when the rate gets there: of 3000 gaps that are spread evenly at
/// random, one is longer.
const GAPS_AT_FIRST: u64 = 8;

/// The time over which the ceiling holds.
pub(super) const CEILING_WINDOW_NS: u64 = 100_000_000;

/// The polling window: how long a pair goes on polling without finding work.
///
/// It doubles when work came late in it, or shortly after it was over; it halves when nothing came for longer than it
/// could ever have been.
#[derive(Debug)]
pub(super) struct Window {
    size_ns: u64,
    min_ns: u64,
    max_ns: u64,
    first_ns: u64,
}

impl Window {
    pub(super) fn new(policy: &Policy) -> Self {
        let [min_ns, max_ns] = [policy.min_idle_spin_us, policy.max_idle_spin_us].map(|us| u64::from(us) * 1000);
        let first_ns = (GAPS_AT_FIRST * 1_000_000_000 / u64::from(policy.enter_pps.max(1))).min(max_ns);
        Self { size_ns: min_ns.min(max_ns), min_ns, max_ns, first_ns }
    }

    pub(super) fn size_ns(&self) -> u64 {
        self.size_ns
    }

    /// Whether nothing came for so long that polling ends.
    #[inline]
    pub(super) fn is_over(&self, idle_ns: u64) -> bool {
        idle_ns >= self.size_ns
    }

    /// Whether it can grow no more.
    pub(super) fn is_largest(&self) -> bool {
        self.size_ns == self.max_ns
    }

    /// The rate says that work comes often.
    pub(super) fn expect_work(&mut self) {
        self.size_ns = self.size_ns.max(self.first_ns);
    }

    /// Polling found work after `idle_ns`.
    #[inline]
    pub(super) fn found(&mut self, idle_ns: u64) {
        if idle_ns > self.size_ns / 2 {
            self.grow();
        }
    }

    /// Work came after a sleep and `idle_ns` without any. `is_often` says whether it comes at a rate worth polling for;
    /// `was_polled` whether the sleep began when the window was over.
    pub(super) fn missed(&mut self, idle_ns: u64, is_often: bool, was_polled: bool) {
        if is_often && idle_ns < self.max_ns {
            if was_polled {
                self.grow();
            }
            return;
        }
        let least_ns = if is_often { self.min_ns.max(STEP_NS.min(self.max_ns)) } else { self.min_ns };
        self.size_ns = if self.size_ns < 2 * STEP_NS { least_ns } else { (self.size_ns / 2).max(least_ns) };
    }

    fn grow(&mut self) {
        self.size_ns = (self.size_ns * 2).max(STEP_NS).min(self.max_ns);
    }
}

/// The ceiling over the time that empty rounds take.
#[derive(Debug)]
pub(super) struct Ceiling {
    burnt: Sliding<1>,
    limit_ns: u64,
}

impl Ceiling {
    pub(super) fn new(policy: &Policy, now: Time) -> Self {
        let limit_ns = match policy.max_poll_cpu_percent {
            percent @ ..100 => CEILING_WINDOW_NS / 100 * u64::from(percent),
            _ => u64::MAX,
        };
        Self { burnt: Sliding::new(CEILING_WINDOW_NS, now), limit_ns }
    }

    /// Counts an empty round. Says whether it was one too many.
    #[inline]
    pub(super) fn burn(&mut self, now: Time, ns: u64) -> bool {
        self.limit_ns != u64::MAX && self.burnt.add(now, [ns])[0] >= self.limit_ns
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_policy;
    use super::*;

    #[test]
    fn the_window_grows_while_it_pays_and_shrinks_when_it_does_not() {
        let mut window = Window::new(&Policy { max_idle_spin_us: 100, min_idle_spin_us: 1, ..test_policy() });
        let us = |window: &Window| window.size_ns() / 1000;
        assert_eq!(us(&window), 1);
        window.missed(50_000, false, true);
        assert_eq!(us(&window), 1, "nobody polls at this rate");
        window.missed(50_000, true, false);
        assert_eq!(us(&window), 1, "nobody polled");
        for size in [10, 20, 40, 80, 100, 100] {
            window.missed(50_000, true, true);
            assert_eq!(us(&window), size);
        }
        assert!(window.is_largest());
        for size in [50, 25, 12, 10, 10] {
            window.missed(100_000, true, true);
            assert_eq!(us(&window), size);
        }
        window.missed(100_000, false, false);
        assert_eq!(us(&window), 1, "it is not to cost anything where the rate is low");
        window.expect_work();
        assert_eq!(us(&window), 100, "eight gaps of 20 µs are more than it may be");
        window.missed(1_000_000, true, false);
        window.found(25_000);
        assert_eq!(us(&window), 50, "long enough");
        window.found(25_001);
        assert_eq!(us(&window), 100);
    }

    #[test]
    fn the_ceiling_counts_a_tenth_of_a_second() {
        let mut ceiling = Ceiling::new(&Policy { max_poll_cpu_percent: 10, ..test_policy() }, Time::default());
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        assert!(!ceiling.burn(at(5), 5_000_000));
        assert!(!ceiling.burn(at(50), 4_999_999));
        assert!(ceiling.burn(at(51), 1));
        assert!(!ceiling.burn(at(130), 4_000_000), "the first 5 ms are forgotten");
        let mut none = Ceiling::new(&test_policy(), Time::default());
        assert!(!none.burn(at(1), 1_000_000_000));
    }
}
