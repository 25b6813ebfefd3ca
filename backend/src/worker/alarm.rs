//! Ends a worker's wait in a write to an eventfd that a front end passed.
//!
//! Whether such a write waits is not this process's alone to say: all who have an eventfd share its `O_NONBLOCK`, and a front end
//! may have it run full. A signal ends the wait. So a thread that writes to eventfds has a timer (timer_create(2)) that sends
//! it one some time after its last write, at the latest; whatever else it does then is not disturbed (signal(7)).

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use rustix::io::Errno;

use super::clock::now;
use crate::mode::Time;

/// How long a write may wait, and how much later it may be ended.
const PATIENCE: Duration = Duration::from_millis(50);

/// Nobody else uses it.
const SIGNAL: Signal = Signal::SIGALRM;

thread_local! {
    static ALARM: RefCell<Option<Alarm>> = const { RefCell::new(None) };
}

/// The timer of a thread.
struct Alarm {
    timer: Timer,
    /// It is late enough until then.
    renewed_at: Time,
}

/// Gives this thread an alarm.
pub(super) fn install(name: &str) {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // No SA_RESTART: the write is not to go on.
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, and nobody else has one for this signal.
        if let Err(e) = unsafe { sigaction(SIGNAL, &action) } {
            tracing::warn!("workers have no alarm: {e}");
        }
    });
    let thread_id = rustix::thread::gettid().as_raw_nonzero().get();
    let notify = SigevNotify::SigevThreadId { signal: SIGNAL, thread_id, si_value: 0 };
    match Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify)) {
        Ok(timer) => ALARM.set(Some(Alarm { timer, renewed_at: Time::default() })),
        Err(e) => tracing::warn!(worker = name, "it has no alarm: {e}"),
    }
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Writes to an eventfd; says whether that was done without waiting.
pub(super) fn signal(eventfd: impl AsFd) -> bool {
    renew();
    // It fails when the counter is full (the other side has not looked yet) or the front end passed no eventfd.
    rustix::io::write(eventfd, &1u64.to_ne_bytes()) != Err(Errno::INTR)
}

/// A write that begins now is ended if it waits.
fn renew() {
    ALARM.with_borrow_mut(|alarm| {
        let Some(Alarm { timer, renewed_at }) = alarm else { return };
        let now = now();
        if now.duration_since(*renewed_at) >= PATIENCE {
            let due = Expiration::OneShot(TimeSpec::from_duration(2 * PATIENCE));
            if timer.set(due, TimerSetTimeFlags::empty()).is_ok() {
                *renewed_at = now;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_write_that_waits_is_ended_again_and_again() {
        install("test");
        let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        for _ in 0..3 {
            let start = Instant::now();
            assert!(!signal(&full), "it waited");
            assert!(start.elapsed() >= PATIENCE / 2);
        }
        rustix::io::read(&full, &mut [0; 8]).unwrap();
        assert!(signal(&full));
    }
}
