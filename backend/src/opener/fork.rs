//! fork(2).

#![allow(unsafe_code)]

use std::io;

use rustix::process::Pid;

/// Makes a second process of this one: gives its number here, and nothing there.
///
/// # Errors
/// When the kernel gives none, or this process has more than one thread.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(io::Error::other("a thread runs already"));
    }
    // SAFETY: no other thread runs that could hold a lock or be in the middle of anything, so the new process finds
    // everything whole.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Some).ok_or_else(io::Error::last_os_error),
    }
}
