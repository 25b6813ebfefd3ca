//! How often the governor may begin to poll of its own accord, and so how often it switches.
//!
//! A pair that may not begin to poll loses nothing of what it has: it drains, which differs from polling only in what
//! follows when nothing is left.

use super::Time;

/// Near the threshold: two at once, then one in this time. That makes at most 8 a second, and with the ends of polling
/// 17 switches.
const EVERY_NS: u64 = 150_000_000;

/// Far above the threshold, where it is traffic that comes and goes and not noise: ten at once, then one in this time.
/// At most 410 a second, with the others and the ends of all of them 837 switches.
const EVERY_FAR_ABOVE_NS: u64 = 2_500_000;

/// A leaky bucket.
#[derive(Debug, Default)]
struct Bucket {
    /// When it is empty.
    empty_at: Time,
}

impl Bucket {
    /// Puts one in if it holds less than `burst` of those that leave one every `every_ns`.
    fn take(&mut self, now: Time, burst: u64, every_ns: u64) -> bool {
        let has_room = self.empty_at <= now.after_ns((burst - 1) * every_ns);
        if has_room {
            self.empty_at = self.empty_at.max(now).after_ns(every_ns);
        }
        has_room
    }
}

/// Counts how often polling begins.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    near: Bucket,
    far_above: Bucket,
}

impl Limiter {
    /// Whether polling may begin now; counts it if it may.
    pub(super) fn take(&mut self, now: Time, is_far_above: bool) -> bool {
        if is_far_above { self.far_above.take(now, 10, EVERY_FAR_ABOVE_NS) } else { self.near.take(now, 2, EVERY_NS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// Most beginnings in any second, when one is wanted every `step_ns` for three seconds.
    fn most(step_ns: u64, far_above: impl Fn(u64) -> bool) -> usize {
        let mut limiter = Limiter::default();
        let mut taken = vec![];
        for now in (0..3 * SECOND_NS).step_by(step_ns as usize) {
            if limiter.take(Time::from_nanos(now), far_above(now)) {
                taken.push(now);
            }
        }
        let within = |from: &u64| taken.iter().filter(|at| (*from..*from + SECOND_NS).contains(at)).count();
        taken.iter().map(within).max().unwrap_or(0)
    }

    #[test]
    fn no_second_has_more_beginnings_than_it_may() {
        assert_eq!(most(10_000, |_| false), 8);
        assert!((400..=410).contains(&most(10_000, |_| true)));
        assert!((400..=418).contains(&most(10_000, |now| now % 30_000 == 0)));
    }

    #[test]
    fn two_at_once_after_a_pause() {
        let mut limiter = Limiter::default();
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        assert!(limiter.take(at(1000), false) && limiter.take(at(1001), false) && !limiter.take(at(1002), false));
        assert!(limiter.take(at(1150), false) && !limiter.take(at(1151), false));
    }
}
