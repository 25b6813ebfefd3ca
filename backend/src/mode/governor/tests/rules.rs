//! The rules one by one.

use super::*;

#[test]
fn auto_begins_in_interrupt_mode_and_drains() {
    let mut pair = Pair::of(Setting::Auto);
    assert_eq!(pair.is(), (Mode::Interrupt, Reason::Initial));
    assert_eq!(pair.empty(), WAIT);
    pair.now += 5 * MS;
    pair.governor.woke(pair.time(), Cause::Kick);
    assert_eq!(pair.round(3, Direction::Empty), Verdict::Again, "once more, whether anything slipped in");
    assert_eq!(pair.round(1, Direction::Blocked), Verdict::Again);
    assert_eq!(pair.round(0, Direction::Blocked), WAIT, "what is blocked is no backlog");
    let state = pair.governor.state(Time::from_nanos(pair.now + 7));
    assert_eq!((state.waiting_ns, state.draining_ns, state.polling_ns), (5 * MS + 7, 4 * US, 0));
    assert_eq!(state.activity, Activity::Waiting);
    assert_eq!(pair.governor.take_switch(), None);
}

#[test]
fn backlog_is_polled_whatever_the_rate_and_then_not_for_nothing() {
    let mut pair = Pair::of(Setting::Auto);
    assert_eq!(pair.round(64, Direction::Ready), Verdict::Again);
    assert_eq!(pair.is(), (Mode::Polling, Reason::Backlog));
    assert_eq!(pair.round(10, Direction::Empty), Verdict::Again);
    assert_eq!((pair.empty(), pair.is()), (WAIT, (Mode::Interrupt, Reason::Idle)));
    let switch = pair.governor.take_switch().unwrap();
    assert_eq!((switch.at, switch.to, switch.reason), (Time::from_nanos(US), Mode::Polling, Reason::Backlog));
    assert_eq!(pair.governor.take_switch().map(|s| s.reason), Some(Reason::Idle));
    assert_eq!(pair.governor.take_switch(), None);
}

#[test]
fn backlog_at_a_low_rate_does_not_poll_for_long() {
    let mut pair = Pair::new(Policy { min_idle_spin_us: 400, ..test_policy() });
    pair.round(64, Direction::Ready);
    pair.frames_every(200, 49 * MS);
    assert_eq!(pair.is(), (Mode::Polling, Reason::Backlog), "its window is never over");
    pair.frames_every(200, 2 * MS);
    assert_eq!(pair.is(), (Mode::Interrupt, Reason::Rate));
}

#[test]
fn the_rate_begins_polling_and_ends_it() {
    let mut pair = Pair::new(Policy { min_idle_spin_us: 400, ..test_policy() });
    pair.frames_every(21, 200 * MS);
    assert_eq!(pair.is().0, Mode::Interrupt, "47 600 a second");
    pair.frames_every(19, 60 * MS);
    assert_eq!(pair.is(), (Mode::Polling, Reason::Rate), "52 600 a second");
    pair.frames_every(38, 200 * MS);
    assert_eq!(pair.is().0, Mode::Polling, "26 300 a second");
    pair.frames_every(50, 60 * MS);
    assert_eq!(pair.is(), (Mode::Interrupt, Reason::Rate), "20 000 a second");
}

#[test]
fn a_frame_that_will_be_segmented_counts_as_its_segments_in_both_directions() {
    let mut pair = Pair::of(Setting::Auto);
    pair.report.rx = Way { packets: 1, segments: 45, bytes: 65_226, ..Way::default() };
    for _ in 0..27 {
        pair.now += MS;
        pair.round(1, Direction::Empty);
        assert_eq!(pair.is().0, Mode::Interrupt);
    }
    for _ in 0..27 {
        pair.now += MS;
        pair.round(47, Direction::Empty);
    }
    assert_eq!(pair.is(), (Mode::Polling, Reason::Rate), "27 times 46 and 92 segments in 54 ms");
    let state = pair.governor.state(pair.time());
    assert!((60_000..75_000).contains(&state.pps), "{}", state.pps);
    assert!((500_000_000..550_000_000).contains(&state.bits_per_second), "{}", state.bits_per_second);
}

#[test]
fn the_window_follows_what_polling_finds() {
    let mut pair = Pair::of(Setting::Auto);
    let window_us = |pair: &Pair| pair.governor.state(pair.time()).polling_window_ns / US;
    pair.frames_every(5, 100 * MS);
    assert_eq!(window_us(&pair), 160, "eight gaps at the threshold");
    pair.now += 70 * US;
    pair.empty();
    pair.round(1, Direction::Empty);
    assert_eq!(window_us(&pair), 160, "found in its first half");
    pair.now += 85 * US;
    pair.empty();
    pair.round(1, Direction::Empty);
    assert_eq!(window_us(&pair), 320, "found in its second half");
    for (slept, cause, size) in [
        (100 * US, Cause::Kick, 500),
        (100 * US, Cause::Timeout, 500),
        (MS, Cause::Mailbox, 500),
        (MS, Cause::Kick, 250),
        (100 * US, Cause::Nothing, 500),
        (MS, Cause::Uplink, 250),
    ] {
        pair.frames_every(5, 100 * MS);
        while pair.empty() == Verdict::Again {}
        pair.now += slept;
        pair.governor.woke(pair.time(), cause);
        assert_eq!(window_us(&pair), size, "{cause:?} after {slept} ns");
        pair.round(1, Direction::Empty);
    }
}

#[test]
fn the_longest_spin_ends_polling() {
    let mut pair = Pair::of(Setting::Auto);
    pair.frames_every(5, 100 * MS);
    pair.governor.window = Window::new(&Policy { min_idle_spin_us: 500, ..test_policy() });
    let from = pair.now;
    while pair.empty() == Verdict::Again {}
    assert_eq!(pair.is(), (Mode::Interrupt, Reason::SpinLimit));
    assert!((490 * US..=501 * US).contains(&(pair.now - from)), "{}", pair.now - from);
}

