//! Writes to eventfds that a front end passed, without waiting for long.
//!
//! Whether such a write waits is not this process's alone to say: all who have an eventfd share its `O_NONBLOCK`, and a front end
//! may have it run full. A signal ends the wait. So a thread that writes to eventfds has a timer (timer_create(2)) that sends
//! it one some time after its last write, at the latest; whatever else it does then is not disturbed (signal(7)).

#![allow(unsafe_code)]

use std::cell::Cell;
use std::mem::zeroed;
use std::os::fd::AsFd;
use std::ptr::null_mut;
use std::sync::Once;
use std::time::Duration;

use rustix::io::Errno;

use super::clock::now;
use crate::mode::Time;

/// How long a write may wait, and how much later it may be ended.
const PATIENCE: Duration = Duration::from_millis(50);

/// Nobody else uses it.
const SIGNAL: libc::c_int = libc::SIGALRM;

/// The alarm of a thread.
struct Alarm {
    timer: Cell<Option<libc::timer_t>>,
    /// It comes soon enough for a while from then on.
    renewed_at: Cell<Time>,
    is_writing: Cell<bool>,
}

thread_local! {
    // Nothing to be dropped: a signal handler may look at it at any time.
    static ALARM: Alarm = const {
        Alarm { timer: Cell::new(None), renewed_at: Cell::new(Time::from_nanos(0)), is_writing: Cell::new(false) }
    };
}

/// Gives this thread an alarm.
pub(super) fn install(name: &str) {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(install_handler);
    // SAFETY: all-zero is a valid sigevent, whose fields are numbers.
    let mut event: libc::sigevent = unsafe { zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = SIGNAL;
    event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
    let mut timer: libc::timer_t = null_mut();
    // SAFETY: the event is read, and the timer written, during the call only.
    let status = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    if status == 0 {
        ALARM.with(|alarm| alarm.timer.set(Some(timer)));
    } else {
        tracing::warn!(worker = name, "it has no alarm: {}", std::io::Error::last_os_error());
    }
}

/// Takes this thread's alarm away, at its end.
pub(super) fn remove() {
    if let Some(timer) = ALARM.with(|alarm| alarm.timer.take()) {
        // SAFETY: the timer was made by `install` and is known to nobody any more.
        unsafe { libc::timer_delete(timer) };
    }
}

fn install_handler() {
    // SAFETY: all-zero is a valid sigaction: no flags, so that a call that is interrupted is not begun again (SA_RESTART).
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the action is complete, and its handler makes only calls that are allowed in one.
    if unsafe { libc::sigaction(SIGNAL, &raw const action, null_mut()) } != 0 {
        tracing::warn!("workers have no alarm: {}", std::io::Error::last_os_error());
    }
}

/// Runs on the thread whose alarm it is. A write that has not begun yet, for its thread had no CPU, is ended by the next signal.
extern "C" fn on_signal(_signal: libc::c_int) {
    ALARM.with(|alarm| {
        if alarm.is_writing.get() {
            set(alarm.timer.get());
        }
    });
}

/// Has the signal come after twice the patience. Signal-safe (signal-safety(7)).
fn set(timer: Option<libc::timer_t>) -> bool {
    let Some(timer) = timer else { return false };
    let nanos = 2 * PATIENCE.as_nanos() as libc::c_long;
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let due = libc::itimerspec { it_interval: none, it_value: libc::timespec { tv_sec: 0, tv_nsec: nanos } };
    // SAFETY: the timer is this thread's own and there until `remove`; the time is read during the call only.
    let status = unsafe { libc::timer_settime(timer, 0, &raw const due, null_mut()) };
    status == 0
}

/// Writes to an eventfd; says whether that was done without waiting.
pub(super) fn signal(eventfd: impl AsFd) -> bool {
    ALARM.with(|alarm| {
        let now = now();
        if now.duration_since(alarm.renewed_at.get()) >= PATIENCE && set(alarm.timer.get()) {
            alarm.renewed_at.set(now);
        }
        alarm.is_writing.set(true);
        // It fails when the counter is full (the other side has not looked yet) or the front end passed no eventfd.
        let written = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        alarm.is_writing.set(false);
        written != Err(Errno::INTR)
    })
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
        remove();
    }
}
