//! The back ends that are compared, all of them started once, one at a time at work.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use guest_tests::testpmd::Console;
use guest_tests::{NetNs, Vnicd};
use tempfile::TempDir;

use crate::loadgen::{self, DriverConfig, Outcome, RunConfig, SessionConfig};
use crate::testpmd::{Memory, Testpmd, wait_for};

/// No back end lives longer.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Who serves the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The daemon, asleep whenever it finds nothing.
    Interrupt,
    /// The daemon, never asleep.
    Polling,
    /// The daemon, whose governor chooses.
    Auto,
    /// DPDK's testpmd with its vhost PMD, never asleep.
    Testpmd,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Interrupt, Self::Polling, Self::Auto, Self::Testpmd];
    /// Those that are the daemon.
    pub const DAEMONS: [Self; 3] = [Self::Interrupt, Self::Polling, Self::Auto];

    /// Its name, which is that of the daemon's mode.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Polling => "polling",
            Self::Auto => "auto",
            Self::Testpmd => "testpmd",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The CPU of the client and that of whatever serves it.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    /// The client's.
    pub client: usize,
    /// The back end's.
    pub back_end: usize,
}

/// All subjects, waiting for a client. They are killed when this value is dropped.
#[derive(Debug)]
pub struct Lab {
    /// Where they run.
    pub cpus: Cpus,
    daemons: Vec<Vnicd>,
    testpmd: Console,
    testpmd_socket: PathBuf,
    _dir: TempDir,
}

impl Lab {
    /// Starts them.
    pub fn start(cpus: Cpus, memory: Memory) -> Result<Self> {
        let (ns, dir) = (NetNs::new()?, tempfile::tempdir()?);
        let cpu = cpus.back_end.to_string();
        let daemon = |subject: Subject| {
            let vnicd = Vnicd::builder(&ns).uplink("loopback").control().lifetime(LIFETIME);
            let args = ["--mode", subject.name(), "--queue-pairs", "1", "--cpus", &cpu, "--log", "warn"];
            vnicd.args(args).start().with_context(|| format!("vnicd --mode {subject}"))
        };
        let daemons = Subject::DAEMONS.into_iter().map(daemon).collect::<Result<_>>()?;
        let testpmd_socket = dir.path().join("vhost.sock");
        let testpmd = testpmd(&ns, dir.path(), &testpmd_socket, cpus.back_end, memory)?;
        Ok(Self { cpus, daemons, testpmd, testpmd_socket, _dir: dir })
    }

    /// The daemon that is a subject; testpmd is none.
    pub fn daemon(&self, subject: Subject) -> Result<&Vnicd> {
        self.daemons.get(subject as usize).with_context(|| format!("{subject} is no daemon"))
    }

    /// All processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.daemons.iter().map(Vnicd::pid).chain([self.testpmd.process().pid()]).collect()
    }

    /// Drives a subject. The others sleep: a daemon without a front end polls nothing.
    pub fn run(&mut self, subject: Subject, driver: DriverConfig) -> Result<Outcome> {
        let cpus = vec![self.cpus.client];
        let run = |socket: &Path| loadgen::run(&RunConfig { session: SessionConfig::new(socket), driver, cpus });
        if subject != Subject::Testpmd {
            let daemon = self.daemon(subject)?;
            return run(daemon.socket()).map_err(|e| anyhow!("{subject}: {e:#}\n{}", daemon.log().join("\n")));
        }
        self.testpmd.run("start")?;
        let outcome = run(&self.testpmd_socket);
        self.testpmd.run("stop")?;
        outcome.map_err(|e| anyhow!("{subject}: {e:#}\n{}", self.testpmd.process().tail()))
    }
}

/// A testpmd that will return every frame with its MAC addresses swapped, as the daemon's uplink does.
fn testpmd(ns: &NetNs, dir: &Path, socket: &Path, cpu: usize, memory: Memory) -> Result<Console> {
    let testpmd = Testpmd {
        ns,
        dir,
        name: "back-end",
        cpu,
        memory,
        devices: vec![format!("net_vhost0,iface={},queues=1", socket.display())],
        eal: Vec::new(),
        options: vec!["--total-num-mbufs=16384".into()],
        lifetime: LIFETIME,
    };
    let mut console = testpmd.start()?;
    console.run("set fwd macswap")?;
    wait_for(socket)?;
    Ok(console)
}
