//! The settings of a governor: units, ranges, defaults, and what is wrong with those that make no sense.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The mode of a queue pair.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Sleeps when there is nothing to move, with kicks armed.
    Interrupt,
    /// Kicks stay off across empty rounds.
    Polling,
}

impl Mode {
    /// The other one.
    #[must_use]
    pub const fn toggled(self) -> Self {
        match self {
            Self::Interrupt => Self::Polling,
            Self::Polling => Self::Interrupt,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupt",
            Self::Polling => "polling",
        })
    }
}

/// Who chooses the mode.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// Each queue pair changes between the two by its load; it starts in interrupt mode.
    #[default]
    Auto,
    /// Workers sleep until they are woken.
    Interrupt,
    /// Workers look at rings and uplink all the time, which takes a CPU each while a guest is there.
    Polling,
}

impl From<Mode> for Setting {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Interrupt => Self::Interrupt,
            Mode::Polling => Self::Polling,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Interrupt => Mode::Interrupt.fmt(f),
            Self::Polling => Mode::Polling.fmt(f),
        }
    }
}

/// The settings of a queue pair's governor. All but `mode` and `poll_interval_us` concern `auto` alone.
#[derive(clap::Args, Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[command(next_help_heading = "When to poll")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Policy {
    /// Who chooses the mode: `auto` (which starts in interrupt mode), or always `interrupt` or `polling`.
    #[arg(skip)]
    #[serde(skip)]
    pub mode: Setting,
    /// Polling begins at this rate: segments a second, both directions together
    ///
    /// Range: from 1.
    #[arg(long, value_name = "PPS", default_value_t = Self::default().enter_pps)]
    pub enter_pps: u32,
    /// Polling ends below this rate
    ///
    /// Range: from 0, below enter-pps.
    #[arg(long, value_name = "PPS", default_value_t = Self::default().leave_pps)]
    pub leave_pps: u32,
    /// Over how many milliseconds the rate is measured
    ///
    /// Range: 1 to 10000.
    #[arg(long, value_name = "MS", default_value_t = Self::default().rate_window_ms)]
    pub rate_window_ms: u32,
    /// How many microseconds polling at least goes on without finding anything
    ///
    /// Range: from 0, at most max-idle-spin-us.
    #[arg(long, value_name = "US", default_value_t = Self::default().min_idle_spin_us)]
    pub min_idle_spin_us: u32,
    /// How many microseconds polling at most goes on without finding anything
    ///
    /// Range: 1 to 1000000.
    #[arg(long, value_name = "US", default_value_t = Self::default().max_idle_spin_us)]
    pub max_idle_spin_us: u32,
    /// The largest share of any tenth of a second, in percent, that polling for nothing may take
    ///
    /// 100 is no bound.
    ///
    /// Range: 1 to 100.
    #[arg(long, value_name = "PERCENT", default_value_t = Self::default().max_poll_cpu_percent)]
    pub max_poll_cpu_percent: u32,
    /// For how many milliseconds a worker that lost its CPU while it polled does not poll
    ///
    /// Twice as long each time that it happens again soon after, up to 32 times.
    ///
    /// Range: 1 to 60000.
    #[arg(long, value_name = "MS", default_value_t = Self::default().preempted_backoff_ms)]
    pub preempted_backoff_ms: u32,
    /// How many microseconds polling mode sleeps between two looks; 0: not at all
    ///
    /// A ring without a kick fd is looked at this often when nothing else goes on, and every 1000 microseconds if this is 0.
    ///
    /// Range: 0 to 1000000.
    #[arg(long, value_name = "US", default_value_t = Self::default().poll_interval_us)]
    pub poll_interval_us: u32,
    /// How many microseconds a stream gathers between two looks, below the rate of polling; 0: not at all
    ///
    /// It goes on as long as one side sends nearly all bytes and every look finds something.
    ///
    /// Range: 0 to 1000.
    #[arg(long, value_name = "US", default_value_t = Self::default().gather_us)]
    pub gather_us: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Setting::Auto,
            enter_pps: 400_000,
            leave_pps: 200_000,
            rate_window_ms: 50,
            min_idle_spin_us: 0,
            max_idle_spin_us: 500,
            max_poll_cpu_percent: 100,
            preempted_backoff_ms: 100,
            poll_interval_us: 0,
            gather_us: 30,
        }
    }
}

