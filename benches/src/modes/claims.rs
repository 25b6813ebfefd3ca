//! What `auto` must show, and whether it does.

#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::full::Full;
use super::load::Load;
use super::points::{Point, Points, Sample};
use super::quiet::Quiet;
use super::subject::Subject::{self, Auto, Interrupt, Polling};

/// A trickle, of which a poller wastes most of its time.
const TRICKLE: Load = Load::Pps(1000.0);

/// Where a value must lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// There or below.
    AtMost(f64),
    /// There or above.
    AtLeast(f64),
    /// Not there, but below.
    Below(f64),
}

impl Bound {
    fn admits(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Below(bound) => value < bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::Below(bound) => write!(f, "< {bound}"),
        }
    }
}

/// Something that must be so: one of its values at least lies where it must.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Of what.
    pub what: String,
    /// Values, none if they were not measured, and where they must lie.
    pub any_of: Vec<(Option<f64>, Bound)>,
}

impl Claim {
    /// A claim about one value.
    #[must_use]
    pub fn new(what: impl Into<String>, value: Option<f64>, bound: Bound) -> Self {
        Self { what: what.into(), any_of: vec![(value, bound)] }
    }

    /// Whether it is so; none as long as a value that was not measured might decide.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        let each = || self.any_of.iter().map(|(value, bound)| value.map(|value| bound.admits(value)));
        if each().any(|holds| holds == Some(true)) {
            Some(true)
        } else if each().any(|holds| holds.is_none()) {
            None
        } else {
            Some(false)
        }
    }

    /// What it is about, what was found, what it must be, whether it is.
    #[must_use]
    pub fn row(&self) -> [String; 4] {
        let values = self.any_of.iter().map(|(value, _)| value.map_or("-".into(), |value| format!("{value:.3}")));
        let bounds = self.any_of.iter().map(|(_, bound)| bound.to_string());
        let join = |parts: Vec<String>| parts.join(" or ");
        let holds = match self.holds() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not measured",
        };
        [self.what.clone(), join(values.collect()), join(bounds.collect()), holds.into()]
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let values = self.any_of.iter().map(|(value, bound)| json!({ "value": value, "bound": bound }));
        json!({ "what": self.what, "any_of": values.collect::<Vec<_>>(), "holds": self.holds() })
    }
}

/// All that `auto` must show.
#[must_use]
pub fn all(points: &Points, quiet: &Quiet, full: &Full) -> Vec<Claim> {
    [ends(points), between(points), of_quiet(quiet), of_full(full)].concat()
}

/// At high load as good as polling, at low load as cheap as interrupts.
fn ends(points: &Points) -> Vec<Claim> {
    let mut claims = Vec::new();
    for point in points.iter() {
        let ratio = |other: Subject, value: fn(&Sample) -> f64| points.ratio(point, [Auto, other], value);
        if point.load == Load::Full {
            let value = ratio(Polling, |s| s.pps);
            claims.push(Claim::new(format!("{point}: rate, auto / polling"), value, Bound::AtLeast(0.98)));
        }
        if point.load.is_high() {
            let value = ratio(Polling, Sample::tail_us);
            claims.push(Claim::new(format!("{point}: p99, auto / polling"), value, Bound::AtMost(1.1)));
        }
        if point.load == TRICKLE {
            let value = ratio(Interrupt, |s| s.cpu);
            claims.push(Claim::new(format!("{point}: CPU, auto / interrupt"), value, Bound::AtMost(1.1)));
        }
    }
    claims
}

/// Everywhere as cheap as interrupts or as quick as polling, and better than both in all.
fn between(points: &Points) -> Vec<Claim> {
    let at = |point: Point| Claim {
        what: format!("{point}: CPU, auto / interrupt, or p99, auto / polling"),
        any_of: vec![
            (points.ratio(point, [Auto, Interrupt], |s| s.cpu), Bound::AtMost(1.1)),
            (points.ratio(point, [Auto, Polling], Sample::tail_us), Bound::AtMost(1.25)),
        ],
    };
    let in_all = |pattern| {
        let cost = |subject| points.cost(pattern, subject);
        let best = cost(Interrupt).zip(cost(Polling)).map(|(a, b)| a.min(b));
        let value = cost(Auto).zip(best).map(|(auto, best)| auto / best);
        Claim::new(format!("{pattern}: CPU x p99 over all loads, auto / best fixed mode"), value, Bound::Below(1.0))
    };
    points.iter().map(at).chain(points.patterns().into_iter().map(in_all)).collect()
}

