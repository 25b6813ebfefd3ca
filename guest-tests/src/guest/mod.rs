//! Guests: QEMU with Debian's kernel and an agent that runs shell lines.

mod builder;
mod dimms;
mod initramfs;
mod link;
mod migration;
mod netboot;
mod nic;
pub(crate) mod qemu;
mod qmp;
mod slots;
mod system;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use builder::GuestBuilder;
pub use dimms::{Dimm, Zone};
pub use migration::Migration;
pub use netboot::netboot;
pub use nic::Nic;
pub use qemu::{Accel, accel};
pub use slots::{SLOTS, Slots};
pub use system::System;

use crate::lines::{Lines, NoLine, Stream};
use crate::patience::Patience;
use crate::process::{Output, Process, Signal};
use link::{Job, Link};
use qmp::Qmp;

/// How long [`Guest::run`] waits.
pub const RUN: Duration = Duration::from_secs(30);
/// What a kernel says when a device breaks the rules, or it breaks itself.
const COMPLAINTS: &str = "is not a head|out of range|unexpected|Oops|kernel BUG|Bad page|Out of memory";

/// A running guest; QEMU is killed when this value is dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Process,
    link: Link,
    qmp: Mutex<Option<Qmp>>,
    boot_timeout: Duration,
    accel: Accel,
    /// Of its agent and its monitor.
    sockets: PathBuf,
    slot: Mutex<Option<Slots>>,
    _dir: Option<TempDir>,
}

/// A shell line that runs in a guest; it is killed when this value is dropped.
#[derive(Debug)]
pub struct GuestProcess<'a> {
    guest: &'a Guest,
    line: String,
    id: u64,
    job: Job,
}

impl Guest {
    /// A guest with 256 MiB, one CPU and no network device, in Debian's own QEMU.
    pub fn builder<'a>() -> GuestBuilder<'a> {
        GuestBuilder::new()
    }

    /// Runs a shell line to its end, [`RUN`] at most. A program left in the background with `&` holds the end up
    /// unless its output goes elsewhere; [`Guest::spawn`] is for those.
    pub fn run(&self, line: &str) -> Result<Output> {
        self.run_for(line, RUN)
    }

    /// Runs a shell line to its end, `timeout` at most.
    pub fn run_for(&self, line: &str, timeout: Duration) -> Result<Output> {
        self.spawn(line)?.wait(timeout)
    }

    /// Runs a shell line that must succeed, and returns what it printed.
    pub fn run_ok(&self, line: &str) -> Result<String> {
        self.run(line)?.ok(line).map_err(|error| self.explain(error))
    }

    /// What its kernel complains of, line by line, since it booted; nothing if all is well.
    pub fn complaints(&self) -> Result<String> {
        let found = self.run(&format!("dmesg | grep -E '{COMPLAINTS}'"))?;
        ensure!(found.status <= 1, "dmesg does not tell: {found:?}");
        Ok(found.stdout)
    }

