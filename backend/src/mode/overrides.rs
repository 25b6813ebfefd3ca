//! What was set from outside, for good or for a time, and what stood before.

use std::time::Duration;

use super::{Mode, Setting, Time};

/// Most settings for a time that lie over each other.
const DEPTH: usize = 4;

/// Why a mode cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// Nothing would wake the worker.
    #[error(
        "interrupt mode is not possible: the {rings} ring has no kick fd, so that nothing tells when the driver uses it; \
         set polling, or auto, which looks at it from time to time"
    )]
    NoKickFd {
        /// `rx`, `tx`, or both.
        rings: &'static str,
    },
    /// For no time at all.
    #[error("a mode cannot be set for no time: name a time, or none to set it for good")]
    NoTime,
    /// Nobody could tell any more what stood before.
    #[error("{DEPTH} modes set for a time lie over each other already: set auto, or a mode for good")]
    TooMany,
}

/// What can be told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Be in this mode: for good, or for a time and then in the one that stands now.
    Set(Mode, Option<Duration>),
    /// Be in the other mode than now, for good.
    Toggle,
    /// Go by the rules; forget what was set.
    Auto,
}

/// A mode set for a time.
#[derive(Clone, Copy, Debug)]
struct Timed {
    mode: Mode,
    end: Time,
}

/// The settings that stand.
#[derive(Debug)]
pub(super) struct Overrides {
    /// What stands for good.
    base: Setting,
    /// What lies over it, each ending before the one below.
    timed: [Timed; DEPTH],
    len: usize,
}

impl Overrides {
    pub(super) fn new(base: Setting) -> Self {
        Self { base, timed: [Timed { mode: Mode::Interrupt, end: Time::NEVER }; DEPTH], len: 0 }
    }

    /// What stands now.
    pub(super) fn standing(&self) -> Setting {
        self.top().map_or(self.base, |timed| timed.mode.into())
    }

    /// When it ends.
    pub(super) fn end(&self) -> Option<Time> {
        self.top().map(|timed| timed.end)
    }

    fn top(&self) -> Option<&Timed> {
        self.timed[..self.len].last()
    }

    /// Sets `setting` for good; whatever stood is forgotten.
    pub(super) fn set(&mut self, setting: Setting) {
        self.base = setting;
        self.len = 0;
    }

    /// Sets `mode` for a time, and then back to what stands now, or to what stands below it if that has ended too.
    pub(super) fn set_for(&mut self, mode: Mode, now: Time, time: Duration) -> Result<(), ModeError> {
        let end = now.after(time);
        if end <= now {
            return Err(ModeError::NoTime);
        }
        // What does not outlast the new one is never seen again.
        let below = self.timed[..self.len].iter().take_while(|timed| timed.end > end).count();
        let slot = self.timed.get_mut(below).ok_or(ModeError::TooMany)?;
        *slot = Timed { mode, end };
        self.len = below + 1;
        Ok(())
    }

    /// Forgets what has ended.
    pub(super) fn expire(&mut self, now: Time) {
        while self.end().is_some_and(|end| end <= now) {
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn what_ends_gives_way_to_what_stood_before() {
        let mut overrides = Overrides::new(Setting::Auto);
        overrides.set_for(Mode::Polling, at(0), Duration::from_millis(50)).unwrap();
        overrides.set_for(Mode::Interrupt, at(1), Duration::from_millis(9)).unwrap();
        assert_eq!((overrides.standing(), overrides.end()), (Setting::Interrupt, Some(at(10))));
        overrides.expire(at(10));
        assert_eq!((overrides.standing(), overrides.end()), (Setting::Polling, Some(at(50))));
        overrides.expire(at(50));
        assert_eq!((overrides.standing(), overrides.end()), (Setting::Auto, None));
        overrides.set(Setting::Polling);
        overrides.set_for(Mode::Interrupt, at(60), Duration::from_millis(5)).unwrap();
        overrides.set(Setting::Auto);
        assert_eq!((overrides.standing(), overrides.end()), (Setting::Auto, None), "for good is for good");
    }

    #[test]
    fn no_time_and_too_many() {
        let mut overrides = Overrides::new(Setting::Auto);
        assert_eq!(overrides.set_for(Mode::Polling, at(0), Duration::ZERO), Err(ModeError::NoTime));
        for n in 0..DEPTH as u64 {
            overrides.set_for(Mode::Polling, at(n), Duration::from_secs(100 - n)).unwrap();
        }
        assert_eq!(overrides.set_for(Mode::Polling, at(9), Duration::from_secs(1)), Err(ModeError::TooMany));
        overrides.set_for(Mode::Interrupt, at(9), Duration::from_secs(1000)).unwrap();
        assert_eq!(overrides.standing(), Setting::Interrupt, "it outlasts them all");
    }

    proptest! {
        #[test]
        fn the_last_one_set_that_has_not_ended_stands(
            steps in proptest::collection::vec((0u64..50, 0u64..4, 1u64..100), 1..60)
        ) {
            let mut overrides = Overrides::new(Setting::Auto);
            let mut all: Vec<(Setting, Option<Time>)> = vec![(Setting::Auto, None)];
            let mut now = 0;
            for (pause, what, time) in steps {
                now += pause;
                overrides.expire(at(now));
                let mode = if what % 2 == 0 { Mode::Interrupt } else { Mode::Polling };
                if what < 3 {
                    if overrides.set_for(mode, at(now), Duration::from_millis(time)).is_ok() {
                        all.push((mode.into(), Some(at(now + time))));
                    }
                } else {
                    overrides.set(mode.into());
                    all = vec![(mode.into(), None)];
                }
                let expected = all.iter().rev().find(|(_, end)| end.is_none_or(|end| end > at(now)));
                prop_assert_eq!(Some(&(overrides.standing(), overrides.end())), expected);
            }
        }
    }
}
