//! What a worker shows of a pair's mode. Written by one thread, read by any, without a lock.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::Counter;
use crate::mode::{Activity, Governor, Mode, Policy, Reason, Setting, State, Time};

/// A pair's [`State`] as its worker last showed it: before each sleep, at each change of mode, and every 10 ms or so
/// while it does not sleep.
///
/// A sequence lock: a reader that a change overtakes reads again (H.-J. Boehm, "Can seqlocks get along with programming
/// language memory models?", MSPC 2012).
#[derive(Debug)]
#[repr(align(128))]
pub struct PairGauges {
    /// Odd while the worker writes.
    version: AtomicU64,
    /// Mode, reason, setting and activity, a byte each.
    words: AtomicU64,
    at: Counter,
    since: Counter,
    /// 0 for never.
    setting_ends: Counter,
    waiting_ns: Counter,
    draining_ns: Counter,
    polling_ns: Counter,
    pps: Counter,
    bits_per_second: Counter,
    polling_window_ns: Counter,
    switches: [Counter; Reason::COUNT],
}

impl PairGauges {
    /// Shows what a pair with this policy begins with.
    #[must_use]
    pub fn new(policy: &Policy, now: Time) -> Self {
        let gauges = Self {
            version: AtomicU64::new(0),
            words: AtomicU64::new(0),
            at: Counter::default(),
            since: Counter::default(),
            setting_ends: Counter::default(),
            waiting_ns: Counter::default(),
            draining_ns: Counter::default(),
            polling_ns: Counter::default(),
            pps: Counter::default(),
            bits_per_second: Counter::default(),
            polling_window_ns: Counter::default(),
            switches: [const { Counter::new() }; Reason::COUNT],
        };
        let mut state = Governor::new(policy, now).state(now);
        // No worker runs yet.
        state.activity = Activity::Waiting;
        gauges.show(&state);
        gauges
    }

    /// Shows `state`. Only the pair's worker may, once it runs.
    pub fn show(&self, state: &State) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let words = [state.mode as u8, state.reason as u8, state.setting as u8, state.activity as u8, 0, 0, 0, 0];
        self.words.store(u64::from_le_bytes(words), Ordering::Relaxed);
        self.at.set(state.at.as_nanos());
        self.since.set(state.since.as_nanos());
        self.setting_ends.set(state.setting_ends.map_or(0, Time::as_nanos));
        self.waiting_ns.set(state.waiting_ns);
        self.draining_ns.set(state.draining_ns);
        self.polling_ns.set(state.polling_ns);
        self.pps.set(state.pps);
        self.bits_per_second.set(state.bits_per_second);
        self.polling_window_ns.set(state.polling_window_ns);
        for (counter, n) in self.switches.iter().zip(state.switches) {
            counter.set(n);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// What is shown.
    #[must_use]
    pub fn read(&self) -> State {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let state = self.read_once();
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return state;
            }
            // The worker writes for nanoseconds, or lost its CPU meanwhile.
            std::thread::yield_now();
        }
    }

    fn read_once(&self) -> State {
        let [mode, reason, setting, activity, ..] = self.words.load(Ordering::Relaxed).to_le_bytes();
        let time = |counter: &Counter| Time::from_nanos(counter.get());
        State {
            at: time(&self.at),
            mode: if mode == Mode::Polling as u8 { Mode::Polling } else { Mode::Interrupt },
            since: time(&self.since),
            reason: Reason::ALL.get(usize::from(reason)).copied().unwrap_or(Reason::Initial),
            setting: [Setting::Interrupt, Setting::Polling]
                .into_iter()
                .find(|s| *s as u8 == setting)
                .unwrap_or(Setting::Auto),
            setting_ends: Some(time(&self.setting_ends)).filter(|end| end.as_nanos() != 0),
            activity: [Activity::Waiting, Activity::Draining]
                .into_iter()
                .find(|a| *a as u8 == activity)
                .unwrap_or(Activity::Polling),
            switches: std::array::from_fn(|at| self.switches[at].get()),
            waiting_ns: self.waiting_ns.get(),
            draining_ns: self.draining_ns.get(),
            polling_ns: self.polling_ns.get(),
            pps: self.pps.get(),
            bits_per_second: self.bits_per_second.get(),
            polling_window_ns: self.polling_window_ns.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_by_halves() {
        let gauges = std::sync::Arc::new(PairGauges::new(&Policy::default(), Time::default()));
        let state = gauges.read();
        let writer = std::thread::spawn({
            let gauges = gauges.clone();
            move || {
                for n in 0..200_000 {
                    let at = Time::from_nanos(n);
                    gauges.show(&State {
                        at,
                        waiting_ns: n,
                        polling_window_ns: n,
                        switches: [n; Reason::COUNT],
                        ..state
                    });
                }
            }
        });
        while !writer.is_finished() {
            let state = gauges.read();
            let n = state.waiting_ns;
            assert_eq!((state.at.as_nanos(), state.polling_window_ns, state.switches), (n, n, [n; Reason::COUNT]));
        }
        writer.join().unwrap();
    }

    #[test]
    fn what_is_shown_is_read() {
        let at = Time::from_nanos(5);
        let gauges = PairGauges::new(&Policy::default(), at);
        let mut state = gauges.read();
        assert_eq!((state.mode, state.setting, state.activity), (Mode::Interrupt, Setting::Auto, Activity::Waiting));
        state = State {
            mode: Mode::Polling,
            reason: Reason::KickFd,
            setting: Setting::Polling,
            setting_ends: Some(Time::from_nanos(9)),
            activity: Activity::Polling,
            switches: std::array::from_fn(|n| n as u64),
            waiting_ns: 1,
            draining_ns: 2,
            polling_ns: 3,
            pps: 4,
            bits_per_second: 5,
            polling_window_ns: 6,
            ..state
        };
        gauges.show(&state);
        assert_eq!(gauges.read(), state);
        assert_eq!(gauges.read().until(Time::from_nanos(12)).polling_ns, 10);
    }
}
