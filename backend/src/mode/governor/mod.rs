//! The governor itself: after every round it answers what comes next.
//!
//! Under `auto` three things begin polling or end it: the rate, backlog, and how long nothing came. What stands over these
//! rules is in `orders`. Below the rate of polling, the packets of a stream are left to gather between two looks, with kicks
//! off, so that neither side wakes the other for each.

mod orders;
#[cfg(test)]
mod tests;

use super::limiter::Limiter;
use super::overrides::Overrides;
use super::rate::Rate;
use super::starvation::Starvation;
use super::state::Record;
use super::window::{CEILING_WINDOW_NS, Ceiling, Window};
use super::{Activity, Cause, Mode, Policy, Reason, Report, Setting, State, Switch, Time, Uplink, Verdict};
use orders::Conditions;

/// How often a ring without a kick fd is looked at unless the policy says.
const LOOK_NS: u64 = 1_000_000;

/// Decides for one queue pair.
#[derive(Debug)]
pub struct Governor {
    rest_ns: u64,
    gather_ns: u64,
    look_ns: u64,
    rate_window_ns: u64,

    rate: Rate,
    window: Window,
    ceiling: Ceiling,
    limiter: Limiter,
    starvation: Starvation,
    overrides: Overrides,
    record: Record,

    conditions: Conditions,
    /// The uplink counts as down until then.
    uplink_trusted_from: Time,
    /// When what is set ends.
    setting_ends: Time,
    /// The rules of `auto` apply.
    is_governed: bool,
    /// Kicks stay off across empty rounds.
    is_polling: bool,
    /// Nothing was found in the round before.
    was_empty: bool,
    /// Polling ended because nothing came in its window, and nothing has come since.
    window_is_over: bool,
    /// Something was found since packets were last left to gather.
    has_gathered: bool,
    /// When a round last found something.
    last_work: Time,
    /// Polling that backlog began goes on until then, whatever the rate.
    rate_counts_from: Time,
    /// No polling of its own accord before then.
    barred_until: Time,
}

impl Governor {
    /// A governor that follows a checked policy.
    #[must_use]
    pub fn new(policy: &Policy, now: Time) -> Self {
        let interval_ns = u64::from(policy.poll_interval_us) * 1000;
        let is_polling = policy.mode == Setting::Polling;
        Self {
            rest_ns: interval_ns,
            gather_ns: u64::from(policy.gather_us) * 1000,
            look_ns: if interval_ns == 0 { LOOK_NS } else { interval_ns },
            rate_window_ns: u64::from(policy.rate_window_ms) * 1_000_000,
            rate: Rate::new(policy, now),
            window: Window::new(policy),
            ceiling: Ceiling::new(policy, now),
            limiter: Limiter::default(),
            starvation: Starvation::new(policy),
            overrides: Overrides::new(policy.mode),
            record: Record::new(if is_polling { Mode::Polling } else { Mode::Interrupt }, now),
            conditions: Conditions::default(),
            uplink_trusted_from: Time::default(),
            setting_ends: Time::NEVER,
            is_governed: policy.mode == Setting::Auto,
            is_polling,
            was_empty: false,
            window_is_over: false,
            has_gathered: false,
            last_work: now,
            rate_counts_from: now,
            barred_until: Time::default(),
        }
    }

    /// Takes in what a round over the pair saw, and says what comes next.
    #[inline]
    pub fn after_round(&mut self, report: &Report) -> Verdict {
        let now = report.now;
        let round_ns = self.record.advance(now);
        let is_busy = report.moved() || report.is_ready();
        let segments = u64::from(report.rx.segments) + u64::from(report.tx.segments);
        if self.rate.add(now, segments, [report.rx.bytes, report.tx.bytes]) {
            self.window.expect_work();
        }
        let conditions = self.conditions_of(report);
        if conditions != self.conditions || now >= self.setting_ends {
            self.take_notice(conditions, now);
        }
        if let Some(usage) = report.usage
            && self.starvation.judge(usage, self.record.awake_ns())
            && self.is_governed
            && self.is_polling
        {
            self.barred_until = self.starvation.back_off(now);
            self.stop_polling(Reason::Preempted, now);
        }
        if self.is_governed {
            if self.is_polling {
                self.keep_polling(is_busy, round_ns, now);
            } else if is_busy {
                self.begin_polling(report.is_ready(), now);
            }
        }
        if is_busy {
            self.last_work = now;
            self.window_is_over = false;
            self.has_gathered = true;
        }
        self.was_empty = !is_busy && !report.is_stuck();
        self.verdict(is_busy, report)
    }

