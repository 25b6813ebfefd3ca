//! What another process, or a thread of this one, uses of the CPUs; to the nanosecond where the kernel says it so.

#![forbid(unsafe_code)]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest_tests::Usage;
use rustix::time::{ClockId, clock_gettime};

/// A process as of now.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Time on a CPU of all threads that live.
    pub cpu: Duration,
    /// How often they slept.
    pub switches: u64,
    /// When that was.
    pub at: Instant,
}

impl Peer {
    /// Reads it from `/proc`.
    ///
    /// # Errors
    /// When the process has gone, or is somebody else's.
    pub fn of(pid: u32) -> Result<Self> {
        let usage = Usage::of(pid).context("the device's process cannot be looked at")?;
        let exact: Option<Duration> = usage.threads.iter().map(|thread| scheduled(pid, thread.tid)).sum();
        Ok(Self { cpu: exact.unwrap_or(usage.cpu), switches: usage.voluntary_switches(), at: Instant::now() })
    }
}

/// Time of a thread on a CPU, if the kernel keeps such statistics: the first field, in nanoseconds.
fn scheduled(pid: u32, tid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Time of the calling thread on a CPU.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_thread_is_seen_from_inside_and_outside() {
        // Not of the whole process: other tests' threads end, and with them their time.
        let (pid, tid) = (std::process::id(), rustix::thread::gettid().as_raw_nonzero().get() as u32);
        let outside = || scheduled(pid, tid).unwrap_or_default();
        let before = (thread_cpu(), outside());
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(60) {}
        assert!(thread_cpu() - before.0 > Duration::from_millis(5));
        assert!(fs::metadata("/proc/self/schedstat").is_err() || outside() - before.1 > Duration::from_millis(5));
        assert!(Peer::of(pid).unwrap().cpu > Duration::from_millis(5));
    }
}
