//! Starts the daemon under test.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::assets;
use crate::control::Control;
use crate::lab::eventually;
use crate::netns::NetNs;
use crate::patience::Patience;
use crate::process::{LIFETIME, Output, Process};
use crate::spawn::pass_fd;
use crate::usage::{Spent, Usage};
use crate::watch::Watch;

/// How long the daemon may take until it listens.
const START: Duration = Duration::from_secs(10);
/// Name of the control socket in the daemon's directory.
const CONTROL: &str = "control";

/// How to start a daemon; see [`Vnicd::builder`].
#[derive(Debug)]
pub struct VnicdBuilder<'a> {
    ns: &'a NetNs,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    uplink: Option<String>,
    socket: Option<PathBuf>,
    client: bool,
    control: bool,
    user: Option<u32>,
    fds: Vec<(OwnedFd, RawFd)>,
    lifetime: Duration,
}

/// A running daemon; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Vnicd {
    process: Process,
    socket: PathBuf,
    dir: TempDir,
}

impl Vnicd {
    /// A daemon inside `ns` with a socket in a directory of its own and `--uplink tap=tap0`.
    pub fn builder(ns: &NetNs) -> VnicdBuilder<'_> {
        VnicdBuilder {
            ns,
            args: Vec::new(),
            env: Vec::new(),
            uplink: Some("tap=tap0".into()),
            socket: None,
            client: false,
            control: false,
            user: None,
            fds: Vec::new(),
            lifetime: LIFETIME,
        }
    }

    /// The path given as `--socket-path`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A directory that lives as long as this value, for a control socket or a configuration file.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process: signals, waits, output.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// All that it printed so far, in order.
    pub fn log(&self) -> Vec<String> {
        self.process.lines().all()
    }

    /// Its control socket, if it has one ([`VnicdBuilder::control`]).
    pub fn control_path(&self) -> PathBuf {
        self.dir.path().join(CONTROL)
    }

    /// Connects to its control socket.
    pub fn control(&self) -> Result<Control> {
        Control::connect(&self.control_path())
    }

    /// `vnicctl` with these arguments, on its control socket; it runs until it is told to stop.
    pub fn spawn_vnicctl(&self, args: &[&str]) -> Result<Process> {
        vnicctl(&self.control_path(), args)
    }

    /// What `vnicctl` does with these arguments.
    pub fn vnicctl(&self, args: &[&str]) -> Result<Output> {
        self.spawn_vnicctl(args)?.wait_output(START)
    }

    /// What `vnicctl status --json` shows, for a daemon with a control socket.
    pub fn status(&self) -> Result<Value> {
        status(&self.control_path())
    }

    /// Connects to its control socket to look at modes and counters.
    pub fn watch(&self) -> Result<Watch> {
        Watch::connect(&self.control_path())
    }

    /// A counter of each queue pair of the only device.
    pub fn counters(&self, name: &str) -> Result<Vec<u64>> {
        let status = self.status()?;
        let pairs = status["devices"][0]["pairs"].as_array().context("no device")?;
        pairs.iter().map(|pair| pair["counters"][name].as_u64().with_context(|| format!("no {name}"))).collect()
    }

    /// Waits until a line that contains `text` was printed.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<String> {
        self.process.wait_for_line(text, timeout)
    }

    /// CPU time (in all and by thread), voluntary switches, private memory, descriptors and threads as of now.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid())
    }

    /// What it does in the next `time`.
    pub fn spends_in(&self, time: Duration) -> Result<Spent> {
        let before = self.usage()?;
        std::thread::sleep(time);
        Ok(self.usage()?.since(&before))
    }

    /// Waits until so many front ends in all are gone, and says how many file descriptors it has then.
    pub fn idle_fds(&self, connections: usize) -> Result<usize> {
        let gone = || self.log().iter().filter(|line| line.contains("front end gone")).count();
        eventually("the front end is let go of", || Ok(gone() >= connections))?;
        // The line comes just before the socket is closed.
        self.settled_fds()
    }

    /// How many file descriptors it has when it closes no more of them.
    pub fn settled_fds(&self) -> Result<usize> {
        Usage::settled_fds(self.pid())
    }

    /// SIGTERM, then SIGKILL if need be; how it ended.
    pub fn terminate(&self) -> Result<ExitStatus> {
        self.process.terminate()
    }

    /// SIGKILL; how it ended.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.process.kill()
    }
}

