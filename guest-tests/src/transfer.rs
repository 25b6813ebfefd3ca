//! Sends payload from one side to another and compares what was sent with what came, by hash.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::guest::{Guest, GuestProcess};
use crate::netns::NetNs;
use crate::process::{Output, Process};
use crate::tools::{READY, TcpReport, UdpReport};

/// How long one transfer may take.
const TRANSFER: Duration = Duration::from_secs(60);
const LISTEN: Duration = Duration::from_secs(10);
/// No datagram for so long: no more will come.
const IDLE_MS: u64 = 1000;

/// One end of a transfer.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// A namespace of this machine.
    Host(&'a NetNs),
    /// A guest.
    Guest(&'a Guest),
}

enum Tool<'a> {
    Host(Process),
    Guest(GuestProcess<'a>),
}

/// Sends `bytes` bytes to `address`, which must be one of `to`'s. All must come as sent.
pub fn tcp(from: Side, to: Side, address: &str, bytes: u64) -> Result<TcpReport> {
    let Fresh { port, seed } = Fresh::new();
    let receiver = to.start(&format!("tcp-recv {port}"))?;
    receiver.wait_ready()?;
    let sent: TcpReport = from.start(&format!("tcp-send {address} {port} {bytes} {seed}"))?.report()?;
    let came: TcpReport = receiver.report()?;
    if came != sent {
        bail!("TCP payload differs: sent {sent:?}, received {came:?}");
    }
    Ok(came)
}

/// A number of datagrams of one size.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// How many.
    pub count: u64,
    /// UDP payload of each, 16 bytes at least.
    pub size: usize,
    /// At most so many a second; as fast as the sender can otherwise.
    pub pps: Option<u64>,
}

/// Sends datagrams to `address`, which must be one of `to`'s, and returns what came. Loss is for the caller to judge;
/// a corrupt or repeated datagram is an error, and so is a different hash when all came.
pub fn udp(from: Side, to: Side, address: &str, datagrams: Datagrams) -> Result<UdpReport> {
    udp_in_batches(from, to, address, datagrams, 1)
}

/// The same, and the sender hands its kernel `batch` datagrams at a time, in one buffer that is yet to be cut
/// (UDP_SEGMENT); 64 KiB at most.
pub fn udp_in_batches(from: Side, to: Side, address: &str, datagrams: Datagrams, batch: usize) -> Result<UdpReport> {
    let Fresh { port, seed } = Fresh::new();
    let Datagrams { count, size, pps } = datagrams;
    let pps = pps.unwrap_or(u64::MAX);
    let receiver = to.start(&format!("udp-recv {port} {count} {IDLE_MS}"))?;
    receiver.wait_ready()?;
    let sent: UdpReport =
        from.start(&format!("udp-send {address} {port} {count} {size} {seed} {pps} {batch}"))?.report()?;
    let came: UdpReport = receiver.report()?;
    if came.corrupt != 0 || came.duplicates != 0 || (came.count == sent.count && came.sha256 != sent.sha256) {
        bail!("datagrams differ: sent {sent:?}, received {came:?}");
    }
    Ok(came)
}

/// A port and a seed that no other transfer of this program uses, and other seeds in the next run.
struct Fresh {
    port: u16,
    seed: u64,
}

impl Fresh {
    fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        Self { port: 20000 + (number % 10000) as u16, seed: u64::from(process::id()) << 32 | number }
    }
}

impl<'a> Side<'a> {
    fn start(self, line: &str) -> Result<Tool<'a>> {
        match self {
            Self::Host(ns) => ns.tool(line).map(Tool::Host),
            Self::Guest(guest) => guest.spawn(&format!("exec tool {line}")).map(Tool::Guest),
        }
    }
}

impl Tool<'_> {
    fn wait_ready(&self) -> Result<()> {
        match self {
            Self::Host(process) => process.wait_for_line(READY, LISTEN),
            Self::Guest(process) => process.wait_for_line(READY, LISTEN),
        }
        .map(drop)
    }

    fn wait(&self) -> Result<Output> {
        match self {
            Self::Host(process) => process.wait_output(TRANSFER),
            Self::Guest(process) => process.wait(TRANSFER),
        }
    }

    fn report<T: DeserializeOwned>(&self) -> Result<T> {
        let side = match self {
            Self::Host(_) => "host",
            Self::Guest(_) => "guest",
        };
        let printed = self.wait()?.ok("tool").with_context(|| format!("the tool failed on the {side}"))?;
        let last = printed.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("no report from the {side}: {printed}"))
    }
}
