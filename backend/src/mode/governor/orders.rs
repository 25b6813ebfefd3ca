//! What stands over the rules: instructions from outside, an uplink that is down, rings that cannot kick.

use std::time::Duration;

use super::Governor;
use crate::mode::{Mode, ModeError, Order, Reason, Report, Setting, Time, Uplink};

/// How long an uplink must not have been down before anybody polls it again.
const UPLINK_TRUST_NS: u64 = 10_000_000;

/// What is so for the time being, whatever was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) uplink_down: bool,
    rx_no_kick_fd: bool,
    tx_no_kick_fd: bool,
}

impl Governor {
    /// Carries out an order.
    ///
    /// # Errors
    /// When it cannot be; the pair is as before.
    pub fn order(&mut self, order: Order, now: Time) -> Result<(), ModeError> {
        match order {
            Order::Set(mode, time) => self.set_override(mode, time, now),
            Order::Toggle => self.toggle(now),
            Order::Auto => {
                self.auto(now);
                Ok(())
            }
        }
    }

    /// Sets `mode` for good, or for a time and then back to what stands now.
    ///
    /// # Errors
    /// When interrupt mode is set for a ring without a kick fd, or the time makes no sense.
    pub fn set_override(&mut self, mode: Mode, time: Option<Duration>, now: Time) -> Result<(), ModeError> {
        self.override_with(mode, time, Reason::Override, now)
    }

    /// Sets the other mode than the present one for good.
    ///
    /// # Errors
    /// When that is interrupt mode, and a ring has no kick fd.
    pub fn toggle(&mut self, now: Time) -> Result<(), ModeError> {
        self.end_what_has_ended(now);
        let present = match self.overrides.standing() {
            Setting::Auto => self.record.mode,
            Setting::Interrupt => Mode::Interrupt,
            Setting::Polling => Mode::Polling,
        };
        self.override_with(present.toggled(), None, Reason::Toggled, now)
    }

    /// Hands the pair back to the rules; whatever was set is forgotten.
    pub fn auto(&mut self, now: Time) {
        self.overrides.set(Setting::Auto);
        self.obey(Reason::OverrideEnded, now);
    }

    #[inline]
    pub(super) fn conditions_of(&mut self, report: &Report) -> Conditions {
        if report.uplink == Uplink::Down {
            self.uplink_trusted_from = report.now.after_ns(UPLINK_TRUST_NS);
        }
        Conditions {
            uplink_down: report.now < self.uplink_trusted_from,
            rx_no_kick_fd: report.rx.no_kick_fd,
            tx_no_kick_fd: report.tx.no_kick_fd,
        }
    }

    #[cold]
    pub(super) fn take_notice(&mut self, conditions: Conditions, now: Time) {
        let before = std::mem::replace(&mut self.conditions, conditions);
        let has_ended = self.overrides.end().is_some_and(|end| end <= now);
        self.overrides.expire(now);
        if before.uplink_down && !conditions.uplink_down {
            self.obey(Reason::UplinkUp, now);
        } else if has_ended || before.uplink_down != conditions.uplink_down {
            self.obey(Reason::OverrideEnded, now);
        } else {
            let is_kick_news = !self.is_polling && !conditions.uplink_down;
            self.settle(if is_kick_news { Reason::KickFd } else { self.record.reason }, now);
        }
    }

    fn end_what_has_ended(&mut self, now: Time) {
        if now >= self.setting_ends {
            self.take_notice(self.conditions, now);
        }
    }

    /// Does what stands: the uplink's state, what was set, or the rules.
    fn obey(&mut self, reason: Reason, now: Time) {
        self.setting_ends = self.overrides.end().unwrap_or(Time::NEVER);
        let standing = self.overrides.standing();
        let is_down = self.conditions.uplink_down;
        self.is_governed = standing == Setting::Auto && !is_down;
        self.is_polling = match standing {
            Setting::Polling => !is_down,
            Setting::Interrupt => false,
            // The rules would not have begun at a lower rate what they find here.
            Setting::Auto => self.is_polling && self.rate.is_high() && !is_down,
        };
        self.settle(if is_down { Reason::UplinkDown } else { reason }, now);
    }

    fn override_with(
        &mut self,
        mode: Mode,
        time: Option<Duration>,
        reason: Reason,
        now: Time,
    ) -> Result<(), ModeError> {
        if mode == Mode::Interrupt
            && let Some(rings) = self.rings_without_kick_fd()
        {
            return Err(ModeError::NoKickFd { rings });
        }
        self.end_what_has_ended(now);
        match time {
            None => self.overrides.set(mode.into()),
            Some(time) => self.overrides.set_for(mode, now, time)?,
        }
        self.obey(reason, now);
        Ok(())
    }

    pub(super) fn rings_without_kick_fd(&self) -> Option<&'static str> {
        match self.conditions {
            Conditions { rx_no_kick_fd: true, tx_no_kick_fd: true, .. } => Some("rx and tx"),
            Conditions { rx_no_kick_fd: true, .. } => Some("rx"),
            Conditions { tx_no_kick_fd: true, .. } => Some("tx"),
            _ => None,
        }
    }

    /// Records the mode. A pair whose ring cannot kick never is in interrupt mode, unless its uplink is down.
    pub(super) fn settle(&mut self, reason: Reason, now: Time) {
        let is_looked_at = self.rings_without_kick_fd().is_some() && !self.conditions.uplink_down;
        let (mode, reason) = match (self.is_polling, is_looked_at) {
            (true, _) => (Mode::Polling, reason),
            (false, true) => (Mode::Polling, Reason::NoKickFd),
            (false, false) => (Mode::Interrupt, reason),
        };
        self.record.settle(mode, reason, now);
    }
}
