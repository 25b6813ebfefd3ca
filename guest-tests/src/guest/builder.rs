//! How a guest is put together and started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use super::link::Link;
use super::qemu::{self, Machine};
use super::{Accel, Dimm, Guest, Nic, Slots, System};
use crate::assets::{Kernel, Qemu};
use crate::netns::NetNs;
use crate::process::{LIFETIME, Process};

/// How long QEMU may take until it has made its sockets, and how long somebody else may until he has started it.
const START: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

/// How to start a guest; see [`Guest::builder`].
#[derive(Clone, Debug)]
pub struct GuestBuilder<'a> {
    qemu: Qemu,
    kernel: Kernel,
    accel: Option<Accel>,
    memory_mib: u32,
    dimms: Option<&'a [Dimm]>,
    cpus: u16,
    private_memory: bool,
    nics: Vec<Nic>,
    extra: Vec<String>,
    cmdline: String,
    ns: Option<&'a NetNs>,
    slots: Option<&'a Slots>,
    boot_timeout: Duration,
    lifetime: Duration,
}

impl<'a> GuestBuilder<'a> {
    pub(super) fn new() -> Self {
        Self {
            qemu: Qemu::V7,
            kernel: Kernel::Stock,
            accel: None,
            memory_mib: 256,
            dimms: None,
            cpus: 1,
            private_memory: false,
            nics: Vec::new(),
            extra: Vec::new(),
            cmdline: String::new(),
            ns: None,
            slots: None,
            boot_timeout: Duration::from_secs(60),
            lifetime: LIFETIME,
        }
    }

    /// Which QEMU runs it.
    pub fn qemu(mut self, qemu: Qemu) -> Self {
        self.qemu = qemu;
        self
    }

    /// Which kernel it boots.
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// What executes it; found out when this is not called.
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = Some(accel);
        self
    }

    /// Its memory.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Leaves room for memory to be plugged in ([`Guest::plug`]), and begins with these.
    pub fn dimms(mut self, dimms: &'a [Dimm]) -> Self {
        self.dimms = Some(dimms);
        self
    }

    /// Leaves its memory to QEMU alone, a mistake that a vhost-user back end cannot mend.
    pub fn private_memory(mut self) -> Self {
        self.private_memory = true;
        self
    }

    /// Its processors.
    pub fn cpus(mut self, cpus: u16) -> Self {
        self.cpus = cpus;
        self
    }

    /// Adds a network device.
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds arguments for QEMU.
    pub fn qemu_args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.extra.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds words to the kernel's command line. Quotes do not survive there.
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline += words;
        self.cmdline.push(' ');
        self
    }

    /// Runs QEMU in this namespace, where [`Nic::tap`] looks for its interface.
    pub fn ns(mut self, ns: &'a NetNs) -> Self {
        self.ns = Some(ns);
        self
    }

    /// Takes its place in room that the test holds; otherwise it waits for room of its own.
    pub fn in_slots(mut self, slots: &'a Slots) -> Self {
        self.slots = Some(slots);
        self
    }

    /// How long it may take until the agent is up.
    pub fn boot_timeout(mut self, timeout: Duration) -> Self {
        self.boot_timeout = timeout;
        self
    }

    /// How long QEMU may run at most.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Starts the guest and waits until its agent is up.
    pub fn boot(self) -> Result<Guest> {
        let guest = self.start()?;
        guest.wait_boots(1)?;
        Ok(guest)
    }

    /// Starts the guest without waiting ([`Guest::wait_boots`]): for a QEMU that waits for its backend.
    pub fn start(self) -> Result<Guest> {
        self.start_with(|machine| machine.command())
    }

    /// Boots it by a command that starts a QEMU of this version in its own way, and hands on to it the options that are added.
    /// Processors, memory and network devices are that command's to say.
    pub fn boot_by(self, mut command: Command) -> Result<Guest> {
        let guest = self.start_with(|machine| {
            machine.add_system(&mut command);
            Ok(command)
        })?;
        guest.wait_boots(1)?;
        Ok(guest)
    }

    fn start_with(self, command: impl FnOnce(&Machine) -> Result<Command>) -> Result<Guest> {
        // Found out before room is taken: the probe boots a guest.
        let accel = match self.accel {
            Some(accel) => accel,
            None => qemu::accel()?,
        };
        let system = System::of(self.kernel)?;
        let dir = tempfile::Builder::new().prefix("guest-test-").tempdir()?;
        let slot = self.slots.is_none().then(|| Slots::take(1));
        let machine = Machine {
            qemu: self.qemu,
            system,
            accel,
            memory_mib: self.memory_mib,
            dimms: self.dimms,
            cpus: self.cpus,
            shared_memory: !self.private_memory,
            nics: &self.nics,
            extra: &self.extra,
            cmdline: &self.cmdline,
            ns: self.ns,
            dir: dir.path(),
        };
        let qemu = Process::spawn_for(command(&machine)?, self.lifetime)?;
        let sockets = dir.path().to_owned();
        self.linked(qemu, START[0], accel, sockets, Some(dir), slot)
    }

    /// Takes over a guest that somebody else starts by what [`System`] says: the process whose end is its end, and the
    /// directory of its sockets.
    pub fn attach(self, qemu: Process, sockets: &Path) -> Result<Guest> {
        let slot = self.slots.is_none().then(|| Slots::take(1));
        let guest = self.linked(qemu, START[1], Accel::Tcg, sockets.to_owned(), None, slot)?;
        guest.wait_boots(1)?;
        Ok(guest)
    }

    fn linked(
        self,
        qemu: Process,
        start: Duration,
        accel: Accel,
        sockets: PathBuf,
        dir: Option<TempDir>,
        slot: Option<Slots>,
    ) -> Result<Guest> {
        let link = match Link::connect(&sockets.join("agent"), start) {
            Ok(link) => link,
            Err(error) => bail!("{error:#}\n{}", qemu.tail()),
        };
        let (qmp, slot, boot_timeout) = (Mutex::default(), Mutex::new(slot), self.boot_timeout);
        Ok(Guest { qemu, link, qmp, boot_timeout, accel, sockets, slot, _dir: dir })
    }
}
