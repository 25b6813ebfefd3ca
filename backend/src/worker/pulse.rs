//! Signs of life of a thread that moves packets: read by whoever watches over it, without waking it.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::Counter;

/// Counts the rounds of one thread, and tells whether it sleeps. On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Pulse(Counter);

impl Pulse {
    /// A round is over, or about to begin. Only the thread itself may.
    #[inline]
    pub(crate) fn beat(&self) {
        self.0.add(2);
    }

    /// The thread falls asleep until there is something to do, or wakes up again. Only the thread itself may.
    #[inline]
    pub(crate) fn turn_over(&self) {
        self.0.add(1);
    }

    /// The pulse as of now.
    #[must_use]
    pub fn get(&self) -> Beats {
        Beats(self.0.get())
    }
}

/// How far a thread has come. Two that are equal are of the same round, or of the same sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beats(u64);

impl Beats {
    /// Whether it sleeps and will be woken when there is something to do.
    #[must_use]
    pub fn is_asleep(self) -> bool {
        !self.0.is_multiple_of(2)
    }
}

/// A thread that moves packets, as seen from outside.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// The kernel's id of it.
    pub id: i32,
    /// Its pulse.
    pub pulse: Arc<Pulse>,
}

impl Thread {
    /// How long it has run on a CPU; none when it has ended.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        /// CPUCLOCK_SCHED of one thread, the three low bits of such a clock's number.
        const OF_THREAD: i32 = 6;
        clock_gettime(ClockId::from_raw((!self.id << 3) | OF_THREAD)).ok().map(Duration::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_tells_rounds_from_sleep() {
        let pulse = Pulse::default();
        let awake = pulse.get();
        pulse.beat();
        assert!(pulse.get() != awake && !pulse.get().is_asleep());
        pulse.turn_over();
        assert!(pulse.get().is_asleep());
        pulse.turn_over();
        assert!(!pulse.get().is_asleep());
    }

    #[test]
    fn the_time_is_that_of_the_thread() {
        let own =
            Thread { name: "me".into(), id: rustix::thread::gettid().as_raw_nonzero().get(), pulse: Arc::default() };
        let before = own.cpu_time().unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(5) {}
        assert!(own.cpu_time().unwrap() > before);
        assert_eq!(Thread { id: i32::MAX - 7, ..own }.cpu_time(), None);
    }
}
