//! Real-time priority (sched(7)) for threads of the daemon, which has no right to it.

#![allow(unsafe_code)]

use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// Why threads have no real-time priority.
#[derive(Debug, thiserror::Error)]
pub(super) enum RealtimeError {
    /// The right is missing, or the control group has none to give.
    #[error(
        "no right to the real-time priority {0}: start vnicd with CAP_SYS_NICE, or with a limit that allows it (ulimit -r \
         {0}; systemd: LimitRTPRIO={0}, RestrictRealtime=no); if it has that, its control group has no real-time \
         (cpu.rt_runtime_us)"
    )]
    Rights(u8),
    /// It is no thread of the daemon's.
    #[error("{0} is no thread of the daemon")]
    Stranger(i32),
    /// Anything else.
    #[error("cannot set the real-time priority {0}: {1}")]
    Kernel(u8, io::Error),
}

/// Whether this process may give others `priority`: it takes that for a moment.
pub(super) fn try_priority(priority: u8) -> Result<(), RealtimeError> {
    set(0, libc::SCHED_FIFO, priority)?;
    set(0, libc::SCHED_OTHER, 0)
}

/// Gives a thread of the process `daemon` this priority, from 1 to 99: first in, first out. Whatever it starts has none.
pub(super) fn prioritize(daemon: u32, thread: i32, priority: u8) -> Result<(), RealtimeError> {
    let path: PathBuf = ["/proc", &daemon.to_string(), "task", &thread.to_string()].iter().collect();
    let is_daemons = || thread > 0 && path.exists();
    if !is_daemons() {
        return Err(RealtimeError::Stranger(thread));
    }
    set(thread, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, priority)?;
    // One that ended meanwhile may have left its number to a stranger.
    if !is_daemons() {
        let _ = set(thread, libc::SCHED_OTHER, 0);
        return Err(RealtimeError::Stranger(thread));
    }
    Ok(())
}

fn set(thread: i32, policy: i32, priority: u8) -> Result<(), RealtimeError> {
    let param = libc::sched_param { sched_priority: priority.into() };
    // SAFETY: the parameters are read only, and live until the call returns.
    if unsafe { libc::sched_setscheduler(thread, policy, &raw const param) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.kind() {
        ErrorKind::PermissionDenied => RealtimeError::Rights(priority),
        _ => RealtimeError::Kernel(priority, error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_s_thread_is_touched() {
        for thread in [0, -1, 1, i32::MAX] {
            assert!(matches!(prioritize(std::process::id(), thread, 1), Err(RealtimeError::Stranger(_))), "{thread}");
        }
    }
}
