//! A moment on the caller's clock.

use std::time::Duration;

/// Nanoseconds since any fixed moment, on a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// A moment that never comes.
    pub(super) const NEVER: Self = Self(u64::MAX);

    /// The moment `ns` nanoseconds after the clock's beginning.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's beginning.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; nothing if it is still to come.
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.since_ns(earlier))
    }

    pub(super) const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub(super) const fn after_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    pub(super) fn after(self, duration: Duration) -> Self {
        self.after_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Duration> for Time {
    /// The moment this long after the clock's beginning.
    fn from(since_beginning: Duration) -> Self {
        Self(0).after(since_beginning)
    }
}
