//! What holds for any traffic: how often the mode changes, how soon a frame is seen, how long nothing is looked for.

use super::traffic::Random;
use super::{Costs, MS, Outcome, SECOND, Sim, Traffic, US};
use crate::mode::test_policy;
use crate::mode::{Mode, Policy, Reason};

/// Most switches a second near the threshold, and with any traffic.
const NEAR_THRESHOLD: usize = 20;
const ANYWHERE: usize = 1000;

/// Runs `auto` over traffic and checks what must hold whatever comes.
pub(super) fn check(name: &str, policy: Policy, costs: Costs, traffic: Traffic, ns: u64) -> Outcome {
    let outcome = Sim::run(policy, costs, traffic, ns);
    let switches = outcome.switches_a_second();
    assert!(switches <= ANYWHERE, "{name}: {switches} switches a second");
    let [asleep, awake] = outcome.seen_late;
    assert!(asleep <= costs.wake, "{name}: seen {asleep} ns after it came, by a worker that slept");
    let round = costs.full_round();
    assert!(awake <= round + costs.arm, "{name}: seen {awake} ns after it came, by a worker that did not sleep");
    let longest = u64::from(policy.max_idle_spin_us) * US + round;
    assert!(outcome.longest_spin <= longest, "{name}: {} ns over empty rounds", outcome.longest_spin);
    let (burnt, most) = (outcome.burnt(100 * MS), f64::from(policy.max_poll_cpu_percent) / 100.0);
    assert!(burnt <= most + 0.001, "{name}: {burnt:.3} of a tenth of a second burnt, {most} allowed");
    outcome
}

fn auto(name: &str, traffic: Traffic, ns: u64) -> Outcome {
    check(name, test_policy(), Costs::FAST, traffic, ns)
}

#[test]
fn an_idle_pair_does_not_wake_up() {
    let mut sim = Sim::new(test_policy(), Costs::FAST, Traffic::none());
    sim.go_on(10 * SECOND);
    assert_eq!((sim.outcome.sleeps, sim.outcome.switches.len()), (0, 0));
    sim.set_traffic(Traffic::poisson(2_000_000));
    sim.go_on(100 * MS);
    assert_eq!(sim.governor.mode(), Mode::Polling);
    sim.set_traffic(Traffic::none());
    sim.go_on(MS);
    assert_eq!(sim.governor.mode(), Mode::Interrupt);
    sim.forget();
    sim.go_on(10 * SECOND);
    assert_eq!((sim.outcome.sleeps, sim.outcome.switches.len()), (0, 0));
}

#[test]
fn one_frame_at_a_time() {
    for (think_ns, is_fast) in [(10 * US, true), (100 * US, false), (MS, false), (10 * MS, false)] {
        let outcome = auto("ping-pong", Traffic::ping_pong(think_ns), SECOND);
        assert!(outcome.switches.len() <= 4, "{:?}", outcome.switches);
        let polls = outcome.switches.last().is_some_and(|switch| switch.to == Mode::Polling);
        assert_eq!(polls, is_fast, "{think_ns}");
    }
}

#[test]
fn on_and_off() {
    for (pps, ns) in [(1_000_000, SECOND), (1_000_000, 100 * MS), (300_000, 10 * MS), (2_000_000, MS)] {
        for share in [2, 5] {
            let traffic = Traffic::switched(pps, ns / share, ns - ns / share);
            let outcome = auto("on and off", traffic, 2 * SECOND);
            assert!(outcome.switches.iter().any(|switch| switch.to == Mode::Polling), "{pps} {ns}");
        }
    }
    for (size, every) in [(65, MS), (200, MS), (200, 2 * MS), (500, 2_600 * US), (1000, 10 * MS), (5000, 100 * MS)] {
        auto("batches", Traffic::batches(size, every), 2 * SECOND);
    }
}

#[test]
fn ramps_and_line_rate() {
    let outcome = auto("ramp", Traffic::ramp(2_000_000, SECOND), 2 * SECOND);
    assert!(outcome.switches.len() <= 10, "{:?}", outcome.switches);
    let outcome = auto("line rate", Traffic::even(Costs::FAST.max_pps() * 2), SECOND / 10);
    assert_eq!(outcome.switches.len(), 1);
    let [rx, tx] = outcome.delivered.map(|n| n as f64);
    assert!((0.45..0.55).contains(&(rx / (rx + tx))), "{rx} {tx}");
    let outcome = auto("large frames", Traffic::even(400_000).of_large_frames(), SECOND / 2);
    assert_eq!((outcome.switches.len(), outcome.switches[0].to), (1, Mode::Polling));
    let outcome = auto("few large frames", Traffic::even(500).of_large_frames(), SECOND / 2);
    assert_eq!(outcome.switches, [], "22 500 segments a second");
}

