//! When packets are due: an open loop, which what comes back does not slow down.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// Packets a second that are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// So many.
    Pps(f64),
    /// A packet is due whenever there is room for one.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, factor) = match text.strip_suffix(['k', 'K']) {
            Some(number) => (number, 1e3),
            None => text.strip_suffix('M').map_or((text, 1.0), |number| (number, 1e6)),
        };
        match number.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(pps) if pps > 0.0 && pps * factor <= SECOND as f64 => Ok(Self::Pps(pps * factor)),
            _ => Err(format!("'{text}' is no rate: use packets a second such as 500, 10k or 1.5M, or max")),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pps(pps) if *pps >= 1e6 => write!(f, "{}M", pps / 1e6),
            Self::Pps(pps) if *pps >= 1e3 => write!(f, "{}k", pps / 1e3),
            Self::Pps(pps) => write!(f, "{pps}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// How packets lie in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// At even distances.
    Constant,
    /// Independent of each other.
    Poisson,
    /// At even distances for a time, then none for a time; the rate is that of the burst.
    Burst {
        /// Milliseconds of sending.
        on_ms: u32,
        /// Milliseconds of silence.
        off_ms: u32,
    },
    /// In trains of so many that are due at once; the trains are independent of each other (a batch Poisson process).
    Trains(u32),
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let burst = || {
            let (on, off) = text.strip_prefix("burst:")?.split_once(':')?;
            let (on_ms, off_ms) = (on.parse().ok()?, off.parse().ok()?);
            (on_ms > 0).then_some(Self::Burst { on_ms, off_ms })
        };
        let trains = || Some(Self::Trains(text.strip_prefix("trains:")?.parse().ok().filter(|n| *n > 0)?));
        match text {
            "constant" => Ok(Self::Constant),
            "poisson" => Ok(Self::Poisson),
            _ => burst().or_else(trains).ok_or_else(|| {
                format!("'{text}' is no pattern: use constant, poisson, trains:PACKETS or burst:ON_MS:OFF_MS")
            }),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst { on_ms, off_ms } => write!(f, "burst:{on_ms}:{off_ms}"),
            Self::Trains(packets) => write!(f, "trains:{packets}"),
        }
    }
}

/// Due times in nanoseconds from the start, one after another.
#[derive(Clone, Debug)]
pub struct Schedule {
    rate: Rate,
    pattern: Pattern,
    /// Packets so far.
    count: u64,
    /// When the next is due, for patterns that add up.
    next: f64,
    random: u64,
}

impl Schedule {
    /// A schedule; `seed` makes it another one of the same kind.
    #[must_use]
    pub fn new(rate: Rate, pattern: Pattern, seed: u64) -> Self {
        let random = (seed ^ 0x9e37_79b9_7f4a_7c15).max(1);
        let mut schedule = Self { rate, pattern, count: 0, next: 0.0, random };
        if schedule.is_random() {
            schedule.next = schedule.gap();
        }
        schedule
    }

    /// When the next packet is due; `now` with [`Rate::Max`], but for the silence between bursts.
    #[inline]
    #[must_use]
    pub fn due(&self, now: u64) -> u64 {
        match (self.rate, self.pattern) {
            (Rate::Max, Pattern::Burst { on_ms, off_ms }) => {
                let (on, period) = burst(on_ms, off_ms);
                if now % period < on { now } else { now.next_multiple_of(period) }
            }
            (Rate::Max, _) => now,
            (Rate::Pps(_), Pattern::Poisson | Pattern::Trains(_)) => self.next as u64,
            (Rate::Pps(pps), Pattern::Constant) => (self.count as f64 * SECOND as f64 / pps) as u64,
            (Rate::Pps(pps), Pattern::Burst { on_ms, off_ms }) => {
                let (on, period) = burst(on_ms, off_ms);
                let sending = (self.count as f64 * SECOND as f64 / pps) as u64;
                sending / on * period + sending % on
            }
        }
    }

    /// Goes on to the packet after.
    #[inline]
    pub fn advance(&mut self) {
        self.count += 1;
        let train = if let Pattern::Trains(packets) = self.pattern { packets } else { 1 };
        if self.is_random() && self.count.is_multiple_of(train.into()) {
            self.next += f64::from(train) * self.gap();
        }
    }

