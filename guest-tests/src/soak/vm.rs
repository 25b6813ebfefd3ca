//! A guest of the soak: where it is, and what can be done to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::line::{OVER, Place, STOP};
use crate::guest::{Accel, Dimm, Guest, GuestBuilder, Nic, Slots, Zone};
use crate::streams::{start_inside, wait_ready};
use crate::tools::MemoryReport;
use crate::{Kernel, Qemu};

/// How long QEMU waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(100);
/// What the guest checks of its memory, in MiB, and how long it rests between two rounds.
const CHECKED: &str = "memory 4 /tmp/soak.over 50";

/// A guest.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) name: &'static str,
    /// Queue pairs that it has.
    pub(super) pairs: u16,
    /// Queue pairs that it uses.
    pub(super) channels: u16,
    /// Which daemon serves it.
    pub(super) at: usize,
    number: usize,
    properties: &'static str,
    sockets: [PathBuf; 2],
    lifetime: Duration,
    guest: Option<Guest>,
    dimms: Vec<Dimm>,
    is_bound: bool,
    plugged: u32,
}

impl Vm {
    /// Starts a guest at daemon `at`; it has not booted yet.
    pub(super) fn start(number: usize, dir: &Path, slots: &Slots, lifetime: Duration) -> Result<Self> {
        let (name, pairs, properties) = [("one", 2, "packed=on"), ("two", 4, "packed=off")][number];
        let sockets = ["a", "b"].map(|daemon| dir.join(format!("{daemon}-{name}.sock")));
        let mut vm = Self {
            name,
            pairs,
            channels: 0,
            at: number,
            number,
            properties,
            sockets,
            lifetime,
            guest: None,
            dimms: Vec::new(),
            is_bound: false,
            plugged: 0,
        };
        vm.guest = Some(vm.builder(slots).start()?);
        Ok(vm)
    }

    /// How a QEMU begins that is like the present one, at daemon [`Vm::at`].
    fn builder<'a>(&'a self, slots: &'a Slots) -> GuestBuilder<'a> {
        let nic = Nic::vhost_user(&self.sockets[self.at]).reconnect(RECONNECT).queue_pairs(self.pairs);
        let nic = nic.mac(format!("52:54:00:50:00:0{}", self.number)).properties(self.properties);
        let builder = Guest::builder().qemu(Qemu::V10).kernel(Kernel::Stock).cpus(2).memory_mib(192);
        builder.dimms(&self.dimms).nic(nic).in_slots(slots).lifetime(self.lifetime)
    }

    /// Waits until it has booted, and sets it up.
    pub(super) fn set_up(&mut self) -> Result<()> {
        let guest = self.guest()?;
        guest.wait_boots(1)?;
        let address = Place::Guest(self.number).address();
        guest.run_ok(&format!("ip addr add {address}/24 dev eth0 && ip link set eth0 up"))?;
        // Its streams outlive everything but a fault.
        guest.run_ok("echo 255 > /proc/sys/net/ipv4/tcp_retries2")?;
        guest.run_ok(&format!("rm -f {STOP} {OVER}"))?;
        start_inside(guest, "memory", CHECKED)?;
        wait_ready(guest, "memory")?;
        let channels = "ethtool -l eth0 | grep -A 5 Current | grep Combined | grep -o '[0-9]*'";
        self.channels = self.guest()?.run_ok(channels)?.trim().parse().context("ethtool -l")?;
        Ok(())
    }

    /// The guest.
    pub(super) fn guest(&self) -> Result<&Guest> {
        self.guest.as_ref().with_context(|| format!("guest {} was lost", self.name))
    }

    /// Moves it to the other daemon: how long it stood still. None if it stays, because Linux does not let go of memory.
    ///
    /// Without KVM, QEMU 10 loses what a guest writes to plugged memory while it migrates, whatever is behind its network
    /// device: `physical_memory_sync_dirty_bitmap` has the translator watch pages by their place in their block of memory,
    /// where their place in all memory is wanted. So the guest gives such memory back first.
    pub(super) fn migrate(&mut self, slots: &Slots) -> Result<Option<Duration>> {
        if self.guest()?.accel() == Accel::Tcg && !self.unplug()? {
            return Ok(None);
        }
        let guest = self.guest.take().context("the guest was lost")?;
        self.at = 1 - self.at;
        let (next, migration) = guest.migrate(self.builder(slots))?;
        self.guest = Some(next);
        Ok(Some(migration.downtime))
    }

    /// Has QEMU lose its connection. The guest stands still meanwhile: QEMU works on its rings from the moment that it cuts
    /// the connection, before any back end can know.
    pub(super) fn disconnect(&self) -> Result<()> {
        let (guest, instances) = (self.guest()?, json!({ "instances": [{ "type": "chardev", "id": "vu0" }] }));
        guest.qmp(json!({ "execute": "stop" }))?;
        guest.qmp(json!({ "execute": "yank", "arguments": instances }))?;
        guest.qmp(json!({ "execute": "cont" })).map(drop)
    }

    /// Has the guest use so many pairs.
    pub(super) fn set_channels(&mut self, pairs: u16) -> Result<()> {
        if pairs != self.channels {
            self.guest()?.run_ok(&format!("ethtool -L eth0 combined {pairs}"))?;
            self.channels = pairs;
        }
        Ok(())
    }

    /// Whether it has memory that Linux may use for anything, and will not let go.
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Plugs in memory.
    pub(super) fn plug(&mut self, zone: Zone) -> Result<()> {
        let dimm = self.guest()?.plug(&format!("dimm{}", self.plugged), zone)?;
        self.plugged += 1;
        self.dimms.push(dimm);
        self.is_bound |= zone == Zone::Kernel;
        Ok(())
    }

    /// Takes out memory that can be taken. Says whether Linux let it go.
    pub(super) fn unplug(&mut self) -> Result<bool> {
        let Some(dimm) = self.dimms.last() else { return Ok(true) };
        let is_free = self.guest()?.unplug(dimm)?;
        if is_free {
            self.dimms.pop();
        }
        Ok(is_free)
    }

    /// How many pieces of memory it has got.
    pub(super) fn dimms(&self) -> usize {
        self.dimms.len()
    }

    /// Stops it for a while.
    pub(super) fn pause(&self, time: Duration) -> Result<()> {
        let guest = self.guest()?;
        guest.pause()?;
        std::thread::sleep(time);
        guest.resume()
    }

    /// Runs a shell line.
    pub(super) fn run(&self, line: &str) -> Result<()> {
        self.guest()?.run_ok(line).map(drop)
    }

    /// Waits for what it says of its memory once [`OVER`] is there.
    pub(super) fn memory(&self) -> Result<MemoryReport> {
        let line = "until grep -q '^{' /tmp/memory; do sleep 0.1; done; grep '^{' /tmp/memory";
        Ok(serde_json::from_str(&self.guest()?.run_ok(line)?)?)
    }

    /// Ends it.
    pub(super) fn quit(&self) -> Result<()> {
        self.guest()?.quit()
    }
}