/// A setting that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A number is too small or too large.
    #[error("{name} = {value} is not between {min} and {max}: {mend}")]
    Range {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: u32,
        /// The least that it may be.
        min: u32,
        /// The most that it may be.
        max: u32,
        /// What to do.
        mend: &'static str,
    },
    /// Polling would end at a rate at which it begins.
    #[error("leave-pps = {leave_pps} is not below enter-pps = {enter_pps}: half of enter-pps is a good value")]
    Thresholds {
        /// Where polling begins.
        enter_pps: u32,
        /// Where it ends.
        leave_pps: u32,
    },
    /// The polling window could not be as small as it may be large.
    #[error(
        "min-idle-spin-us = {min_idle_spin_us} is above max-idle-spin-us = {max_idle_spin_us}: lower the one or raise \
         the other"
    )]
    Window {
        /// Its least size.
        min_idle_spin_us: u32,
        /// Its largest size.
        max_idle_spin_us: u32,
    },
}

const SECOND_US: u32 = 1_000_000;
const MAX_GATHER_US: u32 = 1000;

impl Policy {
    /// The policy if it makes sense.
    ///
    /// # Errors
    /// When a value is out of its range or two values contradict each other; the text names them as they are written in
    /// a configuration file.
    pub fn check(self) -> Result<Self, PolicyError> {
        let range = |name, value, min, max, mend| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(PolicyError::Range { name, value, min, max, mend }) }
        };
        range("enter-pps", self.enter_pps, 1, u32::MAX, "to poll at any rate, set mode = \"polling\"")?;
        if self.leave_pps >= self.enter_pps {
            return Err(PolicyError::Thresholds { enter_pps: self.enter_pps, leave_pps: self.leave_pps });
        }
        range("rate-window-ms", self.rate_window_ms, 1, 10_000, "a rate needs a time to be measured over, such as 50")?;
        let mend = "to spin never, set mode = \"interrupt\"; to spin for ever, mode = \"polling\"";
        range("max-idle-spin-us", self.max_idle_spin_us, 1, SECOND_US, mend)?;
        if self.min_idle_spin_us > self.max_idle_spin_us {
            return Err(PolicyError::Window {
                min_idle_spin_us: self.min_idle_spin_us,
                max_idle_spin_us: self.max_idle_spin_us,
            });
        }
        let mend = "100 is no bound; to poll never, set mode = \"interrupt\"";
        range("max-poll-cpu-percent", self.max_poll_cpu_percent, 1, 100, mend)?;
        range("preempted-backoff-ms", self.preempted_backoff_ms, 1, 60_000, "100 is a good value")?;
        let mend = "0 polls without a pause, 50 looks every 50 µs";
        range("poll-interval-us", self.poll_interval_us, 0, SECOND_US, mend)?;
        range("gather-us", self.gather_us, 0, MAX_GATHER_US, "30 is a good value, 0 lets nothing gather")?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Policy, String> {
        let policy: Policy = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        policy.check().map_err(|e| e.to_string())
    }

    #[test]
    fn a_file_names_what_differs_from_the_defaults() {
        assert_eq!(read(""), Ok(Policy::default()));
        let policy = read("poll-interval-us = 50\nleave-pps = 0\n").unwrap();
        assert_eq!((policy.poll_interval_us, policy.leave_pps), (50, 0));
    }

    #[test]
    fn mistakes_are_named_with_the_mend() {
        for (text, says) in [
            ("enter-pps = 0", "enter-pps = 0 is not between 1 and 4294967295: to poll at any rate, set mode"),
            ("leave-pps = 400000", "leave-pps = 400000 is not below enter-pps = 400000: half of"),
            ("enter-pps = 10\nleave-pps = 20", "leave-pps = 20 is not below enter-pps = 10"),
            ("rate-window-ms = 0", "rate-window-ms = 0 is not between 1 and 10000: a rate needs a time"),
            ("rate-window-ms = -5", "`-5`"),
            ("rate-window-ms = 10001", "rate-window-ms = 10001 is not between"),
            ("max-idle-spin-us = 0", "max-idle-spin-us = 0 is not between 1 and 1000000: to spin never, set mode"),
            ("min-idle-spin-us = 501", "min-idle-spin-us = 501 is above max-idle-spin-us = 500: lower"),
            ("max-poll-cpu-percent = 0", "max-poll-cpu-percent = 0 is not between 1 and 100: 100 is no bound"),
            ("max-poll-cpu-percent = 101", "max-poll-cpu-percent = 101 is not between"),
            ("preempted-backoff-ms = 0", "preempted-backoff-ms = 0 is not between 1 and 60000: 100"),
            ("poll-interval-us = 1000001", "poll-interval-us = 1000001 is not between 0 and 1000000: 0 polls"),
            ("gather-us = 1001", "gather-us = 1001 is not between 0 and 1000: 30"),
            ("enter_pps = 1", "unknown field `enter_pps`"),
            ("mode = 'polling'", "unknown field `mode`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{says:?} is not in: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