#[test]
fn a_trickle_the_other_way_is_served_beside_a_flood() {
    let mut random = Random(7);
    let mixed = Traffic::new(move |last| Some(last + random.below(100)));
    let mixed = mixed.one_way(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    let outcome = auto("flood and trickle", mixed, SECOND / 10);
    let [trickle, flood] = outcome.delivered;
    assert!(flood > 700_000 && trickle > 190_000, "{flood} {trickle}");
}

#[test]
fn near_the_threshold_the_mode_changes_seldom() {
    let near: Vec<(&str, Traffic)> = vec![
        ("just below", Traffic::even(49_500)),
        ("just above", Traffic::even(50_500)),
        ("at random", Traffic::poisson(50_000)),
        ("at random where polling ends", Traffic::poisson(25_000)),
        ("above and below by turns", Traffic::in_turn(vec![(10 * MS, 55_000), (10 * MS, 45_000)])),
        ("far below", Traffic::in_turn(vec![(60 * MS, 51_000), (60 * MS, 24_000)])),
        ("slower", Traffic::in_turn(vec![(100 * MS, 52_000), (100 * MS, 20_000)])),
        ("all and nothing", Traffic::in_turn(vec![(50 * MS, 100_000), (55 * MS, 0)])),
        ("gaps as long as a spin", Traffic::batches(27, 530 * US)),
        ("gaps somewhat longer", Traffic::batches(50, MS)),
        ("one batch a window", Traffic::batches(2_700, 54 * MS)),
        ("bursts of 5 ms", Traffic::switched(250_000, 5 * MS, 20 * MS)),
        ("bursts of 1 ms", Traffic::switched(500_000, MS, 9 * MS)),
        ("bursts of half a spin", Traffic::switched(200_000, 250 * US, 750 * US)),
        ("backlog", Traffic::batches(129, 2_600 * US).one_way(&[1])),
    ];
    for (name, traffic) in near {
        let outcome = auto(name, traffic, 2 * SECOND);
        let switches = outcome.switches_a_second();
        assert!(switches <= NEAR_THRESHOLD, "{name}: {switches} switches a second");
    }
}

/// Sends at `pps` whenever the mode is interrupt and nothing when it is polling, `rest_ns` longer than it need.
fn adversary(pps: u64, rest_ns: u64) -> usize {
    let mut sim = Sim::new(test_policy(), Costs::FAST, Traffic::none());
    let mut sends = false;
    while sim.now < 3 * SECOND {
        let wants = sim.governor.mode() == Mode::Interrupt;
        if wants && !sends {
            sim.set_traffic(Traffic::even(pps));
        } else if sends && !wants {
            sim.set_traffic(Traffic::none());
            sim.go_on(rest_ns);
        }
        sends = wants;
        sim.go_on(5 * US);
    }
    sim.outcome.switches_a_second()
}

#[test]
fn who_watches_the_mode_cannot_make_it_change_often() {
    for rest_ns in [1, 100 * US, 10 * MS] {
        let near = adversary(95_000, rest_ns);
        assert!((4..=NEAR_THRESHOLD).contains(&near), "{near} switches a second");
    }
    for pps in [200_000, 1_000_000, 8_000_000] {
        let far = adversary(pps, 1);
        assert!((NEAR_THRESHOLD..=ANYWHERE).contains(&far), "{far} switches a second at {pps}");
    }
}

#[test]
fn a_ceiling_over_the_cpu_is_kept() {
    for percent in [1, 10, 30, 90] {
        let policy = Policy { max_poll_cpu_percent: percent, ..test_policy() };
        for (name, traffic) in [
            ("even", Traffic::even(60_000)),
            ("ping-pong", Traffic::ping_pong(10 * US)),
            ("bursts", Traffic::switched(1_000_000, 10 * MS, 10 * MS)),
        ] {
            let outcome = check(name, policy, Costs::FAST, traffic, 2 * SECOND);
            assert!(outcome.count(Reason::CpuLimit) > 0 || name == "bursts", "{name} {percent}");
        }
    }
}

#[test]
fn who_is_preempted_leaves_the_cpu_to_others_and_comes_back() {
    let mut sim = Sim::new(test_policy(), Costs::FAST, Traffic::even(60_000));
    sim.go_on(SECOND);
    assert_eq!(sim.governor.mode(), Mode::Polling);
    sim.is_contested = true;
    sim.go_on(SECOND);
    sim.forget();
    sim.go_on(8 * SECOND);
    assert!((2..=6).contains(&sim.outcome.count(Reason::Preempted)), "{:?}", sim.outcome.switches);
    assert!(sim.outcome.cpu_share() < 0.35, "{}", sim.outcome.cpu_share());
    sim.is_contested = false;
    sim.go_on(4 * SECOND);
    assert_eq!(sim.governor.mode(), Mode::Polling);
}

#[test]
fn rests_between_looks_bound_the_wake_ups() {
    let policy = Policy { mode: crate::mode::Setting::Polling, poll_interval_us: 50, ..test_policy() };
    let outcome = Sim::run(policy, Costs::FAST, Traffic::poisson(100_000), SECOND);
    assert!((17_000..=20_000).contains(&outcome.sleeps) && outcome.kicks == 0, "{}", outcome.sleeps);
    let [asleep, _] = outcome.seen_late;
    assert!(asleep <= 50 * US + Costs::FAST.wake, "{asleep}");
}

#[test]
fn a_ring_that_cannot_kick_is_looked_at() {
    let mut sim = Sim::new(test_policy(), Costs::FAST, Traffic::even(100).one_way(&[1]));
    sim.no_kick_fd = true;
    sim.go_on(SECOND);
    assert!((900..=1100).contains(&sim.outcome.sleeps), "{}", sim.outcome.sleeps);
    assert!(sim.outcome.seen_late[0] <= MS + Costs::FAST.wake, "{:?}", sim.outcome.seen_late);
    assert_eq!(sim.governor.mode(), Mode::Polling);
}
