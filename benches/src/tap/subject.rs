//! What stands between the client's rings and the TAP, each on the same CPU.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use guest_tests::testpmd::Console;
use guest_tests::{NetNs, Vnicd};

use super::client::LIFETIME;
use super::sink::TAP;
use crate::testpmd::{BACK_END_CPU, Memory, Testpmd, wait_for};

/// A back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The daemon.
    Vnicd,
    /// testpmd, which forwards between net_vhost and net_tap.
    NetTap,
}

impl Subject {
    /// Both, ours first.
    pub const BOTH: [Self; 2] = [Self::Vnicd, Self::NetTap];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vnicd => "vnicd",
            Self::NetTap => "net_vhost to net_tap",
        }
    }
}

/// A back end that runs; it is killed when this value is dropped.
#[derive(Debug)]
pub enum BackEnd {
    /// The daemon.
    Vnicd(Box<Vnicd>),
    /// testpmd.
    NetTap(Console),
}

impl BackEnd {
    /// Starts it with a socket and a TAP; `args` are the daemon's alone.
    pub fn start(
        subject: Subject,
        ns: &NetNs,
        dir: &Path,
        socket: &Path,
        memory: Memory,
        args: &[&str],
    ) -> Result<Self> {
        match subject {
            Subject::Vnicd => Self::vnicd(ns, socket, &format!("tap={TAP}"), args),
            Subject::NetTap => {
                let vhost = format!("net_vhost0,iface={},queues=1", socket.display());
                let options = ["--total-num-mbufs=32768", "--txd=1024", "--rxd=1024", "--record-core-cycles"];
                let testpmd = Testpmd {
                    ns,
                    dir,
                    name: "back-end",
                    cpu: BACK_END_CPU,
                    memory,
                    devices: vec![vhost, format!("net_tap0,iface={TAP}")],
                    eal: Vec::new(),
                    options: options.map(Into::into).into(),
                    lifetime: LIFETIME,
                };
                let mut console = testpmd.start()?;
                console.run_all(&["set fwd io", "start"])?;
                wait_for(socket)?;
                Ok(Self::NetTap(console))
            }
        }
    }

    /// The daemon with another uplink.
    pub fn vnicd(ns: &NetNs, socket: &Path, uplink: &str, args: &[&str]) -> Result<Self> {
        let cpu = BACK_END_CPU.to_string();
        let vnicd = Vnicd::builder(ns).socket_path(socket).uplink(uplink).control().lifetime(LIFETIME);
        let vnicd = vnicd.args(["--queue-pairs", "1", "--cpus", &cpu, "--log", "warn"]).args(args.to_vec());
        Ok(Self::Vnicd(vnicd.start()?.into()))
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Vnicd(vnicd) => vnicd.pid(),
            Self::NetTap(console) => console.process().pid(),
        }
    }

    /// Adds what it printed to an error.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match self {
            Self::Vnicd(vnicd) => anyhow!("{error:#}\n--- vnicd\n{}", vnicd.log().join("\n")),
            Self::NetTap(console) => anyhow!("{error:#}\n--- testpmd\n{}", console.process().tail()),
        })
    }
}

/// How long traffic runs before it counts.
pub(super) const WARM_UP: Duration = Duration::from_millis(500);
