//! What stands between the client's rings and the uplink, each on the same CPU.

#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::{Result, anyhow};
use guest_tests::testpmd::Console;
use guest_tests::{NetNs, Vnicd};

use super::client::LIFETIME;
use crate::testpmd::{BACK_END_CPU, Memory, Testpmd, wait_for};

/// Where a back end runs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its uplink is there.
    pub ns: &'a NetNs,
    /// A directory for runtime files, which must outlive it.
    pub dir: &'a Path,
    /// The socket that it makes.
    pub socket: &'a Path,
}

/// A back end that runs; it is killed when this value is dropped.
#[derive(Debug)]
pub enum BackEnd {
    /// The daemon.
    Vnicd(Box<Vnicd>),
    /// testpmd, which forwards between net_vhost and another port.
    Testpmd(Console),
}

impl BackEnd {
    /// The daemon with an uplink and further options.
    pub fn vnicd(place: Place<'_>, uplink: &str, args: &[&str]) -> Result<Self> {
        let cpu = BACK_END_CPU.to_string();
        let vnicd = Vnicd::builder(place.ns).socket_path(place.socket).uplink(uplink).control().lifetime(LIFETIME);
        let vnicd = vnicd.args(["--queue-pairs", "1", "--cpus", &cpu, "--log", "warn"]).args(args.to_vec());
        Ok(Self::Vnicd(vnicd.start()?.into()))
    }

    /// testpmd, whose other port is this device.
    pub fn testpmd(place: Place<'_>, device: &str, memory: Memory) -> Result<Self> {
        let vhost = format!("net_vhost0,iface={},queues=1", place.socket.display());
        let options = ["--total-num-mbufs=32768", "--txd=1024", "--rxd=1024", "--record-core-cycles"];
        let testpmd = Testpmd {
            ns: place.ns,
            dir: place.dir,
            name: "back-end",
            cpu: BACK_END_CPU,
            memory,
            devices: vec![vhost, device.into()],
            eal: Vec::new(),
            options: options.map(Into::into).into(),
            lifetime: LIFETIME,
        };
        let mut console = testpmd.start()?;
        console.run_all(&["set fwd io", "start"])?;
        wait_for(place.socket)?;
        Ok(Self::Testpmd(console))
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Vnicd(vnicd) => vnicd.pid(),
            Self::Testpmd(console) => console.process().pid(),
        }
    }

    /// Adds what it printed to an error.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match self {
            Self::Vnicd(vnicd) => anyhow!("{error:#}\n--- vnicd\n{}", vnicd.log().join("\n")),
            Self::Testpmd(console) => anyhow!("{error:#}\n--- testpmd\n{}", console.process().tail()),
        })
    }
}
