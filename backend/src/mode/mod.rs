//! When a worker sleeps and when it looks again: the governor of a queue pair, a pure state machine.
//!
//! It is told what a round saw and what time it is, and answers what to do next. It does no input or output, reads no
//! clock and allocates nothing. `docs/modes.md` explains the rules and the settings.
//!
//! Three words are used everywhere in one sense. *Waiting*: kicks armed, worker asleep. *Draining*: woken, kicks off,
//! bursts until a round finds nothing more to move. *Polling*: kicks stay off across empty rounds. A pair in
//! [`Mode::Interrupt`] waits and drains, one in [`Mode::Polling`] polls. A *switch* is a change of mode, not a drain.
//!
//! virtio 1.3, 2.7.10 and 2.8.10 (used buffer and available buffer notification suppression) are what "kicks off" and
//! "kicks armed" mean to a driver; the rings carry it out.

#![forbid(unsafe_code)]

mod governor;
mod limiter;
mod overrides;
mod policy;
mod rate;
mod report;
#[cfg(test)]
mod sim;
mod starvation;
mod state;
mod time;
mod window;

pub use governor::Governor;
pub use overrides::{ModeError, Order};
pub use policy::{Mode, Policy, PolicyError, Setting};
pub use report::{Cause, Direction, Report, Uplink, Usage, Verdict, Way};
pub use state::{Activity, Reason, State, Switch};
pub use time::Time;

/// The policy of tests whose traffic is laid out for these thresholds.
#[cfg(test)]
fn test_policy() -> Policy {
    Policy { enter_pps: 50_000, leave_pps: 25_000, gather_us: 0, ..Policy::default() }
}
