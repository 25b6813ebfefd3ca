//! What an observer wants to know: the mode, since when and why, how often it changed, and where the time went.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Mode, Setting, Time};

/// Changes of mode that wait to be taken; of more, the oldest are lost.
const KEPT: usize = 16;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a pair is in its mode.
        #[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name, which does not change.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// It was configured so.
    Initial = "initial",
    /// The rate reached `enter_pps`, or fell below `leave_pps`.
    Rate = "rate",
    /// A round's budget ended with work left.
    Backlog = "backlog",
    /// Nothing came within the polling window.
    Idle = "idle",
    /// Nothing came within the largest polling window.
    SpinLimit = "spin_limit",
    /// Empty rounds took the share of the CPU that they may.
    CpuLimit = "cpu_limit",
    /// Others wanted the CPU.
    Preempted = "preempted",
    /// The uplink is down.
    UplinkDown = "uplink_down",
    /// The uplink works again.
    UplinkUp = "uplink_up",
    /// It was set.
    Override = "override",
    /// What was set is over.
    OverrideEnded = "override_ended",
    /// It was set to the other mode.
    Toggled = "toggled",
    /// A ring has no kick fd.
    NoKickFd = "no_kick_fd",
    /// The rings have kick fds again.
    KickFd = "kick_fd",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a worker is doing for a pair.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Asleep with kicks armed.
    Waiting,
    /// Moving what there is, in interrupt mode.
    Draining,
    /// In rounds or resting between them, kicks off, in polling mode.
    Polling,
}

/// A change of mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// When.
    pub at: Time,
    /// The mode since then; it was the other one before.
    pub to: Mode,
    /// Why.
    pub reason: Reason,
}

/// What a pair's governor has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// When it was so.
    pub at: Time,
    /// The mode.
    pub mode: Mode,
    /// Since when.
    pub since: Time,
    /// What put it there, or holds it there.
    pub reason: Reason,
    /// Who chooses the mode now.
    pub setting: Setting,
    /// When what is set gives way to what stood before. None: never.
    pub setting_ends: Option<Time>,
    /// What the worker is doing.
    pub activity: Activity,
    /// Changes of mode so far, by reason: in the order of [`Reason::ALL`].
    pub switches: [u64; Reason::COUNT],
    /// Time asleep with kicks armed so far, in nanoseconds.
    pub waiting_ns: u64,
    /// Time draining so far, in nanoseconds.
    pub draining_ns: u64,
    /// Time polling so far, in nanoseconds.
    pub polling_ns: u64,
    /// Segments a second, both directions, over the rate window before the last round.
    pub pps: u64,
    /// Bits a second, both directions, over the rate window before the last round.
    pub bits_per_second: u64,
    /// How long polling may find nothing before it ends, in `auto`, in nanoseconds.
    pub polling_window_ns: u64,
}

impl State {
    /// The same at a later time, if nothing else has happened meanwhile.
    #[must_use]
    pub fn until(mut self, now: Time) -> Self {
        let ns = now.since_ns(self.at);
        match self.activity {
            Activity::Waiting => self.waiting_ns += ns,
            Activity::Draining => self.draining_ns += ns,
            Activity::Polling => self.polling_ns += ns,
        }
        self.at = self.at.max(now);
        self
    }
}

/// Keeps what [`State`] shows, and the changes that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) mode: Mode,
    pub(super) since: Time,
    pub(super) reason: Reason,
    pub(super) activity: Activity,
    pub(super) switches: [u64; Reason::COUNT],
    /// By [`Activity`].
    spent_ns: [u64; 3],
    /// Of the time polling, that spent asleep.
    rested_ns: u64,
    /// Up to when time is accounted for.
    mark: Time,
    events: [Switch; KEPT],
    /// Events so far, those taken, lost or kept.
    happened: usize,
    kept: usize,
}

impl Record {
    pub(super) fn new(mode: Mode, now: Time) -> Self {
        let activity = if mode == Mode::Polling { Activity::Polling } else { Activity::Draining };
        Self {
            mode,
            since: now,
            reason: Reason::Initial,
            activity,
            switches: [0; Reason::COUNT],
            spent_ns: [0; 3],
            rested_ns: 0,
            mark: now,
            events: [Switch { at: now, to: mode, reason: Reason::Initial }; KEPT],
            happened: 0,
            kept: 0,
        }
    }

    /// Accounts for the time up to `now`; says how much it was.
    #[inline]
    pub(super) fn advance(&mut self, now: Time) -> u64 {
        let ns = now.since_ns(self.mark);
        self.mark = now;
        self.spent_ns[self.activity as usize] += ns;
        ns
    }

    /// Accounts for a sleep that ends now; says how long it was.
    pub(super) fn slept(&mut self, now: Time) -> u64 {
        let ns = self.advance(now);
        if self.activity == Activity::Polling {
            self.rested_ns += ns;
        }
        ns
    }

    /// The pair is in `mode` because of `reason`, now if it was not before.
    pub(super) fn settle(&mut self, mode: Mode, reason: Reason, now: Time) {
        self.reason = reason;
        if self.mode == mode {
            return;
        }
        self.mode = mode;
        self.since = now;
        self.switches[reason as usize] += 1;
        self.events[self.happened % KEPT] = Switch { at: now, to: mode, reason };
        self.happened += 1;
        self.kept = (self.kept + 1).min(KEPT);
    }

    /// The oldest change that nobody has taken.
    pub(super) fn take_switch(&mut self) -> Option<Switch> {
        let oldest = self.happened.checked_sub(self.kept).filter(|_| self.kept > 0)?;
        self.kept -= 1;
        Some(self.events[oldest % KEPT])
    }

    /// Time so far that the worker did not sleep, in nanoseconds.
    pub(super) fn awake_ns(&self) -> u64 {
        self.spent(Activity::Draining) + self.spent(Activity::Polling) - self.rested_ns
    }

    pub(super) fn spent(&self, activity: Activity) -> u64 {
        self.spent_ns[activity as usize]
    }

    /// Time in `activity` up to `now`.
    pub(super) fn spent_until(&self, activity: Activity, now: Time) -> u64 {
        let running_ns = if activity == self.activity { now.since_ns(self.mark) } else { 0 };
        self.spent(activity) + running_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_program_reads() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }

    #[test]
    fn the_newest_changes_are_kept() {
        let mut record = Record::new(Mode::Interrupt, Time::default());
        assert_eq!(record.take_switch(), None);
        let mut mode = Mode::Interrupt;
        for n in 1..=20 {
            mode = mode.toggled();
            record.settle(mode, Reason::Rate, Time::from_nanos(n));
            record.settle(mode, Reason::Override, Time::from_nanos(n));
        }
        let taken: Vec<_> = std::iter::from_fn(|| record.take_switch()).map(|s| s.at.as_nanos()).collect();
        assert_eq!(taken, (5..=20).collect::<Vec<_>>());
        assert_eq!((record.switches[Reason::Rate as usize], record.reason), (20, Reason::Override));
    }
}
