//! What stands over the rules.

use super::*;

#[test]
fn an_uplink_that_is_down_is_never_polled() {
    for mode in [Setting::Auto, Setting::Polling, Setting::Interrupt] {
        let mut pair = Pair::of(mode);
        pair.frames_every(5, 100 * MS);
        let before = pair.is().0;
        pair.report.uplink = Uplink::Down;
        assert_eq!(pair.round(64, Direction::Ready), Verdict::Again, "the guest's frames are dropped");
        assert_eq!((pair.empty(), pair.is()), (WAIT, (Mode::Interrupt, Reason::UplinkDown)));
        pair.governor.set_override(Mode::Polling, Some(Duration::from_millis(1)), pair.time()).unwrap();
        assert_eq!(pair.is(), (Mode::Interrupt, Reason::UplinkDown));
        pair.now += MS;
        assert_eq!((pair.empty(), pair.is()), (WAIT, (Mode::Interrupt, Reason::UplinkDown)));
        pair.report.uplink = Uplink::Up;
        let trusted = pair.wait_until().unwrap();
        assert!(trusted > pair.now && pair.is().1 == Reason::UplinkDown);
        pair.now = trusted;
        pair.empty();
        let after = if mode == Setting::Polling { before } else { Mode::Interrupt };
        assert_eq!(pair.is(), (after, Reason::UplinkUp));
    }
}

#[test]
fn a_mode_that_is_set_stays() {
    let mut pair = Pair::of(Setting::Auto);
    pair.governor.set_override(Mode::Polling, None, pair.time()).unwrap();
    for _ in 0..10_000 {
        assert_eq!(pair.empty(), Verdict::Again);
    }
    assert_eq!(pair.is(), (Mode::Polling, Reason::Override));
    pair.governor.set_override(Mode::Interrupt, None, pair.time()).unwrap();
    for _ in 0..10_000 {
        pair.round(64, Direction::Ready);
    }
    assert_eq!((pair.empty(), pair.is()), (WAIT, (Mode::Interrupt, Reason::Override)));
    pair.governor.auto(pair.time());
    assert_eq!(pair.governor.state(pair.time()).setting, Setting::Auto);
    pair.round(64, Direction::Ready);
    assert_eq!(pair.is(), (Mode::Polling, Reason::Rate));
    pair.governor.auto(pair.time());
    assert_eq!(pair.is().0, Mode::Polling, "the rate holds it there");
}

#[test]
fn a_mode_set_for_a_time_ends_in_time() {
    let mut pair = Pair::of(Setting::Interrupt);
    pair.governor.set_override(Mode::Polling, Some(Duration::from_millis(50)), pair.time()).unwrap();
    pair.governor.set_override(Mode::Interrupt, Some(Duration::from_millis(10)), pair.time()).unwrap();
    assert_eq!(pair.wait_until(), Some(10 * MS));
    pair.report.deadline = Some(Time::from_nanos(3 * MS));
    assert_eq!(pair.wait_until(), Some(3 * MS), "the caller's own deadline comes first");
    pair.report.deadline = None;
    pair.now = 10 * MS;
    assert_eq!((pair.empty(), pair.is()), (Verdict::Again, (Mode::Polling, Reason::OverrideEnded)));
    let state = pair.governor.state(pair.time());
    assert_eq!((state.setting, state.setting_ends), (Setting::Polling, Some(Time::from_nanos(50 * MS))));
    pair.now = 50 * MS;
    assert_eq!((pair.empty(), pair.is()), (WAIT, (Mode::Interrupt, Reason::OverrideEnded)));
    assert_eq!(pair.governor.state(pair.time()).setting, Setting::Interrupt);
    let forever = pair.governor.set_override(Mode::Polling, Some(Duration::MAX), pair.time());
    assert_eq!((forever, pair.empty()), (Ok(()), Verdict::Again));
}

#[test]
fn a_toggle_sets_the_other_mode() {
    let mut pair = Pair::of(Setting::Auto);
    pair.governor.toggle(pair.time()).unwrap();
    assert_eq!((pair.empty(), pair.is()), (Verdict::Again, (Mode::Polling, Reason::Toggled)));
    pair.governor.toggle(pair.time()).unwrap();
    assert_eq!((pair.empty(), pair.is()), (WAIT, (Mode::Interrupt, Reason::Toggled)));
    pair.governor.set_override(Mode::Polling, Some(Duration::from_millis(1)), pair.time()).unwrap();
    pair.now += MS;
    pair.governor.toggle(pair.time()).unwrap();
    assert_eq!(pair.is(), (Mode::Polling, Reason::Toggled), "what had ended by then was interrupt mode again");
}

#[test]
fn a_ring_without_kick_fd_is_looked_at() {
    let mut pair = Pair::of(Setting::Auto);
    pair.report.rx.no_kick_fd = true;
    assert_eq!(pair.wait_until(), Some(pair.now + 1000 * US));
    assert_eq!(pair.is(), (Mode::Polling, Reason::NoKickFd));
    let error = pair.governor.set_override(Mode::Interrupt, None, pair.time()).unwrap_err();
    assert_eq!(error, ModeError::NoKickFd { rings: "rx" });
    assert!(error.to_string().contains("the rx ring has no kick fd"));
    assert_eq!(pair.governor.toggle(pair.time()), Err(error));
    pair.governor.set_override(Mode::Polling, None, pair.time()).unwrap();
    assert_eq!((pair.empty(), pair.is()), (Verdict::Again, (Mode::Polling, Reason::Override)));
    pair.governor.auto(pair.time());
    assert_eq!(pair.is(), (Mode::Polling, Reason::NoKickFd));
    pair.report.uplink = Uplink::Down;
    assert_eq!(pair.wait_until(), Some(pair.now + 1000 * US), "even then");
    pair.report.uplink = Uplink::Up;
    pair.now += 20 * MS;
    pair.report.rx.no_kick_fd = false;
    pair.empty();
    pair.report.rx.no_kick_fd = true;
    pair.empty();
    pair.report.rx.no_kick_fd = false;
    assert_eq!((pair.empty(), pair.is()), (WAIT, (Mode::Interrupt, Reason::KickFd)));

    let mut pair = Pair::new(Policy { mode: Setting::Interrupt, poll_interval_us: 70, ..test_policy() });
    pair.report.tx.no_kick_fd = true;
    assert_eq!(pair.wait_until(), Some(pair.now + 70 * US));
    assert_eq!(pair.is(), (Mode::Polling, Reason::NoKickFd), "it was set before anybody knew");
}
