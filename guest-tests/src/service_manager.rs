//! Stands in for a service manager: what systemd gives a service in its environment, and what the service tells it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::spawn::pass_fd;
use crate::vnicd::binary;
use crate::{NetNs, Process};

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST_FD: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// A service manager.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    dir: TempDir,
    waiting: VecDeque<String>,
    watchdog: Option<Duration>,
    sockets: Vec<(OwnedFd, String)>,
}

impl ServiceManager {
    /// One that only listens.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vnicd-test-").tempdir()?;
        let socket = UnixDatagram::bind(dir.path().join("notify"))?;
        Ok(Self { socket, dir, waiting: VecDeque::new(), watchdog: None, sockets: Vec::new() })
    }

    /// Wants a sign of life in each `interval` (`WatchdogSec=`).
    pub fn watchdog(mut self, interval: Duration) -> Self {
        self.watchdog = Some(interval);
        self
    }

    /// Passes a socket of this name (`FileDescriptorName=`).
    pub fn socket(mut self, socket: impl Into<OwnedFd>, name: &str) -> Self {
        self.sockets.push((socket.into(), name.into()));
        self
    }

    /// Starts the daemon in `ns` with these arguments.
    pub fn start(&mut self, ns: &NetNs, args: &[&str]) -> Result<Process> {
        let mut command = if self.sockets.is_empty() { ns.command(binary()?) } else { self.activated(ns)? };
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify")).args(args);
        if let Some(interval) = self.watchdog {
            command.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        Process::spawn(command)
    }

    /// The daemon with the sockets; options are still to be added.
    fn activated(&mut self, ns: &NetNs) -> Result<Command> {
        // The id is known to the process itself alone, before it becomes the daemon.
        let mut command = ns.command("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(binary()?);
        let names: Vec<_> = self.sockets.iter().map(|(_, name)| name.as_str()).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        // One passed descriptor may be open where another is to be: out of the way first.
        for (number, (socket, _)) in (FIRST_FD..).zip(self.sockets.drain(..)) {
            let socket = rustix::io::fcntl_dupfd_cloexec(&socket, 100)?;
            pass_fd(&mut command, socket, number);
        }
        Ok(command)
    }

    /// The next thing that the daemon tells; none if it tells nothing for so long.
    pub fn next_within(&mut self, time: Duration) -> Result<Option<String>> {
        if self.waiting.is_empty() {
            self.socket.set_read_timeout(Some(time))?;
            let mut bytes = [0; 4096];
            match self.socket.recv(&mut bytes) {
                Ok(len) => self.waiting.extend(std::str::from_utf8(&bytes[..len])?.lines().map(String::from)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.waiting.pop_front())
    }

    /// The next thing that the daemon tells must be this.
    pub fn expect(&mut self, told: &str) -> Result<()> {
        let next = self.next_within(PATIENCE)?.with_context(|| format!("not told {told}"))?;
        ensure!(next == told, "told {next}, not {told}");
        Ok(())
    }

    /// Waits until the daemon has given so many signs of life from now on.
    pub fn expect_signs(&mut self, count: usize) -> Result<()> {
        while self.next_within(Duration::from_millis(1))?.is_some() {}
        (0..count).try_for_each(|_| self.expect("WATCHDOG=1"))
    }

    /// Waits until the daemon gives no sign of life any more for so long.
    pub fn expect_silence(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while self.next_within(time)?.is_some() {
            if start.elapsed() > PATIENCE {
                bail!("it goes on to give signs of life");
            }
        }
        Ok(())
    }
}