/// Nothing happens when nothing happens, and the first packet does not wait.
fn of_quiet(quiet: &Quiet) -> Vec<Claim> {
    let none = |what: &str, value: Option<u64>| {
        Claim::new(format!("idle: {what}"), value.map(|value| value as f64), Bound::AtMost(0.0))
    };
    let idle = quiet.idle_of(Auto);
    let first = quiet.first_packet_ratio([Auto, Interrupt]);
    vec![
        none("wake-ups of the worker", idle.map(|idle| idle.wakeups)),
        none("rounds of the worker", idle.map(|idle| idle.rounds)),
        none("sleeps of all threads", idle.map(|idle| idle.switches)),
        Claim::new("first packet after idle: p50, auto / interrupt", first, Bound::AtMost(1.1)),
    ]
}

/// Nobody is told what he knows.
fn of_full(full: &Full) -> Vec<Claim> {
    let thousand = |value: Option<f64>| value.map(|value| 1000.0 * value);
    vec![
        Claim::new("full load, napi: kicks of 1000 packets", thousand(full.kicks()), Bound::Below(5.0)),
        Claim::new("full load, napi: calls of 1000 packets", thousand(full.calls()), Bound::Below(5.0)),
        Claim::new("full load, never suppressed: calls a burst", full.calls_a_burst(), Bound::AtMost(1.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::Pattern;

    fn sample(pps: f64, p99_us: f64, cpu: f64) -> Sample {
        Sample { pps, p99_us, cpu, ..Sample::default() }
    }

    /// Interrupt, polling, auto at 1 k and at full load.
    fn points(auto: [Sample; 2]) -> Points {
        let mut points = Points::default();
        let fixed =
            [[sample(1e3, 50.0, 0.01), sample(1e3, 10.0, 1.0)], [sample(1e6, 300.0, 1.0), sample(2e6, 100.0, 1.0)]];
        for (at, load) in [TRICKLE, Load::Full].into_iter().enumerate() {
            let point = Point { pattern: Pattern::Poisson, load };
            points.add(point, Interrupt, fixed[at][0]);
            points.add(point, Polling, fixed[at][1]);
            points.add(point, Auto, auto[at]);
        }
        points
    }

    fn failed(points: &Points) -> Vec<String> {
        let claims = [ends(points), between(points)].concat();
        assert_eq!(claims.len(), 6);
        claims.into_iter().filter(|claim| claim.holds() != Some(true)).map(|claim| claim.what).collect()
    }

    #[test]
    fn what_has_the_best_of_both_holds() {
        let good = points([sample(1e3, 50.0, 0.0105), sample(1.97e6, 105.0, 1.0)]);
        assert_eq!(failed(&good), [""; 0]);
    }

    #[test]
    fn each_fault_is_found() {
        let slow = points([sample(1e3, 50.0, 0.01), sample(1.9e6, 120.0, 1.0)]);
        assert_eq!(failed(&slow), ["poisson full: rate, auto / polling", "poisson full: p99, auto / polling"]);
        let dear = points([sample(1e3, 50.0, 0.5), sample(2e6, 100.0, 1.0)]);
        let what = [
            "poisson 1k: CPU, auto / interrupt",
            "poisson 1k: CPU, auto / interrupt, or p99, auto / polling",
            "poisson: CPU x p99 over all loads, auto / best fixed mode",
        ];
        assert_eq!(failed(&dear), what);
    }

    #[test]
    fn one_of_two_is_enough_and_what_was_not_measured_is_open() {
        let claim = |values: [Option<f64>; 2]| Claim {
            what: "x".into(),
            any_of: vec![(values[0], Bound::AtMost(1.0)), (values[1], Bound::Below(1.0))],
        };
        let holds = |values| claim(values).holds();
        assert_eq!(holds([Some(1.0), Some(1.0)]), Some(true));
        assert_eq!(holds([Some(1.1), Some(0.9)]), Some(true));
        assert_eq!(holds([Some(1.1), Some(1.0)]), Some(false));
        assert_eq!(holds([Some(0.5), None]), Some(true));
        assert_eq!(holds([None, Some(2.0)]), None);
        assert_eq!(Claim::new("x", Some(0.98), Bound::AtLeast(0.98)).holds(), Some(true));
        assert_eq!(claim([None, Some(2.0)]).row(), ["x", "- or 2.000", "<= 1 or < 1", "not measured"]);
        assert!(all(&Points::default(), &Quiet::default(), &Full::default()).iter().all(|c| c.holds().is_none()));
    }
}
