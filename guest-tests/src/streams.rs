//! Two TCP streams, one each way, that go on until they are told to stop, and are compared by hash then. They live through
//! a migration of the guest, for what runs inside is tied to nothing outside; so does memory that is checked meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::guest::Guest;
use crate::netns::NetNs;
use crate::process::Process;
use crate::tools::{MemoryReport, READY, TcpReport};

const ENDLESS: u64 = 1 << 50;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long they may run, in the longest form of a test.
const LIFETIME: Duration = Duration::from_secs(3600);
/// In the guest: what the tools print, and what tells them to stop.
const STOP: &str = "/tmp/streams.stop";
const TO_GUEST: u16 = 5001;
const TO_HOST: u16 = 5002;

/// Streams on their way.
#[derive(Debug)]
pub struct Streams {
    ns: NetNs,
    device: String,
    dir: TempDir,
    receiver: Process,
    sender: Process,
    memory: bool,
}

/// What the streams have carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Bytes that came to the host's device.
    pub to_host: u64,
    /// Bytes that it sent.
    pub to_guest: u64,
}

impl Streams {
    /// Starts them between the addresses `host`, which `device` of `ns` has, and `guest`. With `memory_mib`, so much memory
    /// of the guest is checked, too.
    pub fn start(
        ns: &NetNs,
        device: &str,
        inside: &Guest,
        [host, guest]: [&str; 2],
        memory_mib: Option<u32>,
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let stop = dir.path().join("stop");
        let receiver = ns.tool_for(&format!("tcp-recv {TO_HOST}"), LIFETIME)?;
        receiver.wait_for_line(READY, PATIENCE)?;
        inside.run_ok(&format!("rm -f {STOP}"))?;
        if let Some(mib) = memory_mib {
            start_inside(inside, "memory", &format!("memory {mib} {STOP}"))?;
            wait_ready(inside, "memory")?;
        }
        start_inside(inside, "receiver", &format!("tcp-recv {TO_GUEST}"))?;
        wait_ready(inside, "receiver")?;
        start_inside(inside, "sender", &format!("tcp-send {host} {TO_HOST} {ENDLESS} 1 {STOP}"))?;
        let sending = format!("tcp-send {guest} {TO_GUEST} {ENDLESS} 2 {}", stop.display());
        let sender = ns.tool_for(&sending, LIFETIME)?;
        let memory = memory_mib.is_some();
        let streams = Self { ns: ns.clone(), device: device.into(), dir, receiver, sender, memory };
        streams.wait_moved(streams.carried()?, 1 << 20)?;
        Ok(streams)
    }

    /// What they have carried so far, with all else on the device.
    pub fn carried(&self) -> Result<Carried> {
        let counters = self.ns.counters(&self.device)?;
        Ok(Carried { to_host: counters.rx_bytes, to_guest: counters.tx_bytes })
    }

    /// Waits until each has carried `bytes` more than at `since`.
    pub fn wait_moved(&self, since: Carried, bytes: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = self.carried()?;
            if (now.to_host.wrapping_sub(since.to_host)).min(now.to_guest.wrapping_sub(since.to_guest)) >= bytes {
                return Ok(());
            }
            for process in [&self.receiver, &self.sender] {
                ensure!(process.try_status()?.is_none(), "a stream has ended\n{}", process.tail());
            }
            ensure!(begun.elapsed() < PATIENCE, "the streams stand still: {since:?}, now {now:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops them: what each carried, all of it as it was sent. `inside` is the guest, wherever it runs now.
    pub fn finish(self, inside: &Guest) -> Result<[TcpReport; 2]> {
        std::fs::write(self.dir.path().join("stop"), "")?;
        inside.run_ok(&format!("touch {STOP}"))?;
        let on_host = |process: &Process| -> Result<TcpReport> {
            let printed = process.wait_output(PATIENCE)?.ok("a stream's end on the host")?;
            Ok(serde_json::from_str(printed.lines().last().unwrap_or_default())?)
        };
        let to_host = (report_of::<TcpReport>(inside, "sender")?, on_host(&self.receiver)?);
        let to_guest = (on_host(&self.sender)?, report_of::<TcpReport>(inside, "receiver")?);
        for (sent, came) in [&to_host, &to_guest] {
            ensure!(sent == came, "a stream differs: sent {sent:?}, received {came:?}");
        }
        if self.memory {
            let report: MemoryReport = report_of(inside, "memory")?;
            ensure!(report.wrong == 0 && report.rounds > 1, "the guest's memory is not as it was written: {report:?}");
        }
        Ok([to_host.0, to_guest.0])
    }
}

/// Starts a tool in the guest that outlives the command.
pub(crate) fn start_inside(inside: &Guest, name: &str, line: &str) -> Result<()> {
    inside.run_ok(&format!("setsid tool {line} > /tmp/{name} 2> /tmp/{name}.error < /dev/null &")).map(drop)
}

pub(crate) fn wait_ready(inside: &Guest, name: &str) -> Result<()> {
    let failed = format!("test -s /tmp/{name}.error && cat /tmp/{name}.error >&2 && exit 1");
    inside.run_ok(&format!("until grep -q {READY} /tmp/{name}; do {failed}; sleep 0.02; done")).map(drop)
}

fn report_of<T: DeserializeOwned>(inside: &Guest, name: &str) -> Result<T> {
    let begun = Instant::now();
    loop {
        let printed = inside.run_ok(&format!("cat /tmp/{name}; cat /tmp/{name}.error >&2"))?;
        if let Some(report) = printed.lines().find(|line| line.starts_with('{')) {
            return serde_json::from_str(report).with_context(|| format!("no report: {printed}"));
        }
        let failed = inside.run(&format!("cat /tmp/{name}.error"))?.stdout;
        if !failed.is_empty() || begun.elapsed() > PATIENCE {
            bail!("the guest's {name} gives no report: {printed}{failed}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