#[test]
fn who_is_preempted_does_not_poll_for_a_while() {
    let mut pair = Pair::of(Setting::Auto);
    pair.frames_every(5, 100 * MS);
    assert_eq!(pair.is().0, Mode::Polling);
    let usage = |ms, preemptions| Some(Usage { cpu: Duration::from_millis(ms), preemptions });
    pair.report.usage = usage(80, 3);
    pair.frames_every(5, 10 * MS);
    pair.report.usage = usage(90, 4);
    pair.frames_every(5, 10 * MS);
    assert_eq!(pair.is().0, Mode::Polling, "it lost next to nothing");
    pair.report.usage = usage(95, 5);
    pair.round(1, Direction::Empty);
    pair.report.usage = None;
    pair.frames_every(5, 10 * MS);
    assert_eq!(pair.is().0, Mode::Polling, "once is an accident");
    pair.report.usage = usage(100, 6);
    pair.round(1, Direction::Empty);
    pair.report.usage = None;
    assert_eq!(pair.is(), (Mode::Interrupt, Reason::Preempted));
    pair.frames_every(5, 5 * MS);
    pair.round(64, Direction::Ready);
    pair.frames_every(5, 85 * MS);
    assert_eq!(pair.is(), (Mode::Interrupt, Reason::Preempted), "neither for backlog nor for the rate");
    pair.frames_every(5, 10 * MS);
    assert_eq!(pair.is(), (Mode::Polling, Reason::Rate));
}

#[test]
fn who_rests_is_not_preempted() {
    let mut pair = Pair::new(Policy { poll_interval_us: 20, ..test_policy() });
    pair.frames_every(5, 100 * MS);
    for n in 0..20 {
        pair.report.usage = Some(Usage { cpu: Duration::from_nanos(pair.cpu), preemptions: n });
        for _ in 0..100 {
            while pair.round(0, Direction::Empty) == Verdict::Again {}
            pair.now += 20 * US;
            pair.governor.woke(pair.time(), Cause::Timeout);
            pair.round(5, Direction::Empty);
        }
        assert_eq!(pair.is(), (Mode::Polling, Reason::Rate));
    }
}

#[test]
fn polling_rests_between_looks() {
    let mut pair = Pair::new(Policy { mode: Setting::Polling, poll_interval_us: 50, ..test_policy() });
    assert_eq!(pair.round(1, Direction::Empty), Verdict::Again);
    let until = Time::from_nanos(pair.now + 51 * US);
    assert_eq!(pair.empty(), Verdict::Rest { until });
    pair.report.deadline = Some(pair.time());
    assert_eq!(pair.empty(), Verdict::Rest { until: pair.report.deadline.unwrap() });
    pair.now += 50 * US;
    pair.governor.woke(pair.time(), Cause::Timeout);
    let state = pair.governor.state(pair.time());
    assert_eq!((state.polling_ns, state.activity), (53 * US, Activity::Polling));
}

/// A pair that has moved 40 packets a millisecond out of the guest for a while, in interrupt mode.
fn stream(policy: Policy) -> Pair {
    let mut pair = Pair::new(policy);
    pair.frames_every(25, 60 * MS);
    assert_eq!(pair.is().0, Mode::Interrupt);
    pair
}

#[test]
fn a_stream_gathers_between_looks_as_long_as_something_comes() {
    let mut pair = stream(Policy { gather_us: 30, ..test_policy() });
    for _ in 0..3 {
        assert_eq!(pair.round(1, Direction::Empty), Verdict::Again);
        let until = Time::from_nanos(pair.now + 31 * US);
        assert_eq!(pair.empty(), Verdict::Rest { until });
        pair.now += 30 * US;
        pair.governor.woke(pair.time(), Cause::Timeout);
    }
    assert_eq!(pair.empty(), WAIT, "nothing came");
    let spent = pair.governor.state(pair.time());
    assert_eq!((spent.activity, spent.mode, spent.polling_ns), (Activity::Waiting, Mode::Interrupt, 0));
    pair.report.deadline = Some(pair.time());
    pair.round(1, Direction::Empty);
    assert_eq!(pair.empty(), Verdict::Rest { until: pair.report.deadline.unwrap() });
}

#[test]
fn nothing_gathers_where_somebody_waits_for_an_answer() {
    let gathering = Policy { gather_us: 30, ..test_policy() };
    // Few packets.
    let mut pair = Pair::new(gathering);
    pair.frames_every(100, 60 * MS);
    pair.round(1, Direction::Empty);
    assert_eq!(pair.empty(), WAIT);
    // As much there as back.
    let mut pair = Pair::new(gathering);
    for _ in 0..1500 {
        pair.report.rx = Way { packets: 1, segments: 1, bytes: 64, left: Direction::Empty, ..Way::default() };
        pair.round(1, Direction::Empty);
        pair.report.rx = Way { left: Direction::Empty, ..Way::default() };
        pair.now += 50 * US;
    }
    assert_eq!(pair.empty(), WAIT);
    // Nothing can be moved, an order, and who does not want it.
    let mut pair = stream(gathering);
    pair.round(1, Direction::Empty);
    pair.report.rx.left = Direction::Blocked;
    assert_eq!(pair.round(0, Direction::Blocked), WAIT);
    for policy in [Policy { mode: Setting::Interrupt, ..gathering }, test_policy()] {
        let mut pair = stream(policy);
        pair.round(1, Direction::Empty);
        assert_eq!(pair.empty(), WAIT);
    }
}