    fn is_random(&self) -> bool {
        matches!(self.pattern, Pattern::Poisson | Pattern::Trains(_))
    }

    /// Packets due before `end` that were not asked for yet; none with [`Rate::Max`].
    #[must_use]
    pub fn left_before(mut self, end: u64) -> u64 {
        let before = self.count;
        while self.rate != Rate::Max && self.due(end) < end {
            self.advance();
        }
        self.count - before
    }

    /// An exponential distance.
    fn gap(&mut self) -> f64 {
        let Rate::Pps(pps) = self.rate else { return 0.0 };
        // xorshift64* (Marsaglia; Vigna), of which 53 bits fill a number in (0, 1].
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let bits = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        -(((bits + 1) as f64) / (1u64 << 53) as f64).ln() * (SECOND as f64 / pps)
    }
}

fn burst(on_ms: u32, off_ms: u32) -> (u64, u64) {
    (u64::from(on_ms) * MILLISECOND, (u64::from(on_ms) + u64::from(off_ms)) * MILLISECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Due times below `end`, asked for by a driver that looks at `now` only.
    fn dues(rate: &str, pattern: &str, end: u64) -> Vec<u64> {
        let mut schedule = Schedule::new(rate.parse().unwrap(), pattern.parse().unwrap(), 7);
        let mut dues = Vec::new();
        while schedule.due(0) < end {
            dues.push(schedule.due(0));
            schedule.advance();
        }
        dues
    }

    #[test]
    fn constant_packets_keep_their_times_however_late_the_driver_is() {
        let mut schedule = Schedule::new(Rate::Pps(3e6), Pattern::Constant, 0);
        for n in 0..3_000_000u64 {
            // Asked at whatever time: an open loop does not care.
            assert_eq!(schedule.due(n * 999), n * 1000 / 3);
            schedule.advance();
        }
        assert_eq!(schedule.due(0), SECOND, "no error adds up");
        assert_eq!(schedule.left_before(2 * SECOND), 3_000_000);
    }

    #[test]
    fn poisson_has_the_rate_and_the_spread() {
        let dues = dues("100k", "poisson", 10 * SECOND);
        assert!((dues.len() as f64 - 1e6).abs() < 5e3, "{}", dues.len());
        let gaps: Vec<f64> = dues.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean / 1e4 - 1.0).abs() < 0.01 && (deviation / 1e4 - 1.0).abs() < 0.02, "{mean} {deviation}");
    }

    #[test]
    fn bursts_are_followed_by_silence() {
        let dues = dues("10k", "burst:2:8", 30 * MILLISECOND);
        assert_eq!(dues.len(), 60);
        assert!(dues.iter().all(|due| due % (10 * MILLISECOND) < 2 * MILLISECOND));
        let max = Schedule::new(Rate::Max, "burst:2:8".parse().unwrap(), 0);
        assert_eq!([1_999_999, 2_000_000, 10_000_001].map(|now| max.due(now)), [1_999_999, 10_000_000, 10_000_001]);
    }

    #[test]
    fn trains_have_the_rate_and_come_at_random() {
        let dues = dues("100k", "trains:16", 10 * SECOND);
        assert!((dues.len() as f64 - 1e6).abs() < 2e4, "{}", dues.len());
        assert!(dues.chunks_exact(16).all(|train| train.iter().all(|due| due == &train[0])));
        let gaps: Vec<f64> =
            dues.chunks_exact(16).zip(dues.chunks_exact(16).skip(1)).map(|(a, b)| (b[0] - a[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean / 16e4 - 1.0).abs() < 0.02 && (deviation / mean - 1.0).abs() < 0.04, "{mean} {deviation}");
    }

    #[test]
    fn max_is_always_due() {
        let mut schedule = Schedule::new(Rate::Max, Pattern::Constant, 0);
        schedule.advance();
        assert_eq!((schedule.due(5), schedule.left_before(100)), (5, 0));
    }

    #[test]
    fn rates_and_patterns_are_read_as_they_are_printed() {
        for text in ["500", "10k", "1.5M", "max"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["constant", "poisson", "burst:5:20", "trains:16"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in ["0", "-1", "k", "2000M", "burst"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for text in ["burst", "burst:0:1", "burst:1", "even", "trains:0", "trains"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