impl VnicdBuilder<'_> {
    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Another `--uplink` than `tap=tap0`.
    pub fn uplink(mut self, spec: impl Into<String>) -> Self {
        self.uplink = Some(spec.into());
        self
    }

    /// Leaves `--uplink` out.
    pub fn default_uplink(mut self) -> Self {
        self.uplink = None;
        self
    }

    /// A socket at a path of the caller's, so that a second daemon can take the place of a first.
    pub fn socket_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Adds `--client`: the front end listens at the socket path, and the start does not wait for a socket.
    pub fn client(mut self) -> Self {
        self.client = true;
        self
    }

    /// Adds a control socket, for [`Vnicd::status`].
    pub fn control(mut self) -> Self {
        self.control = true;
        self
    }

    /// Leaves `fd` open in it, as descriptor `number`.
    pub fn pass_fd(mut self, fd: OwnedFd, number: RawFd) -> Self {
        self.fds.push((fd, number));
        self
    }

    /// Runs it as this user and group, without any capability.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// How long it may run at most.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Result<Vnicd> {
        let dir = tempfile::Builder::new().prefix("vnicd-test-").tempdir()?;
        let socket = self.socket.unwrap_or_else(|| dir.path().join("vnicd.sock"));
        let mut command = match self.user {
            None => self.ns.command(binary()?),
            Some(id) => {
                chown(dir.path(), Some(id), Some(id))?;
                unprivileged(self.ns, id)?
            }
        };
        command.arg("--socket-path").arg(&socket).envs(self.env);
        if let Some(uplink) = self.uplink {
            command.arg("--uplink").arg(uplink);
        }
        if self.client {
            command.arg("--client");
        }
        if self.control {
            command.arg("--control").arg(dir.path().join(CONTROL));
        }
        // What says that the uplink is open, too, unless it is told not to.
        let silent = self.args.iter().any(|arg| arg == "--log");
        command.args(self.args);
        for (fd, number) in self.fds {
            pass_fd(&mut command, fd, number);
        }
        let process = Process::spawn_for(command, self.lifetime)?;
        let vnicd = Vnicd { process, socket, dir };
        if !self.client {
            vnicd.wait_until_listening(silent)?;
        }
        Ok(vnicd)
    }
}

impl Vnicd {
    fn wait_until_listening(&self, silent: bool) -> Result<()> {
        let mut patience = Patience::new(START);
        let says_so = || silent || self.process.lines().contains("listening on");
        while !(listens(self.pid(), &self.socket) && says_so()) {
            if self.process.try_status()?.is_some() {
                // Collects what it printed last.
                let status = self.process.wait(Duration::from_secs(1))?;
                bail!("vnicd ended ({status}) before it listened\n{}", self.process.tail());
            }
            if patience.is_over() {
                bail!("vnicd does not listen on {} after {START:?}\n{}", self.socket.display(), self.process.tail());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Whether a socket listens at the path, as seen in the process's network namespace. Being there is not enough: between
/// bind and listen a connection is refused.
fn listens(pid: u32, socket: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let Ok(table) = fs::read_to_string(format!("/proc/{pid}/net/unix")) else {
        return false;
    };
    let path = socket.to_string_lossy();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some(ACCEPTS) && fields.nth(3) == Some(&path)
    })
}

/// The daemon as a user and group without any capability, in a namespace; options are still to be added.
pub fn unprivileged(ns: &NetNs, id: u32) -> Result<Command> {
    let mut command = ns.command("setpriv");
    // Another user means another life: the tie to this program's must be made anew.
    command.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--pdeathsig=KILL"]);
    command.args([format!("--reuid={id}"), format!("--regid={id}")]).arg(binary()?);
    Ok(command)
}

/// What `vnicctl status --json` shows of the daemon with this control socket.
pub fn status(control: &Path) -> Result<Value> {
    let printed = vnicctl(control, &["status", "--json"])?.wait_output(START)?.ok("vnicctl status")?;
    Ok(serde_json::from_str(&printed)?)
}

fn vnicctl(control: &Path, args: &[&str]) -> Result<Process> {
    let mut command = Command::new(binary()?.with_file_name("vnicctl"));
    command.arg("--control").arg(control).args(args);
    Process::spawn(command)
}

/// The daemon's binary: `VNICD`, else `vnicd` beside the test programs.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("VNICD") {
        return Ok(path.into());
    }
    assets::built("vnicd").context("build it with `cargo build`, or say where it is with VNICD")
}
