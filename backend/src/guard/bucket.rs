//! A token bucket that several threads draw from, as the generic cell rate algorithm (ITU-T I.371, annex A): instead of
//! tokens it keeps the time at which all that was drawn is paid for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mode::Time;

/// Parts of a nanosecond that are told apart.
const PARTS: u64 = 64;

/// A rate, and how far ahead of it one may be.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Tokens a second.
    rate: u64,
    /// The time that a full bucket stands for, in parts of a nanosecond.
    depth: u64,
    /// When what was drawn is paid for, in parts of a nanosecond since the clock began.
    paid_at: AtomicU64,
}

impl Bucket {
    /// A full one of `rate` tokens a second (at least 1), with as many as come in `depth`, but for one at least.
    pub(super) fn new(rate: u64, depth: Duration) -> Self {
        let mut bucket = Self { rate: rate.max(1), depth: parts(depth.as_nanos() as u64), paid_at: AtomicU64::new(0) };
        bucket.depth = bucket.depth.max(bucket.price(1));
        bucket
    }

    /// How many tokens there are; when there will be one if there is none.
    pub(super) fn tokens(&self, now: Time) -> Result<u64, Time> {
        let now = parts(now.as_nanos());
        let paid_at = self.paid_at.load(Ordering::Relaxed).max(now);
        let ahead = (now + self.depth).saturating_sub(paid_at);
        let tokens = u128::from(ahead) * u128::from(self.rate) / u128::from(parts(1_000_000_000));
        if tokens > 0 {
            return Ok(tokens as u64);
        }
        let due = paid_at.saturating_add(self.price(1)).saturating_sub(self.depth);
        // Rounded up: at that time there is one.
        Err(Time::from_nanos(due / PARTS + 1))
    }

    /// Draws tokens, more than there are if need be: what is too much is waited for afterwards.
    pub(super) fn draw(&self, now: Time, tokens: u64) {
        let (now, price) = (parts(now.as_nanos()), self.price(tokens));
        let draw = |paid_at: u64| Some(paid_at.max(now).saturating_add(price));
        // It cannot fail: there is always a next value.
        let _ = self.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, draw);
    }

    fn price(&self, tokens: u64) -> u64 {
        (u128::from(tokens) * u128::from(parts(1_000_000_000))).div_ceil(u128::from(self.rate)) as u64
    }
}

fn parts(ns: u64) -> u64 {
    ns.saturating_mul(PARTS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(ns: u64) -> Time {
        Time::from_nanos(ns)
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let bucket = Bucket::new(1000, Duration::from_millis(10));
        let start = SECOND;
        assert_eq!(bucket.tokens(at(start)), Ok(10));
        bucket.draw(at(start), 10);
        let next = bucket.tokens(at(start)).unwrap_err();
        assert!((1_000_000..1_000_100).contains(&(next.as_nanos() - start)), "{next:?}");
        assert_eq!(bucket.tokens(next), Ok(1));
        // A debt is paid first.
        bucket.draw(next, 101);
        let later = bucket.tokens(next).unwrap_err();
        assert!((100_000_000..102_000_000).contains(&(later.as_nanos() - next.as_nanos())));
        assert_eq!(bucket.tokens(at(start + 10 * SECOND)), Ok(10), "no more than fits");
    }

    proptest! {
        /// Whoever draws as much as there is, whenever there is some, gets the rate and one bucket more at most.
        #[test]
        fn nobody_gets_more_than_the_rate(
            rate in prop_oneof![1u64..1000, 1u64..1_000_000, 1u64..200_000_000_000],
            depth_ms in 1u64..1000,
            greed in 1u64..1_000_000,
            begin in 0u64..1 << 55,
        ) {
            let bucket = Bucket::new(rate, Duration::from_millis(depth_ms));
            let (mut now, mut got) = (begin, 0u128);
            for _ in 0..200 {
                match bucket.tokens(at(now)) {
                    Ok(tokens) => {
                        let drawn = tokens.min(greed);
                        bucket.draw(at(now), drawn);
                        got += u128::from(drawn);
                    }
                    Err(until) => {
                        prop_assert!(until.as_nanos() > now, "a time in the future");
                        now = until.as_nanos();
                        prop_assert!(bucket.tokens(at(now)).is_ok(), "tokens at the time that was said");
                    }
                }
            }
            let ns = u128::from(now - begin) + u128::from(depth_ms) * 1_000_000;
            prop_assert!(got <= ns * u128::from(rate) / u128::from(SECOND) + 2, "{got} in {ns} ns");
        }
    }
}
