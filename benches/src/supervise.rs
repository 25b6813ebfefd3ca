//! Runs the program's work in a process of its own and takes everything down that it leaves, however it ends.
//!
//! Work that boots guests cannot clean up in a signal handler, and a panic in a release build runs no destructor. So
//! the program starts itself once more: the child, the *worker*, does the work; the parent waits. When the worker ends,
//! or SIGINT, SIGTERM or SIGHUP comes, the parent kills whatever of the worker's processes is left, waits until all are
//! gone (namespaces and TAPs go with them) and removes the one directory that holds every temporary file.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use guest_tests::spawn::die_with_parent;
use rustix::process::{Pid, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Tells the worker that it is one.
const WORKER: &str = "BENCHES_WORKER";

/// How long killed processes may take to go.
const GONE: Duration = Duration::from_secs(20);

/// Does `work` in a worker. `name` begins the name of the temporary directory.
pub fn supervised(name: &str, work: impl FnOnce() -> Result<()>) -> ExitCode {
    let result = if std::env::var_os(WORKER).is_some() { work().map(|()| 0) } else { supervise(name) };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the exit code as a shell tells it.
fn supervise(name: &str) -> Result<u8> {
    // Before the worker is there, so that no signal is missed.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGTERM])?;
    // The worker's orphans become children of this process, which can see and end them.
    set_child_subreaper(Some(getpid()))?;
    let scratch = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(WORKER, "1").env("TMPDIR", scratch.path());
    die_with_parent(&mut command);
    let mut worker = command.spawn().context("cannot start the worker")?;

    let ended = wait_for(&mut worker, &mut signals);
    end_children()?;
    scratch.close().context("cannot remove the temporary directory")?;
    Ok(match ended? {
        Ended::Worker(status) => {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            code.try_into().unwrap_or(1)
        }
        Ended::Signal(signal) => {
            eprintln!("{name}: interrupted; everything was taken down");
            128 + u8::try_from(signal).unwrap_or(0)
        }
    })
}

enum Ended {
    Worker(ExitStatus),
    Signal(i32),
}

fn wait_for(worker: &mut Child, signals: &mut Signals) -> Result<Ended> {
    for signal in signals.forever() {
        if signal != SIGCHLD {
            worker.kill()?;
            worker.wait()?;
            return Ok(Ended::Signal(signal));
        }
        if let Some(status) = worker.try_wait()? {
            // A terminal's Ctrl-C reaches the worker as well.
            return Ok(match status.signal() {
                Some(SIGINT) => Ended::Signal(SIGINT),
                _ => Ended::Worker(status),
            });
        }
    }
    bail!("signals are no longer told")
}

/// Kills all children, and theirs as they become children, and waits until they are gone.
fn end_children() -> Result<()> {
    let start = Instant::now();
    loop {
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        let children = children()?;
        if children.is_empty() {
            return Ok(());
        }
        if start.elapsed() > GONE {
            bail!("processes do not end: {children:?}");
        }
        for child in children {
            // One that has ended meanwhile is a zombie until the next round.
            let _ = kill_process(child, rustix::process::Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn children() -> Result<Vec<Pid>> {
    let own = std::process::id();
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes end while they are listed.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if parent(&stat) == Some(own) {
            children.extend(Pid::from_raw(pid));
        }
    }
    Ok(children)
}

/// The parent in a `stat` file: the second field after the name, which may hold blanks and parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_its_parent() {
        assert_eq!(parent("17 (a) b) S 12 17 17 0"), Some(12));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children().unwrap().iter().any(|pid| pid.as_raw_nonzero().get() as u32 == child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
