//! What holds for any policy, any reports and any instructions.

use std::time::Duration;

use proptest::prelude::*;

use super::bounds::check;
use super::{Costs, SECOND, Traffic};
use crate::mode::test_policy;
use crate::mode::{
    Activity, Cause, Direction, Governor, Mode, Policy, Report, Setting, Time, Uplink, Usage, Verdict, Way,
};

/// What happens to a governor.
#[derive(Clone, Debug)]
enum Step {
    Round(Report),
    Set(Mode, Option<Duration>),
    Toggle,
    Auto,
}

fn way() -> impl Strategy<Value = Way> {
    let left = prop_oneof![1 => Just(Direction::Ready), 3 => Just(Direction::Empty), 1 => Just(Direction::Blocked)];
    (prop_oneof![Just(0u32), 1u32..64], 1u32..46, left, prop::bool::weighted(0.05)).prop_map(
        |(packets, segments, left, no_kick_fd)| Way {
            packets,
            segments: packets * segments,
            bytes: u64::from(packets * segments) * 1448,
            left,
            no_kick_fd,
        },
    )
}

/// A round that took the time in its `now`.
fn round() -> impl Strategy<Value = Report> {
    let took = prop_oneof![0u64..1000, 0u64..100_000, 0u64..20_000_000];
    let usage = prop::option::weighted(0.05, (0u64..1_000_000, 0u64..3));
    (took, way(), way(), prop::bool::weighted(0.02), prop::option::weighted(0.1, 0u64..1_000_000), usage).prop_map(
        |(took, rx, tx, down, deadline, usage)| Report {
            now: Time::from_nanos(took),
            rx,
            tx,
            uplink: if down { Uplink::Down } else { Uplink::Up },
            deadline: deadline.map(Time::from_nanos),
            usage: usage.map(|(cpu, preemptions)| Usage { cpu: Duration::from_nanos(cpu), preemptions }),
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Mode::Interrupt), Just(Mode::Polling)];
    let time = prop::option::of((0u64..50_000_000).prop_map(Duration::from_nanos));
    prop_oneof![
        100 => round().prop_map(Step::Round),
        2 => (mode, time).prop_map(|(mode, time)| Step::Set(mode, time)),
        1 => Just(Step::Toggle),
        1 => Just(Step::Auto),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let mode = prop_oneof![2 => Just(Setting::Auto), 1 => Just(Setting::Interrupt), 1 => Just(Setting::Polling)];
    let interval = prop_oneof![3 => Just(0u32), 1 => 1u32..2000];
    let rates = (1u32..1_000_000, 0u32..1_000_000, 1u32..200);
    (mode, rates, 0u32..1000, 1u32..2000, 1u32..=100, interval).prop_map(
        |(mode, (enter_pps, leave, rate_window_ms), min, max, max_poll_cpu_percent, poll_interval_us)| Policy {
            mode,
            enter_pps,
            leave_pps: leave % enter_pps,
            rate_window_ms,
            min_idle_spin_us: min.min(max),
            max_idle_spin_us: max,
            max_poll_cpu_percent,
            poll_interval_us,
            ..test_policy()
        },
    )
}

/// What one round led to.
fn judge(governor: &Governor, policy: &Policy, report: &Report, verdict: Verdict) -> Result<(), TestCaseError> {
    let now = report.now;
    let state = governor.state(now);
    let is_busy = [report.rx, report.tx].iter().any(|way| way.packets > 0 || way.left == Direction::Ready);
    let no_kick_fd = report.rx.no_kick_fd || report.tx.no_kick_fd;
    let until = match verdict {
        Verdict::Again => {
            prop_assert!(is_busy || state.mode == Mode::Polling);
            prop_assert!(is_busy || policy.poll_interval_us == 0);
            None
        }
        Verdict::Rest { until } => {
            let most = Duration::from_micros(policy.poll_interval_us.into());
            prop_assert!(!is_busy && state.mode == Mode::Polling && until.duration_since(now) <= most);
            Some(until)
        }
        Verdict::Wait { until } => {
            prop_assert!(!is_busy, "it sleeps beside work that it could move");
            let is_stuck = report.rx.left == Direction::Blocked && report.tx.left == Direction::Blocked;
            prop_assert!(state.mode == Mode::Interrupt || no_kick_fd || is_stuck);
            until
        }
    };
    prop_assert_eq!(matches!(verdict, Verdict::Wait { .. }), state.activity == Activity::Waiting);
    if report.uplink == Uplink::Down {
        prop_assert_eq!(state.mode, Mode::Interrupt);
    } else if state.setting == Setting::Interrupt && !no_kick_fd {
        prop_assert_eq!(state.mode, Mode::Interrupt);
    }
    if verdict != Verdict::Again {
        if no_kick_fd {
            let most = if policy.poll_interval_us == 0 { 1000 } else { policy.poll_interval_us };
            prop_assert!(until.is_some_and(|until| until.duration_since(now) <= Duration::from_micros(most.into())));
        }
        for bound in [state.setting_ends, report.deadline].into_iter().flatten() {
            prop_assert!(until.is_some_and(|until| until <= bound));
        }
    }
    prop_assert!(state.setting_ends.is_none_or(|end| end > now), "it ended, and nobody noticed");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_reports_and_any_instructions(policy in policy(), steps in prop::collection::vec(step(), 1..300)) {
        let mut governor = Governor::new(&policy.check().unwrap(), Time::default());
        let (mut now, mut usage) = (0, Usage::default());
        let (mut mode, mut switches) = (governor.mode(), 0);
        for step in steps {
            let at = Time::from_nanos(now);
            match step {
                Step::Round(mut report) => {
                    now += report.now.as_nanos();
                    report.now = Time::from_nanos(now);
                    report.deadline = report.deadline.map(|deadline| Time::from_nanos(now + deadline.as_nanos()));
                    report.usage = report.usage.map(|more| {
                        usage.cpu += more.cpu;
                        usage.preemptions += more.preemptions;
                        usage
                    });
                    let verdict = governor.after_round(&report);
                    judge(&governor, &policy, &report, verdict)?;
                    if verdict != Verdict::Again && now % 3 > 0 {
                        now += now % 1_000_000;
                        let cause = if now % 2 == 0 { Cause::Kick } else { Cause::Timeout };
                        governor.woke(Time::from_nanos(now), cause);
                    }
                }
                Step::Set(mode, time) => {
                    if governor.set_override(mode, time, at).is_ok() {
                        prop_assert_eq!(governor.state(at).setting, mode.into());
                    }
                }
                Step::Toggle => _ = governor.toggle(at),
                Step::Auto => {
                    governor.auto(at);
                    prop_assert_eq!(governor.state(at).setting, Setting::Auto);
                }
            }
            while let Some(switch) = governor.take_switch() {
                prop_assert_ne!(switch.to, mode);
                (mode, switches) = (switch.to, switches + 1);
            }
            prop_assert_eq!(mode, governor.mode());
        }
        let state = governor.state(Time::from_nanos(now));
        prop_assert_eq!(state.switches.iter().sum::<u64>(), switches);
        prop_assert_eq!(state.waiting_ns + state.draining_ns + state.polling_ns, now, "all time is accounted for");
    }

    #[test]
    fn what_stood_before_stands_again(
        policy in policy(),
        for_good in prop::option::of(prop_oneof![Just(Mode::Interrupt), Just(Mode::Polling)]),
        modes in prop::collection::vec((prop_oneof![Just(Mode::Interrupt), Just(Mode::Polling)], 1u64..1000), 1..4),
        rounds in prop::collection::vec(0u64..50_000, 1..100),
    ) {
        let mut governor = Governor::new(&policy.check().unwrap(), Time::default());
        if let Some(mode) = for_good {
            governor.set_override(mode, None, Time::default()).unwrap();
        }
        let base = governor.state(Time::default()).setting;
        for (mode, us) in &modes {
            governor.set_override(*mode, Some(Duration::from_micros(*us)), Time::default()).unwrap();
        }
        let mut now = 0;
        for took in rounds {
            now += took;
            governor.after_round(&Report { now: Time::from_nanos(now), ..Report::default() });
            let stands = modes.iter().rev().find(|(_, us)| us * 1000 > now).map_or(base, |(mode, _)| (*mode).into());
            let state = governor.state(Time::from_nanos(now));
            prop_assert_eq!(state.setting, stands);
            if stands != Setting::Auto {
                prop_assert_eq!(Setting::from(state.mode), stands);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_traffic(policy in policy(), seed: u64, is_tap: bool, is_large: bool) {
        let costs = if is_tap { Costs::TAP } else { Costs::FAST };
        let traffic = Traffic::wild(seed);
        let traffic = if is_large { traffic.of_large_frames() } else { traffic };
        check("wild", Policy { mode: Setting::Auto, poll_interval_us: 0, ..policy }, costs, traffic, SECOND / 4);
    }
}
