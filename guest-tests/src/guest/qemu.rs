//! QEMU's command line, and whether this machine's KVM can boot a guest.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::assets::{self, Qemu};
use crate::guest::dimms::{self, Dimm};
use crate::guest::{Guest, Nic, System};
use crate::netns::NetNs;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// How long a guest may take to boot when KVM is probed; one that works takes a second.
const KVM_BOOT: Duration = Duration::from_secs(8);

/// How guests are run on this machine: `GUEST_ACCEL`, else found out once a boot of the machine.
///
/// That `/dev/kvm` can be opened says little: some machines offer one that cannot boot a stock kernel, so the probe is
/// to boot a guest.
pub fn accel() -> Result<Accel> {
    static ACCEL: OnceLock<Result<Accel, String>> = OnceLock::new();
    let accel = ACCEL.get_or_init(|| find_accel().map_err(|error| format!("{error:#}")));
    accel.clone().map_err(anyhow::Error::msg)
}

fn find_accel() -> Result<Accel> {
    match std::env::var("GUEST_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) => bail!("GUEST_ACCEL={other}: neither kvm nor tcg"),
        Err(_) => {}
    }
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let cache = assets::cache()?;
    let lock = File::create(cache.join("accel.lock"))?;
    lock.lock()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let found = cache.join("accel");
    if let Ok(known) = fs::read_to_string(&found)
        && let Some(accel) = known.strip_prefix(boot.trim())
    {
        return Ok(if accel.trim() == "kvm" { Accel::Kvm } else { Accel::Tcg });
    }
    let works = Guest::builder().accel(Accel::Kvm).boot_timeout(KVM_BOOT).boot().is_ok();
    let name = if works { "kvm" } else { "tcg" };
    eprintln!("guests run under {name} here; GUEST_ACCEL=kvm|tcg overrides this");
    fs::write(&found, format!("{} {name}\n", boot.trim()))?;
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

/// vhost-user back ends map the guest's memory, so it must be shared.
pub(crate) fn shared_memory(mib: u32) -> [String; 4] {
    let object = format!("memory-backend-memfd,id=mem,size={mib}M,share=on");
    ["-object".into(), object, "-numa".into(), "node,memdev=mem".into()]
}

/// QEMU's program, inside a namespace if one is given.
pub(crate) fn program(qemu: Qemu, ns: Option<&NetNs>) -> Result<Command> {
    let inside = |program: &Path| match ns {
        Some(ns) => ns.command(program),
        None => Command::new(program),
    };
    let Some(root) = qemu.unpacked()? else {
        return Ok(inside(Path::new("qemu-system-x86_64")));
    };
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = inside(&root.join("usr/bin/qemu-system-x86_64"));
    command.env("LD_LIBRARY_PATH", &libraries).env("QEMU_MODULE_DIR", libraries.join("qemu"));
    for firmware in ["qemu", "seabios"] {
        command.arg("-L").arg(root.join("usr/share").join(firmware));
    }
    Ok(command)
}

/// All that makes up a command line.
pub(crate) struct Machine<'a> {
    pub(crate) qemu: Qemu,
    pub(crate) system: System,
    pub(crate) accel: Accel,
    pub(crate) memory_mib: u32,
    pub(crate) dimms: Option<&'a [Dimm]>,
    pub(crate) cpus: u16,
    pub(crate) shared_memory: bool,
    pub(crate) nics: &'a [Nic],
    pub(crate) extra: &'a [String],
    pub(crate) cmdline: &'a str,
    pub(crate) ns: Option<&'a NetNs>,
    /// Where the sockets of agent and monitor are made.
    pub(crate) dir: &'a Path,
}

impl Machine<'_> {
    /// The command that starts all of it.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = program(self.qemu, self.ns)?;
        let memory = self.memory_mib;
        let accel = match self.accel {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        };
        command.args(["-machine", "pc"]).args(accel);
        command.arg("-smp").arg(self.cpus.to_string()).arg("-m");
        match self.dimms {
            None => command.arg(format!("{memory}M")),
            Some(_) => command.arg(format!("{memory}M,{}", dimms::room(memory))),
        };
        if self.shared_memory {
            command.args(shared_memory(memory));
        }
        command.args(self.dimms.unwrap_or_default().iter().flat_map(Dimm::args));
        for (index, nic) in self.nics.iter().enumerate() {
            command.args(nic.args(index, self.qemu, self.accel));
        }
        self.add_system(&mut command);
        Ok(command)
    }

    /// Adds what makes it a guest of the tests, whatever machine it runs on.
    pub(crate) fn add_system(&self, command: &mut Command) {
        command.args(self.system.args(self.dir, self.cmdline)).args(self.extra);
    }
}
