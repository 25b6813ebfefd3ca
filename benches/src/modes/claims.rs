//! What `auto` must show, and whether it does.

#![forbid(unsafe_code)]

use super::full::Full;
use super::load::Load;
use super::points::{Point, Points, Sample};
use super::quiet::Quiet;
use super::subject::Subject::{self, Auto, Interrupt, Polling};
use crate::claim::{Bound, Claim};

/// A trickle, of which a poller wastes most of its time.
const TRICKLE: Load = Load::Pps(1000.0);

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
    fn what_was_not_measured_is_open() {
        assert!(all(&Points::default(), &Quiet::default(), &Full::default()).iter().all(|c| c.holds().is_none()));
    }
}
