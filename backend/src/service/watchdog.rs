//! Whether the threads that move packets go on.
//!
//! A thread that sleeps is well, and is left asleep. One that runs all the time, but comes to the end of no round, will
//! never come to one: only another start helps, which is the service manager's to do. One that neither sleeps by itself
//! nor runs is kept by the kernel, in memory that its front end gave it. That is the front end's doing; its
//! device suffers, and another start would make all others suffer with it.

use std::collections::HashMap;
use std::time::Duration;

use crate::worker::{Beats, Thread};

/// Checks without progress, one after another, after which a thread is not well. Two checks make an interval of the
/// watchdog.
const CHECKS: u32 = 2;

/// What a thread shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sign {
    beats: Beats,
    cpu: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Health {
    /// It sleeps, or goes on.
    #[default]
    Well,
    /// It runs and gets nowhere.
    Stuck,
    /// The kernel keeps it.
    Blocked,
}

#[derive(Debug)]
struct Patient {
    last: Sign,
    running: u32,
    kept: u32,
    health: Health,
}

impl Patient {
    fn new(sign: Sign) -> Self {
        Self { last: sign, running: 0, kept: 0, health: Health::Well }
    }

    /// Looks at it again.
    fn check(&mut self, sign: Sign) -> Health {
        if sign.beats != self.last.beats || sign.beats.is_asleep() {
            (self.running, self.kept) = (0, 0);
        } else if sign.cpu > self.last.cpu {
            (self.running, self.kept) = (self.running + 1, 0);
        } else {
            (self.running, self.kept) = (0, self.kept + 1);
        }
        self.last = sign;
        match (self.running, self.kept) {
            (CHECKS.., _) => Health::Stuck,
            (_, CHECKS..) => Health::Blocked,
            _ => Health::Well,
        }
    }
}

/// Looks at threads again and again.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    patients: HashMap<i32, Patient>,
}

impl Watchdog {
    /// Looks at all threads that there are now. Says whether none of them is stuck; a line tells of each change.
    pub(super) fn check(&mut self, threads: &[Thread]) -> bool {
        self.patients.retain(|id, _| threads.iter().any(|thread| thread.id == *id));
        let mut well = true;
        for thread in threads {
            // One that has ended is not looked at.
            let Some(cpu) = thread.cpu_time() else { continue };
            well &= self.look_at(thread, Sign { beats: thread.pulse.get(), cpu }) != Health::Stuck;
        }
        well
    }

    fn look_at(&mut self, thread: &Thread, sign: Sign) -> Health {
        let Some(patient) = self.patients.get_mut(&thread.id) else {
            self.patients.insert(thread.id, Patient::new(sign));
            return Health::Well;
        };
        let (before, health) = (patient.health, patient.check(sign));
        patient.health = health;
        let worker = &thread.name;
        match health {
            _ if health == before => {}
            Health::Stuck => {
                tracing::error!(%worker, "runs, but its rounds do not go on: the service manager is told no more");
            }
            Health::Blocked => tracing::warn!(%worker, "is held up by the memory of its front end"),
            Health::Well => tracing::info!(%worker, "goes on"),
        }
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Pulse;

    fn sign(pulse: &Pulse, ms: u64) -> Sign {
        Sign { beats: pulse.get(), cpu: Duration::from_millis(ms) }
    }

    #[test]
    fn who_sleeps_or_goes_on_is_well() {
        let pulse = Pulse::default();
        pulse.turn_over();
        let mut patient = Patient::new(sign(&pulse, 0));
        for _ in 0..5 {
            assert_eq!(patient.check(sign(&pulse, 0)), Health::Well, "asleep");
        }
        pulse.turn_over();
        for ms in 1..6 {
            pulse.beat();
            assert_eq!(patient.check(sign(&pulse, ms)), Health::Well, "busy");
        }
        // As long as it goes on now and then.
        assert_eq!(patient.check(sign(&pulse, 7)), Health::Well);
        pulse.beat();
        assert_eq!(patient.check(sign(&pulse, 8)), Health::Well);
        assert_eq!(patient.check(sign(&pulse, 9)), Health::Well);
    }

    #[test]
    fn who_runs_and_gets_nowhere_is_stuck_until_it_goes_on() {
        let pulse = Pulse::default();
        let mut patient = Patient::new(sign(&pulse, 0));
        let seen: Vec<_> = (1..5).map(|ms| patient.check(sign(&pulse, ms))).collect();
        assert_eq!(seen, [Health::Well, Health::Stuck, Health::Stuck, Health::Stuck]);
        pulse.beat();
        assert_eq!(patient.check(sign(&pulse, 6)), Health::Well);
    }

    #[test]
    fn who_is_kept_by_the_kernel_is_blocked() {
        let pulse = Pulse::default();
        let mut patient = Patient::new(sign(&pulse, 0));
        // It ran until it was kept.
        let seen: Vec<_> = (0..3).map(|_| patient.check(sign(&pulse, 3))).collect();
        assert_eq!(seen, [Health::Well, Health::Well, Health::Blocked]);
        pulse.turn_over();
        assert_eq!(patient.check(sign(&pulse, 3)), Health::Well);
    }

    #[test]
    fn threads_come_and_go() {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        let thread = Thread { name: "one".into(), id, pulse: std::sync::Arc::default() };
        let mut watchdog = Watchdog::default();
        // This thread runs, and its pulse stands still.
        let well: Vec<_> = (0..3).map(|_| watchdog.check(std::slice::from_ref(&thread))).collect();
        assert_eq!(well, [true, true, false]);
        assert!(watchdog.check(&[]) && watchdog.patients.is_empty());
        assert!(watchdog.check(&[thread]), "begins anew");
    }
}
