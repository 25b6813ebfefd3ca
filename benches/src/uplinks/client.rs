//! The virtio-user client: a testpmd that sends what a file holds, or what it makes, or takes what comes.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::NetNs;
use guest_tests::testpmd::{Console, Moved, moved_by, total};

use crate::testpmd::{CLIENT_CPU, Memory, Testpmd};

/// Nothing of a measurement lives longer.
pub(super) const LIFETIME: Duration = Duration::from_secs(120);

/// Entries of each ring.
pub(super) const RING: u16 = 1024;

/// What the client does.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// Sends what a capture file holds, again and again.
    Endless(&'a Path),
    /// Sends it once.
    Once(&'a Path),
    /// Sends packets of its own.
    Txonly,
    /// Takes what comes.
    Receive,
    /// Takes what comes, and sends what a capture file holds, again and again, into an interface by a packet socket.
    ReceiveAndInject(&'a Path, &'a str),
}

/// A client whose ports are there; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Client {
    console: Console,
    port: u16,
    mode: &'static str,
}

impl Client {
    /// Connects to a socket.
    pub fn start(ns: &NetNs, dir: &Path, socket: &Path, memory: Memory, work: Work<'_>) -> Result<Self> {
        let mut devices = vec![format!(
            "net_virtio_user0,mac=02:00:00:00:00:77,path={},queues=1,queue_size={RING}",
            socket.display()
        )];
        let mode = match work {
            Work::Endless(file) | Work::Once(file) => {
                // All packets of the file become buffers at the start; without a file to write, it drops what comes.
                let endless = u8::from(matches!(work, Work::Endless(_)));
                devices.push(format!("net_pcap0,rx_pcap={},infinite_rx={endless}", file.display()));
                "io"
            }
            Work::Txonly => "txonly",
            Work::Receive => "rxonly",
            Work::ReceiveAndInject(file, interface) => {
                // One after the other on the same CPU: neighbouring ports forward to each other, here one way each.
                devices.push("net_null0,no-rx=1".into());
                devices.push(format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display()));
                devices.push(format!("net_af_packet0,iface={interface}"));
                "io"
            }
        };
        let ports = devices.len() as u16;
        let options = ["--total-num-mbufs=32768", "--txd=1024", "--rxd=1024", "--no-flush-rx"].map(Into::into).into();
        let testpmd = Testpmd {
            ns,
            dir,
            name: "client",
            cpu: CLIENT_CPU,
            memory,
            devices,
            eal: vec![],
            options,
            lifetime: LIFETIME,
        };
        let mut console = testpmd.start()?;
        let mut is_virtio = |port| -> Result<bool> {
            Ok(console.run(&format!("show port info {port}"))?.contains("Driver name: net_virtio_user"))
        };
        let mut port = 0;
        while !is_virtio(port)? {
            port += 1;
            ensure!(port < ports, "no virtio-user port\n{}", console.process().tail());
        }
        Ok(Self { console, port, mode })
    }

    /// Has it work.
    pub fn go(&mut self) -> Result<()> {
        self.console.run_all(&[&format!("set fwd {}", self.mode), "start"])
    }

    /// What went through its rings so far.
    pub fn moved(&mut self) -> Result<Moved> {
        Ok(total(&moved_by(&self.console.run(&format!("show port xstats {}", self.port))?, 1)?))
    }
}
