//! How much comes in a time, whatever the speed of the loop that counts it: sums over a sliding window, kept in buckets.

use super::{Policy, Time};

/// Buckets besides the one being filled: together they always cover the whole window, and at most 1/64 more.
const FULL_BUCKETS: u64 = 64;
const BUCKETS: usize = FULL_BUCKETS as usize + 1;

/// Sums of `K` amounts over a sliding window.
#[derive(Clone, Debug)]
pub(super) struct Sliding<const K: usize> {
    width_ns: u64,
    /// When the bucket being filled is full.
    end: Time,
    at: usize,
    buckets: [[u64; K]; BUCKETS],
    sums: [u64; K],
}

impl<const K: usize> Sliding<K> {
    pub(super) fn new(window_ns: u64, now: Time) -> Self {
        let width_ns = window_ns.div_ceil(FULL_BUCKETS).max(1);
        Self { width_ns, end: now.after_ns(width_ns), at: 0, buckets: [[0; K]; BUCKETS], sums: [0; K] }
    }

    /// Forgets what is older than the window, adds `amounts` and returns the sums.
    #[inline]
    pub(super) fn add(&mut self, now: Time, amounts: [u64; K]) -> &[u64; K] {
        if now >= self.end {
            self.rotate(now);
        }
        let bucket = &mut self.buckets[self.at];
        for ((bucket, sum), amount) in bucket.iter_mut().zip(&mut self.sums).zip(amounts) {
            *bucket += amount;
            *sum += amount;
        }
        &self.sums
    }

    fn rotate(&mut self, now: Time) {
        for _ in 0..BUCKETS {
            if now < self.end {
                return;
            }
            self.at = if self.at + 1 < BUCKETS { self.at + 1 } else { 0 };
            for (sum, old) in self.sums.iter_mut().zip(std::mem::replace(&mut self.buckets[self.at], [0; K])) {
                *sum -= old;
            }
            self.end = self.end.after_ns(self.width_ns);
        }
        // Nothing is left of what was counted, so the buckets may begin anywhere.
        if now >= self.end {
            self.end = now.after_ns(self.width_ns);
        }
    }

    /// The sums as of the last time that something was added.
    pub(super) fn sums(&self) -> [u64; K] {
        self.sums
    }
}

/// Least segments a second of a stream.
const STREAM_PPS: u32 = 20_000;
/// How many times as many bytes one side sends in a stream.
const ONE_SIDED: u64 = 4;

/// The rate of a queue pair against the two thresholds.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    /// Segments, and bytes each way.
    sums: Sliding<3>,
    /// Segments in a window that make a stream.
    stream: u64,
    /// Segments in a window at `enter_pps`.
    enter: u64,
    /// Segments in a window at `leave_pps`.
    leave: u64,
    /// Most segments that are counted at twice `enter_pps`.
    far_above: u64,
    is_high: bool,
    is_far_above: bool,
}

impl Rate {
    pub(super) fn new(policy: &Policy, now: Time) -> Self {
        let in_window = |pps: u32| u64::from(pps) * u64::from(policy.rate_window_ms) / 1000;
        let sums = Sliding::new(u64::from(policy.rate_window_ms) * 1_000_000, now);
        let enter = in_window(policy.enter_pps).max(1);
        let far_above = 2 * enter + 2 * enter / FULL_BUCKETS;
        let leave = in_window(policy.leave_pps).min(enter);
        let stream = in_window(STREAM_PPS);
        Self { sums, stream, enter, leave, far_above, is_high: false, is_far_above: false }
    }

    /// Counts what a round moved in both directions. Says whether this took the rate over the threshold.
    #[inline]
    pub(super) fn add(&mut self, now: Time, segments: u64, bytes: [u64; 2]) -> bool {
        let segments = self.sums.add(now, [segments, bytes[0], bytes[1]])[0];
        let was_high = self.is_high;
        self.is_high = segments >= if was_high { self.leave } else { self.enter };
        self.is_far_above = segments >= self.far_above;
        self.is_high && !was_high
    }

    /// At or above `enter_pps`, and since then not below `leave_pps`.
    pub(super) fn is_high(&self) -> bool {
        self.is_high
    }

    /// Above twice `enter_pps`: what comes and goes here is traffic, not noise about a threshold.
    pub(super) fn is_far_above(&self) -> bool {
        self.is_far_above
    }

    /// Segments and bits a second, as of the last round.
    pub(super) fn per_second(&self) -> (u64, u64) {
        // Half of the bucket that is being filled is past the window, on average.
        let window_us = (self.sums.width_ns * (2 * FULL_BUCKETS + 1) / 2000).max(1);
        let [segments, there, back] = self.sums.sums().map(|sum| sum.saturating_mul(1_000_000) / window_us);
        (segments, there.saturating_add(back).saturating_mul(8))
    }

    /// Packets come one after the other and one side sends nearly all of their bytes: nobody waits for an answer to each.
    pub(super) fn is_stream(&self) -> bool {
        let [segments, there, back] = self.sums.sums();
        segments >= self.stream && there.max(back) / ONE_SIDED >= there.min(back)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_policy;
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_sliding_sum_holds_the_window_and_at_most_a_bucket_more() {
        let mut sums = Sliding::new(64 * MS, Time::default());
        let mut events = Vec::new();
        let mut now = 0;
        for step in (0..2000u64).map(|n| n * 7919 % 97 * 10_000) {
            now += step;
            events.push(now);
            let [sum] = *sums.add(Time::from_nanos(now), [1]);
            let within = |ns| events.iter().filter(|at| **at + ns > now).count() as u64;
            assert!((within(64 * MS)..=within(65 * MS)).contains(&sum), "{sum} at {now}");
        }
        assert_eq!(*sums.add(Time::from_nanos(now + 65 * MS), [0]), [0], "all of it is old");
    }

    #[test]
    fn what_was_counted_long_ago_does_not_come_back() {
        let mut sums = Sliding::new(64 * MS, Time::default());
        sums.add(Time::default(), [5, 7]);
        assert_eq!(*sums.add(Time::from_nanos(1000 * MS), [1, 1]), [1, 1]);
        assert_eq!(*sums.add(Time::from_nanos(1030 * MS), [1, 1]), [2, 2]);
        assert_eq!(*sums.add(Time::from_nanos(1065 * MS), [0, 0]), [1, 1]);
    }

    #[test]
    fn between_the_thresholds_the_rate_is_what_it_was() {
        let policy = Policy { enter_pps: 1000, leave_pps: 500, rate_window_ms: 100, ..test_policy() };
        let mut rate = Rate::new(&policy, Time::default());
        let mut now = 0;
        let mut steady = |rate: &mut Rate, pps: u64| {
            for _ in 0..pps / 5 {
                now += 1_000_000_000 / pps;
                rate.add(Time::from_nanos(now), 1, [60, 40]);
            }
            (rate.is_high(), rate.per_second())
        };
        assert!(!steady(&mut rate, 900).0);
        assert!(steady(&mut rate, 1010).0);
        assert!(steady(&mut rate, 600).0);
        assert!(!steady(&mut rate, 400).0);
        let (high, (pps, bits)) = steady(&mut rate, 900);
        assert!(!high);
        assert!((880..=910).contains(&pps) && bits == pps * 800 || bits.abs_diff(pps * 800) < 800, "{pps} {bits}");
    }
}