    /// Takes in that a sleep is over, or that there was none.
    pub fn woke(&mut self, now: Time, cause: Cause) {
        self.record.slept(now);
        if self.record.activity != Activity::Waiting {
            return;
        }
        self.record.activity = if self.is_polling { Activity::Polling } else { Activity::Draining };
        if self.is_governed && !matches!(cause, Cause::Mailbox | Cause::Timeout) {
            let is_high = self.rate.is_high();
            self.window.missed(now.since_ns(self.last_work), is_high, self.window_is_over);
        }
    }

    /// What there is to see.
    #[must_use]
    pub fn state(&self, now: Time) -> State {
        let record = &self.record;
        let (pps, bits_per_second) = self.rate.per_second();
        State {
            at: now,
            mode: record.mode,
            since: record.since,
            reason: record.reason,
            setting: self.overrides.standing(),
            setting_ends: self.overrides.end(),
            activity: record.activity,
            switches: record.switches,
            waiting_ns: record.spent_until(Activity::Waiting, now),
            draining_ns: record.spent_until(Activity::Draining, now),
            polling_ns: record.spent_until(Activity::Polling, now),
            pps,
            bits_per_second,
            polling_window_ns: self.window.size_ns(),
        }
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.record.mode
    }

    /// The oldest change of mode that was not taken yet. The sixteen newest are kept.
    pub fn take_switch(&mut self) -> Option<Switch> {
        self.record.take_switch()
    }

    #[inline]
    fn keep_polling(&mut self, is_busy: bool, round_ns: u64, now: Time) {
        let idle_ns = now.since_ns(self.last_work);
        if is_busy {
            if self.was_empty {
                self.window.found(idle_ns);
            }
        } else if self.ceiling.burn(now, round_ns) {
            self.barred_until = now.after_ns(CEILING_WINDOW_NS);
            self.stop_polling(Reason::CpuLimit, now);
        } else if self.window.is_over(idle_ns) {
            self.window_is_over = true;
            self.stop_polling(if self.window.is_largest() { Reason::SpinLimit } else { Reason::Idle }, now);
        } else if !self.rate.is_high() && now >= self.rate_counts_from {
            self.stop_polling(Reason::Rate, now);
        }
    }

    fn begin_polling(&mut self, has_backlog: bool, now: Time) {
        let is_high = self.rate.is_high();
        if (is_high || has_backlog) && now >= self.barred_until && self.limiter.take(now, self.rate.is_far_above()) {
            self.is_polling = true;
            self.rate_counts_from = now.after_ns(self.rate_window_ns);
            self.settle(if is_high { Reason::Rate } else { Reason::Backlog }, now);
        }
    }

    fn stop_polling(&mut self, reason: Reason, now: Time) {
        self.is_polling = false;
        self.settle(reason, now);
    }

    #[inline]
    fn verdict(&mut self, is_busy: bool, report: &Report) -> Verdict {
        // What cannot be moved either way is not looked at again before something happens, whatever the mode.
        let is_polling = self.is_polling && !report.is_stuck();
        if is_busy || (is_polling && self.rest_ns == 0) {
            self.record.activity = if self.is_polling { Activity::Polling } else { Activity::Draining };
            return Verdict::Again;
        }
        let mut until = self.setting_ends.min(report.deadline.unwrap_or(Time::NEVER));
        if is_polling {
            self.record.activity = Activity::Polling;
            return Verdict::Rest { until: until.min(report.now.after_ns(self.rest_ns)) };
        }
        let gathers = self.is_governed && !report.is_stuck() && self.gather_ns > 0 && self.rate.is_stream();
        if gathers && std::mem::take(&mut self.has_gathered) {
            self.record.activity = Activity::Draining;
            return Verdict::Rest { until: until.min(report.now.after_ns(self.gather_ns)) };
        }
        self.record.activity = Activity::Waiting;
        if self.rings_without_kick_fd().is_some() {
            until = until.min(report.now.after_ns(self.look_ns));
        }
        if self.conditions.uplink_down && report.uplink == Uplink::Up {
            until = until.min(self.uplink_trusted_from);
        }
        Verdict::Wait { until: (until != Time::NEVER).then_some(until) }
    }
}
