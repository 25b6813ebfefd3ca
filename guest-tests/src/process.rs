//! Child processes that never outlive the test.
//!
//! Each child is killed when its guard is dropped, when its time is over, and by the kernel when the test program dies.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::lines::{Lines, NoLine, Stream};
use crate::patience::Patience;
use crate::spawn::{die_with_parent, spawn};

/// No child lives longer than this unless it was asked for.
pub const LIFETIME: Duration = Duration::from_secs(300);

/// How long a child may take to follow SIGTERM when nothing else is said.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long a child may take to be gone after SIGKILL: one of low priority waits for a processor even for that.
const KILLED: Duration = Duration::from_secs(60);

/// How a command ended and what it printed, on the host or in a guest.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 + N for a process ended by signal N.
    pub status: i32,
    /// What it printed to standard output.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that succeeded, else an error with all that is known.
    pub fn ok(self, what: &str) -> Result<String> {
        if self.status != 0 {
            bail!("`{what}` ended with status {}\n{}{}", self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// A running child process with its output.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Arc<Mutex<Child>>,
    lines: Lines,
    // Dropping it ends the watchdog thread.
    _watchdog: mpsc::Sender<()>,
}

impl Process {
    /// Starts `command`; its output is captured, its input is empty. It is killed after [`LIFETIME`].
    pub fn spawn(command: Command) -> Result<Self> {
        Self::spawn_for(command, LIFETIME)
    }

    /// Like [`Process::spawn`], but the process is killed after `lifetime`.
    pub fn spawn_for(mut command: Command, lifetime: Duration) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        die_with_parent(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command).with_context(|| format!("cannot start {name}"))?;
        let pid = child.id();
        let lines = Lines::default();
        let readers = [
            child.stdout.take().map(|pipe| read_lines(pipe, Stream::Out, lines.clone())),
            child.stderr.take().map(|pipe| read_lines(pipe, Stream::Err, lines.clone())),
        ];
        let log = lines.clone();
        thread::spawn(move || {
            for reader in readers.into_iter().flatten() {
                let _ = reader.join();
            }
            log.close();
        });
        let child = Arc::new(Mutex::new(child));
        let _watchdog = watch(child.clone(), lines.clone(), lifetime);
        Ok(Self { name, pid, child, lines, _watchdog })
    }

    /// Process id; it stays this process's until the guard is dropped or a wait returned its status.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Everything it printed.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Waits until a line that contains `text` was printed, and returns the line.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<String> {
        self.lines.wait_for(text, timeout).map_err(|why| {
            let why = match why {
                NoLine::TimedOut => format!("did not print within {timeout:?}"),
                NoLine::Closed => "ended without printing".into(),
            };
            anyhow!("{} {why}: \"{text}\"\n{}", self.name, self.tail())
        })
    }

    /// The exit status if it has ended.
    pub fn try_status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.lock().try_wait()?)
    }

    /// Waits until it ends by itself.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let mut patience = Patience::new(timeout);
        loop {
            if let Some(status) = self.try_status()? {
                // What it printed last is read before the status is told.
                let _ = self.lines.wait_closed(Duration::from_secs(1));
                return Ok(status);
            }
            if patience.is_over() {
                bail!("{} did not end within {timeout:?}\n{}", self.name, self.tail());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it ends by itself; how it ended and what it printed.
    pub fn wait_output(&self, timeout: Duration) -> Result<Output> {
        let status = exit_code(self.wait(timeout)?);
        Ok(Output { status, stdout: self.lines.text(Stream::Out), stderr: self.lines.text(Stream::Err) })
    }

    /// Sends a signal; a process that has ended gets none, and that is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = self.lock();
        if child.try_wait()?.is_none() {
            // Not waited for, so the id is still this child's.
            kill_process(Pid::from_child(&child), signal)?;
        }
        Ok(())
    }

    /// SIGTERM, then SIGKILL when it has not ended after [`GRACE`]. Returns how it ended.
    pub fn terminate(&self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(GRACE).or_else(|_| self.kill())
    }

    /// SIGKILL. Returns how it ended.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait(KILLED)
    }

    /// The last lines of both streams, for a failure message.
    pub fn tail(&self) -> String {
        let [out, err] = [Stream::Out, Stream::Err].map(|stream| self.lines.tail(stream, 40));
        format!("--- {0}: stdout\n{out}\n--- {0}: stderr\n{err}", self.name)
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The exit code as a shell tells it.
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn read_lines(pipe: impl Read + Send + 'static, stream: Stream, lines: Lines) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            lines.push(stream, String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
            line.clear();
        }
    })
}

/// Kills the child when its time is over; ends at once when the returned sender is dropped.
fn watch(child: Arc<Mutex<Child>>, lines: Lines, lifetime: Duration) -> mpsc::Sender<()> {
    let (sender, guard_dropped) = mpsc::channel();
    thread::spawn(move || {
        if guard_dropped.recv_timeout(lifetime) == Err(mpsc::RecvTimeoutError::Timeout) {
            lines.push(Stream::Err, format!("(killed by the harness after {lifetime:?})"));
            let _ = child.lock().unwrap_or_else(PoisonError::into_inner).kill();
        }
    });
    sender
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn output_and_status_are_kept() {
        let process = Process::spawn(shell("echo one; echo two >&2; exit 3")).unwrap();
        let output = process.wait_output(Duration::from_secs(10)).unwrap();
        assert_eq!((output.status, &*output.stdout, &*output.stderr), (3, "one\n", "two\n"));
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let process = thread::spawn(|| Process::spawn(shell("sleep 0.2; echo alive")).unwrap()).join().unwrap();
        process.wait_for_line("alive", Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_child_is_killed_when_its_time_is_over() {
        let process = Process::spawn_for(shell("exec sleep 60"), Duration::from_millis(50)).unwrap();
        assert_eq!(exit_code(process.wait(Duration::from_secs(10)).unwrap()), 128 + 9);
        assert!(process.lines().contains("killed by the harness"));
    }

    #[test]
    fn terminate_falls_back_to_kill_only_when_it_must() {
        let process = Process::spawn(shell("exec sleep 60")).unwrap();
        assert_eq!(exit_code(process.terminate().unwrap()), 128 + 15);
    }
}
