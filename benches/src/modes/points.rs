//! What was measured: every subject at every point, turn by turn, and what the turns together say.

#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;

use super::load::Load;
use super::subject::Subject;
use crate::loadgen::{Outcome, Pattern};
use crate::stats::{Summary, ratios};

/// Where subjects are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// How packets lie in time.
    pub pattern: Pattern,
    /// How many they are.
    pub load: Load,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pattern, self.load)
    }
}

/// One turn of one subject at a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Packets a second that came back, silence included.
    pub pps: f64,
    /// The round trip from the time at which a packet was due.
    pub p50_us: f64,
    /// Its 99th percentile.
    pub p99_us: f64,
    /// The same of the slice in the middle, of slices of the turn by it, where there are packets enough.
    pub slice_p99_us: Option<f64>,
    /// Its 99.9th, where there are packets enough.
    pub p99_9_us: Option<f64>,
    /// The client's own lateness, which is part of the round trip: the 99th percentile.
    pub lateness_p99_us: f64,
    /// The back end's share of a CPU.
    pub cpu: f64,
    /// Kicks a packet.
    pub kicks: f64,
    /// Calls a packet.
    pub calls: f64,
    /// Packets that did not come back.
    pub lost: f64,
    /// Times the client had no CPU for a while; what was due then is not clocked.
    pub stalls: f64,
}

impl Sample {
    /// What a run found. None if nothing came back.
    #[must_use]
    pub fn of(outcome: &Outcome, has_tail: bool) -> Option<Self> {
        let (latency, counts) = (outcome.returned?, outcome.counts);
        let packets = counts.sent.max(1) as f64;
        Some(Self {
            pps: outcome.pps,
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            slice_p99_us: outcome.slice_p99_us,
            p99_9_us: has_tail.then_some(latency.p99_9_us),
            lateness_p99_us: outcome.lateness.map_or(0.0, |lateness| lateness.p99_us),
            cpu: outcome.device_share(),
            kicks: counts.kicks as f64 / packets,
            calls: counts.calls as f64 / packets,
            lost: outcome.lost as f64,
            stalls: counts.stalls as f64,
        })
    }

    /// The 99th percentile that is compared: of a slice where there is one, so that what the host of a virtual machine takes
    /// away in some of them does not decide.
    #[must_use]
    pub fn tail_us(&self) -> f64 {
        self.slice_p99_us.unwrap_or(self.p99_us)
    }
}

/// The turns of all subjects at a point.
type Turns = [Vec<Sample>; Subject::ALL.len()];

/// Everything that was measured, point by point in the order in which they were first noted.
#[derive(Clone, Debug, Default)]
pub struct Points(Vec<(Point, Turns)>);

impl Points {
    /// Adds a turn.
    pub fn add(&mut self, point: Point, subject: Subject, sample: Sample) {
        let at = self.0.iter().position(|(known, _)| *known == point).unwrap_or_else(|| {
            self.0.push((point, Turns::default()));
            self.0.len() - 1
        });
        self.0[at].1[subject as usize].push(sample);
    }

    /// The points.
    pub fn iter(&self) -> impl Iterator<Item = Point> {
        self.0.iter().map(|(point, _)| *point)
    }

