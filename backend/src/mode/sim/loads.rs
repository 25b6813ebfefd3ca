//! What `auto` costs and brings beside the two fixed modes, at loads from little to all that a worker can move.

use super::{Costs, MS, Outcome, SECOND, Sim, Traffic};
use crate::mode::test_policy;
use crate::mode::{Policy, Setting};

/// CPU time and latency of one mode at one load.
#[derive(Clone, Copy, Debug)]
struct Point {
    pps: f64,
    cpu: f64,
    p99_us: f64,
    kicks_a_thousand: f64,
}

fn point(setting: Setting, costs: Costs, traffic: Traffic) -> Point {
    let mut sim = Sim::new(Policy { mode: setting, ..test_policy() }, costs, traffic);
    sim.go_on(100 * MS);
    sim.forget();
    sim.go_on(250 * MS);
    let outcome: &Outcome = &sim.outcome;
    let packets = outcome.delivered[0] + outcome.delivered[1];
    Point {
        pps: packets as f64 * SECOND as f64 / outcome.elapsed as f64,
        cpu: outcome.cpu_share(),
        p99_us: outcome.p99() as f64 / 1000.0,
        kicks_a_thousand: outcome.kicks as f64 * 1000.0 / packets as f64,
    }
}

/// Runs the three modes at six loads and holds `auto` against the fixed ones.
fn compare(name: &str, costs: Costs, traffic: impl Fn(u64) -> Traffic) {
    let max = costs.max_pps();
    let loads = [1_000, 10_000, 100_000, max / 4, max / 2, max];
    let mut products = [0.0; 3];
    for (n, pps) in loads.into_iter().enumerate() {
        let points = [Setting::Interrupt, Setting::Polling, Setting::Auto].map(|s| point(s, costs, traffic(pps)));
        for (product, Point { cpu, p99_us, .. }) in products.iter_mut().zip(&points) {
            *product += (cpu * p99_us).ln() / loads.len() as f64;
        }
        let [interrupt, polling, auto] = points;
        println!("{name} {pps:8}: {interrupt:.2?}\n{:>19} {polling:.2?}\n{:>19} {auto:.2?}", "", "");
        assert!(auto.pps >= 0.99 * polling.pps, "rate at {pps}");
        let (cpu, p99) = (auto.cpu / interrupt.cpu, auto.p99_us / polling.p99_us);
        match n {
            0 => assert!(cpu <= 1.02, "CPU at {pps} is {cpu:.2} of interrupt mode's"),
            1..4 => assert!(cpu <= 1.05 || p99 <= 1.15, "at {pps} {cpu:.2} of the CPU, {p99:.2} of the latency"),
            _ => assert!(p99 <= 1.05, "latency at {pps} is {p99:.2} of polling mode's"),
        }
        assert!(auto.kicks_a_thousand < 2.5 || pps < max, "{auto:?}");
    }
    let [interrupt, polling, auto] = products.map(f64::exp);
    println!("{name} CPU x latency: interrupt {interrupt:.3}, polling {polling:.3}, auto {auto:.3}");
    assert!(auto < 0.95 * interrupt && auto < 0.95 * polling, "{auto:.3} of {interrupt:.3} and {polling:.3}");
}

#[test]
fn packets_at_random_over_a_fast_uplink() {
    compare("fast poisson", Costs::FAST, Traffic::poisson);
}

#[test]
fn packets_at_random_over_a_tap() {
    compare("tap poisson", Costs::TAP, Traffic::poisson);
}

#[test]
fn bursts_over_a_fast_uplink() {
    compare("fast 5:20", Costs::FAST, |pps| Traffic::switched(pps, 5 * MS, 20 * MS));
    compare("fast 2:8", Costs::FAST, |pps| Traffic::switched(pps, 2 * MS, 8 * MS));
}

#[test]
fn bursts_over_a_tap() {
    compare("tap 5:20", Costs::TAP, |pps| Traffic::switched(pps, 5 * MS, 20 * MS));
    compare("tap 2:8", Costs::TAP, |pps| Traffic::switched(pps, 2 * MS, 8 * MS));
}

/// The mode may change with every burst here, and oftener than it is allowed to.
#[test]
fn bursts_that_come_too_often_cost_no_more_than_interrupt_mode() {
    for costs in [Costs::FAST, Costs::TAP] {
        for pps in [costs.max_pps() / 4, costs.max_pps() / 2] {
            let [interrupt, auto] = [Setting::Interrupt, Setting::Auto]
                .map(|setting| point(setting, costs, Traffic::switched(pps, MS, MS)));
            assert!(auto.cpu <= 1.05 * interrupt.cpu, "{auto:?} {interrupt:?}");
        }
    }
}
