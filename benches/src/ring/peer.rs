//! The two back ends that are compared, each on its core, and what they tell of their work.

use std::path::Path as FilePath;
use std::time::Duration;

use anyhow::{Result, anyhow};
use guest_tests::testpmd::Console;
use guest_tests::{NetNs, Vnicd};
use serde_json::Value;

use super::cases::{Case, Path};
use super::work::{Efficiency, Work};
use crate::testpmd::{BACK_END_CPU, Forwarded, Memory, Testpmd, wait_for};

/// How the daemon is told not to sleep, and to sleep.
const POLLING: [&str; 2] = ["--mode", "polling"];
const INTERRUPT: [&str; 2] = ["--mode", "interrupt"];

/// No back end lives longer.
pub(super) const LIFETIME: Duration = Duration::from_secs(180);

/// Who serves the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The daemon.
    Vnicd,
    /// The daemon when it drops frames without a look at their bytes, as the other one does.
    VnicdUnread,
    /// testpmd's net_vhost.
    Testpmd,
}

/// What the daemon at hand knows; one named by `VNICD` may be older than this program.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    /// `--mode`.
    pub modes: bool,
    /// `--uplink discard,unread`.
    pub unread: bool,
    /// `--uplink generate`.
    pub generate: bool,
}

impl Daemon {
    /// Tries it.
    pub fn probe(ns: &NetNs) -> Result<Self> {
        let start = |uplink: &str, args: &[&str]| Vnicd::builder(ns).uplink(uplink).args(args.to_vec()).start();
        start("discard", &[])?;
        Ok(Self {
            modes: start("discard", &POLLING).is_ok(),
            unread: start("discard,unread", &[]).is_ok(),
            generate: start("generate", &[]).is_ok(),
        })
    }

    /// Whether a case can be measured with this peer.
    #[must_use]
    pub fn can(&self, case: &Case, peer: Peer) -> bool {
        match (peer, case.path) {
            (Peer::Vnicd, Path::BackendToGuest) => self.generate,
            (Peer::VnicdUnread, path) => self.unread && path == Path::GuestToBackend,
            _ => true,
        }
    }

    /// What could not be measured, in words.
    #[must_use]
    pub fn lacks(&self) -> Vec<&'static str> {
        let lacks = [
            (self.modes, "--mode: its workers slept when they found nothing"),
            (self.unread, "--uplink discard,unread: not measured"),
            (self.generate, "--uplink generate: back end to guest not measured"),
        ];
        lacks.iter().filter(|(known, _)| !known).map(|(_, what)| *what).collect()
    }

    /// Options of a daemon that polls.
    #[must_use]
    pub fn polling(&self) -> &'static [&'static str] {
        if self.modes { &POLLING } else { &[] }
    }

    /// Options of a daemon that sleeps.
    #[must_use]
    pub fn interrupt(&self) -> &'static [&'static str] {
        if self.modes { &INTERRUPT } else { &[] }
    }
}

/// A back end that runs; it is killed when this value is dropped.
#[derive(Debug)]
pub struct BackEnd {
    program: Program,
    path: Path,
}

#[derive(Debug)]
enum Program {
    Vnicd(Box<Vnicd>),
    Testpmd(Console),
}

/// What a back end had done at some time.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// Full bursts, if it counts them.
    Vnicd(Option<Work>),
    /// All that it forwarded.
    Testpmd(Forwarded),
}

impl BackEnd {
    /// A daemon on its CPU, with an uplink for the case.
    pub fn vnicd(ns: &NetNs, socket: &FilePath, uplink: &str, case: &Case, args: &[&str]) -> Result<Self> {
        let vnicd = Vnicd::builder(ns).socket_path(socket).uplink(uplink).control().lifetime(LIFETIME);
        let (queues, cpu) = (case.queues.to_string(), BACK_END_CPU.to_string());
        let vnicd = vnicd.args(["--queue-pairs", &queues, "--cpus", &cpu, "--log", "warn"]).args(args.to_vec());
        Ok(Self { program: Program::Vnicd(vnicd.start()?.into()), path: case.path })
    }

    /// A testpmd that does what the case wants.
    pub fn testpmd(ns: &NetNs, dir: &FilePath, socket: &FilePath, case: &Case, memory: Memory) -> Result<Self> {
        let Case { path, frame_len, queues, .. } = *case;
        let testpmd = Testpmd {
            ns,
            dir,
            name: "back-end",
            cpu: BACK_END_CPU,
            memory,
            devices: vec![format!("net_vhost0,iface={},queues={queues}", socket.display())],
            eal: Vec::new(),
            options: vec![
                "--record-core-cycles".into(),
                "--total-num-mbufs=16384".into(),
                format!("--rxq={queues}"),
                format!("--txq={queues}"),
                format!("--txpkts={frame_len}"),
            ],
            lifetime: LIFETIME,
        };
        let mut console = testpmd.start()?;
        let mode = match path {
            Path::GuestToBackend => "rxonly",
            Path::BackendToGuest => "txonly",
            Path::Loopback => "macswap",
        };
        console.run_all(&[&format!("set fwd {mode}"), "start"])?;
        wait_for(socket)?;
        Ok(Self { program: Program::Testpmd(console), path })
    }

    /// What it has done so far.
    pub fn mark(&mut self) -> Result<Mark> {
        Ok(match &mut self.program {
            Program::Vnicd(vnicd) => Mark::Vnicd(Work::of_status(&vnicd.status()?, self.path)),
            Program::Testpmd(console) => Mark::Testpmd(Forwarded::parse(&console.run("show fwd stats all")?)?),
        })
    }

    /// What its work was like since a mark, if that can be told.
    pub fn since(&mut self, before: Mark) -> Result<Option<Efficiency>> {
        Ok(match (self.mark()?, before) {
            (Mark::Vnicd(now), Mark::Vnicd(before)) => now.zip(before).and_then(|(now, before)| now.since(before)),
            (Mark::Testpmd(now), Mark::Testpmd(before)) => {
                Work::of_testpmd(now.since(&before), self.path).and_then(|work| work.since(Work::default()))
            }
            _ => None,
        })
    }

    /// The daemon's account of itself, if it is one.
    pub fn status(&self) -> Result<Option<Value>> {
        match &self.program {
            Program::Vnicd(vnicd) => vnicd.status().map(Some),
            Program::Testpmd(_) => Ok(None),
        }
    }

    /// Whether the client's rings are of the layout that it asked for; testpmd has both.
    pub fn has_layout_of(&self, case: &Case) -> Result<bool> {
        let layout = |status: Value| {
            let features = status["devices"][0]["features"].as_str().unwrap_or_default();
            features.contains("RING_PACKED") == case.ring.is_packed()
        };
        Ok(self.status()?.is_none_or(layout))
    }

    /// Adds what it printed to an error.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match &self.program {
            Program::Vnicd(vnicd) => anyhow!("{error:#}\n--- vnicd\n{}", vnicd.log().join("\n")),
            Program::Testpmd(console) => anyhow!("{error:#}\n{}", console.process().tail()),
        })
    }
}