    /// Starts a shell line in the background.
    pub fn spawn(&self, line: &str) -> Result<GuestProcess<'_>> {
        let (id, job) = self.link.run(line).map_err(|error| self.explain(error))?;
        Ok(GuestProcess { guest: self, line: line.into(), id, job })
    }

    /// Executes a command of QEMU's machine protocol: `guest.qmp(json!({"execute": "query-status"}))`.
    pub fn qmp(&self, command: Value) -> Result<Value> {
        let mut slot = self.qmp.lock().unwrap_or_else(PoisonError::into_inner);
        let mut qmp = match slot.take() {
            Some(qmp) => qmp,
            None => Qmp::connect(&self.sockets.join("qmp")).map_err(|error| self.explain(error))?,
        };
        // A connection that failed is not used again: an answer may still be under way.
        let answer = qmp.execute(&command).map_err(|error| self.explain(error))?;
        *slot = Some(qmp);
        Ok(answer)
    }

    /// Stops the guest's processors.
    pub fn pause(&self) -> Result<()> {
        self.qmp(json!({ "execute": "stop" })).map(drop)
    }

    /// Lets the guest's processors go on.
    pub fn resume(&self) -> Result<()> {
        self.qmp(json!({ "execute": "cont" })).map(drop)
    }

    /// Reboots from inside, as a guest does by itself, and waits for the agent.
    pub fn reboot(&self) -> Result<()> {
        let boots = self.boots();
        let _rebooting = self.spawn("reboot -f")?;
        self.wait_boots(boots + 1)
    }

    /// Resets the machine under the guest's feet and waits for the agent.
    pub fn reset(&self) -> Result<()> {
        let boots = self.boots();
        self.qmp(json!({ "execute": "system_reset" }))?;
        self.wait_boots(boots + 1)
    }

    /// Ends QEMU in order, as a host does that shuts a machine down the hard way.
    pub fn quit(&self) -> Result<()> {
        self.qmp(json!({ "execute": "quit" }))?;
        self.qemu.wait(Duration::from_secs(10))?;
        self.leave_room();
        Ok(())
    }

    /// SIGKILL for QEMU.
    pub fn kill(&self) -> Result<()> {
        self.qemu.kill()?;
        self.leave_room();
        Ok(())
    }

    /// A guest that has ended makes room for another at once: two tests that boot a second guest while the first one's
    /// value lives would wait for each other.
    fn leave_room(&self) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// How often the guest has booted.
    pub fn boots(&self) -> u64 {
        self.link.boots()
    }

    /// Waits until the guest has booted `boots` times in all.
    pub fn wait_boots(&self, boots: u64) -> Result<()> {
        let mut patience = Patience::new(self.boot_timeout);
        while !self.link.wait_boots(boots, Duration::from_millis(50)) {
            let why = if let Some(status) = self.qemu.try_status()? {
                let _ = self.qemu.wait(Duration::from_secs(1));
                format!("QEMU ended ({status})")
            } else if self.console().contains("Kernel panic") {
                "its kernel panicked".into()
            } else if patience.is_over() {
                format!("not within {:?}", self.boot_timeout)
            } else {
                continue;
            };
            return Err(self.explain(anyhow!("the guest did not boot: {why}")));
        }
        Ok(())
    }

    /// Console ([`Stream::Out`]) and QEMU's own messages ([`Stream::Err`]).
    pub fn console(&self) -> &Lines {
        self.qemu.lines()
    }

    /// QEMU's process: id, signals, waits.
    pub fn qemu(&self) -> &Process {
        &self.qemu
    }

    /// What executes it.
    pub fn accel(&self) -> Accel {
        self.accel
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n--- guest's console\n{}\n--- QEMU\n{}", self.tail(Stream::Out), self.tail(Stream::Err))
    }

    fn tail(&self, stream: Stream) -> String {
        self.console().tail(stream, 30)
    }
}

impl GuestProcess<'_> {
    /// Waits until it printed a line that contains `text`, and returns the line.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<String> {
        self.job.lines.wait_for(text, timeout).map_err(|why| {
            let why = match why {
                NoLine::TimedOut => format!("did not print within {timeout:?}"),
                NoLine::Closed => "ended without printing".into(),
            };
            self.explain(&format!("{why}: \"{text}\""))
        })
    }

    /// Waits until it ends.
    pub fn wait(&self, timeout: Duration) -> Result<Output> {
        let _ = self.job.lines.wait_closed(timeout);
        let [stdout, stderr] = [Stream::Out, Stream::Err].map(|stream| self.job.lines.text(stream));
        match self.job.end() {
            Some(Ok(status)) => Ok(Output { status, stdout, stderr }),
            Some(Err(why)) => Err(self.explain(why)),
            None => Err(self.explain(&format!("did not end within {timeout:?}"))),
        }
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        self.job.end().is_none()
    }

    /// What it printed so far.
    pub fn lines(&self) -> &Lines {
        &self.job.lines
    }

    /// Sends a signal to all its processes; one that has ended gets none, and that is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.runs() { self.guest.link.kill(self.id, signal.as_raw()) } else { Ok(()) }
    }

    fn explain(&self, why: &str) -> anyhow::Error {
        let [out, err] = [Stream::Out, Stream::Err].map(|stream| self.job.lines.tail(stream, 30));
        self.guest.explain(anyhow!("`{}` in the guest: {why}\n--- stdout\n{out}\n--- stderr\n{err}", self.line))
    }
}

impl Drop for GuestProcess<'_> {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
    }
}
