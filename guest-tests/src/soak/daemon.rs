//! A daemon with all devices of the soak, which ends and is started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::control::Control;
use crate::netns::NetNs;
use crate::patience::Patience;
use crate::process::{Process, exit_code};
use crate::usage::Usage;

/// How long it may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) name: &'static str,
    ns: NetNs,
    program: PathBuf,
    dir: PathBuf,
    lifetime: Duration,
    listeners: usize,
    process: Option<Process>,
    door: Door,
}

/// How to reach it, for another thread.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// The program that speaks with it.
    pub(super) vnicctl: PathBuf,
    /// Its control socket.
    pub(super) control: PathBuf,
    /// Changes when it ends, and when it is there again; odd while it is there.
    lives: Arc<AtomicU64>,
}

impl Door {
    /// Which of its lives it is in; none when it is not there.
    pub(super) fn life(&self) -> Option<u64> {
        let life = self.lives.load(Ordering::SeqCst);
        (life % 2 == 1).then_some(life)
    }
}

impl Daemon {
    /// Starts one: `a` has a worker for each pair, and a device that connects to testpmd; `b` has one for each CPU.
    pub(super) fn start(
        name: &'static str,
        ns: &NetNs,
        dir: &Path,
        program: &Path,
        lifetime: Duration,
    ) -> Result<Self> {
        let state = dir.join(name);
        fs::create_dir(&state)?;
        let threads = if name == "a" { "per-pair" } else { "per-cpu" };
        let (at, control) = (|file: &str| dir.join(format!("{name}-{file}")), dir.join(format!("{name}.control")));
        let mut config = format!("control = {control:?}\nstate-dir = {state:?}\n");
        let mut device = |name: &str, socket: PathBuf, uplink: &str, rest: &str| {
            config += &format!("[[device]]\nname = {name:?}\nsocket-path = {socket:?}\nuplink = {uplink:?}\n{rest}\n");
        };
        let rest = |pairs: u16| format!("queue-pairs = {pairs}\nthreads = {threads:?}");
        device("one", at("one.sock"), &format!("tap={name}-one,bridge=br0"), &rest(2));
        device("two", at("two.sock"), &format!("tap={name}-two,bridge=br0"), &rest(4));
        device("loop", at("loop.sock"), "loopback", &rest(2));
        if name == "a" {
            device("echo", dir.join("echo.sock"), "tap=echo", "client = true\nqueue-pairs = 1");
        }
        fs::write(at("config.toml"), config)?;
        let door = Door { vnicctl: program.with_file_name("vnicctl"), control, lives: Arc::default() };
        let (program, dir) = (program.to_owned(), dir.to_owned());
        let mut daemon = Self { name, ns: ns.clone(), program, dir, lifetime, listeners: 3, process: None, door };
        daemon.begin()?;
        Ok(daemon)
    }

    /// Starts it again after it has ended.
    pub(super) fn begin(&mut self) -> Result<()> {
        let mut command = self.ns.command(&self.program);
        command.arg("--config").arg(self.dir.join(format!("{}-config.toml", self.name)));
        let process = Process::spawn_for(command, self.lifetime)?;
        let mut patience = Patience::new(PATIENCE);
        let listeners = || process.lines().all().iter().filter(|line| line.contains("listening on")).count();
        while listeners() < self.listeners {
            if patience.is_over() || process.try_status()?.is_some() {
                bail!("daemon {} does not listen\n{}", self.name, process.tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.process = Some(process);
        self.door.lives.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Kills it.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.check()?;
        self.door.lives.fetch_add(1, Ordering::SeqCst);
        self.process()?.kill()?;
        self.no_errors()
    }

    /// Has it end in order.
    pub(super) fn terminate(&mut self) -> Result<()> {
        self.check()?;
        self.door.lives.fetch_add(1, Ordering::SeqCst);
        let process = self.process()?;
        process.signal(crate::Signal::TERM)?;
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "daemon {} ended with {}\n{}", self.name, exit_code(status), process.tail());
        self.no_errors()
    }

    /// Fails unless it lives, has printed no error, and has broken no ring.
    pub(super) fn check(&self) -> Result<()> {
        let process = self.process()?;
        if let Some(status) = process.try_status()? {
            bail!("daemon {} ended by itself with {}\n{}", self.name, exit_code(status), process.tail());
        }
        self.no_errors()?;
        let broken = self.sum("rings_broken")?;
        ensure!(broken == 0, "daemon {} has broken {broken} rings\n{}", self.name, process.tail());
        Ok(())
    }

    /// A counter of all its queues together.
    pub(super) fn sum(&self, counter: &str) -> Result<u64> {
        let status = Control::connect(&self.door.control)?.call("status", json!({}))?;
        let pairs = status["devices"].as_array().into_iter().flatten().filter_map(|device| device["pairs"].as_array());
        Ok(pairs.flatten().filter_map(|pair: &Value| pair["counters"][counter].as_u64()).sum())
    }

    /// What it uses now.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.process()?.pid())
    }

    /// How to reach it.
    pub(super) fn door(&self) -> Door {
        self.door.clone()
    }

    /// Lines that it printed last.
    pub(super) fn tail(&self) -> String {
        self.process.as_ref().map_or_else(|| "not there".into(), Process::tail)
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("daemon {} is not there", self.name))
    }

    fn no_errors(&self) -> Result<()> {
        let process = self.process()?;
        let wrong = |line: &String| line.contains("ERROR") || line.contains("panicked");
        match process.lines().all().into_iter().find(wrong) {
            Some(line) => bail!("daemon {} says: {line}\n{}", self.name, process.tail()),
            None => Ok(()),
        }
    }
}