    /// The patterns, each once.
    #[must_use]
    pub fn patterns(&self) -> Vec<Pattern> {
        let mut patterns: Vec<Pattern> = Vec::new();
        for Point { pattern, .. } in self.iter() {
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        patterns
    }

    /// The turns of a subject at a point.
    #[must_use]
    pub fn turns(&self, point: Point, subject: Subject) -> &[Sample] {
        self.0.iter().find(|(known, _)| *known == point).map_or(&[], |(_, turns)| &turns[subject as usize])
    }

    /// The turn in the middle, quantity by quantity.
    #[must_use]
    pub fn median(&self, point: Point, subject: Subject, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.turns(point, subject).iter().map(value).collect();
        Some(Summary::of(&values)?.median)
    }

    /// A quantity of one subject for that of another: the ratio in the middle of those of each turn, in which both were
    /// neighbours.
    #[must_use]
    pub fn ratio(&self, point: Point, subjects: [Subject; 2], value: impl Fn(&Sample) -> f64) -> Option<f64> {
        let [ours, theirs] =
            subjects.map(|subject| self.turns(point, subject).iter().map(&value).collect::<Vec<f64>>());
        Some(Summary::of(&ratios(&ours, &theirs))?.median)
    }

    /// The geometric mean over all loads of a pattern of CPU time and 99th percentile multiplied: what a mode costs both
    /// who waits and who pays. None if any load lacks it.
    #[must_use]
    pub fn cost(&self, pattern: Pattern, subject: Subject) -> Option<f64> {
        let of = |point: &Point| point.pattern == pattern;
        let cost =
            |point| Some(self.median(point, subject, |s| s.cpu)? * self.median(point, subject, Sample::tail_us)?);
        geometric_mean(&self.iter().filter(of).map(cost).collect::<Option<Vec<f64>>>()?)
    }
}

/// None of an empty sample, or if a value is not above zero.
fn geometric_mean(values: &[f64]) -> Option<f64> {
    let all_above_zero = !values.is_empty() && values.iter().all(|value| *value > 0.0);
    all_above_zero.then(|| (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Subject::{Auto, Interrupt, Polling};

    fn point(load: Load) -> Point {
        Point { pattern: Pattern::Poisson, load }
    }

    #[test]
    fn the_geometric_mean_is_of_what_is_above_zero() {
        let about = |values: &[f64]| geometric_mean(values).map(|mean| (mean * 1e9).round() / 1e9);
        assert_eq!(about(&[1.0, 100.0]), Some(10.0));
        assert_eq!(about(&[2.0, 4.0, 8.0]), Some(4.0));
        assert_eq!(about(&[7.0]), Some(7.0));
        assert_eq!([&[][..], &[1.0, 0.0], &[f64::NAN]].map(about), [None; 3]);
    }

    #[test]
    fn ratios_are_of_a_turn_and_medians_of_all() {
        let mut points = Points::default();
        let at = point(Load::Half);
        // The machine became three times slower on the way.
        for (auto, polling) in [(11.0, 10.0), (33.0, 30.0), (36.0, 30.0)] {
            points.add(at, Auto, Sample { p99_us: auto, ..Sample::default() });
            points.add(at, Polling, Sample { p99_us: polling, ..Sample::default() });
        }
        let p99 = |sample: &Sample| sample.p99_us;
        assert_eq!(points.median(at, Auto, p99), Some(33.0));
        assert_eq!(points.ratio(at, [Auto, Polling], p99), Some(1.1));
        assert_eq!(points.ratio(at, [Auto, Interrupt], p99), None);
        assert_eq!(points.median(point(Load::Full), Auto, p99), None);
    }

    #[test]
    fn the_cost_is_over_all_loads_of_a_pattern() {
        let mut points = Points::default();
        let sample = |cpu, p99_us| Sample { cpu, p99_us, ..Sample::default() };
        points.add(point(Load::Half), Auto, sample(0.5, 8.0));
        points.add(point(Load::Full), Auto, sample(1.0, 9.0));
        let burst = Pattern::Burst { on_ms: 1, off_ms: 1 };
        points.add(Point { pattern: burst, load: Load::Full }, Auto, sample(1.0, 100.0));
        assert_eq!(points.cost(Pattern::Poisson, Auto).map(f64::round), Some(6.0));
        assert_eq!(points.cost(burst, Auto).map(f64::round), Some(100.0));
        points.add(point(Load::Half), Polling, sample(1.0, 1.0));
        assert_eq!(points.cost(Pattern::Poisson, Polling), None, "one load was not measured");
        assert_eq!(points.patterns(), [Pattern::Poisson, burst]);
    }
}
