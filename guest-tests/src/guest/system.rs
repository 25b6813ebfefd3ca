//! What a guest boots: a kernel, and the initramfs with the agent.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::initramfs;
use crate::assets::Kernel;

/// The files of a system, and the options of QEMU's that boot it.
#[derive(Clone, Debug)]
pub struct System {
    /// The kernel.
    pub vmlinuz: PathBuf,
    /// The first file system.
    pub initramfs: PathBuf,
}

impl System {
    /// The kernel's command line. A panic stays visible on the console instead of ending in a reboot.
    pub const CMDLINE: &str = "console=ttyS0 quiet panic=0 no_timer_check tsc=reliable mitigations=off random.trust_cpu=on \
                               cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=2";

    /// The one of a kernel; what is missing of it is built.
    pub fn of(kernel: Kernel) -> Result<Self> {
        let boot = kernel.dir()?.join("boot");
        let names = fs::read_dir(&boot)?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_kernel =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
        let vmlinuz = names.into_iter().find(is_kernel).with_context(|| format!("no kernel in {}", boot.display()))?;
        let initramfs = initramfs::build(kernel).context("cannot build the guest's initramfs")?;
        Ok(Self { vmlinuz, initramfs })
    }

    /// Options for QEMU: no other devices than those that are named, console on standard output, agent and monitor on the
    /// sockets `agent` and `qmp` in a directory. `cmdline` is added to the kernel's command line.
    pub fn args(&self, dir: &Path, cmdline: &str) -> Vec<String> {
        let socket = |name: &str| format!("socket,id={name},path={},server=on,wait=off", dir.join(name).display());
        let mut args: Vec<String> = ["-nodefaults", "-no-user-config", "-display", "none"].map(String::from).into();
        let mut add = |more: &[&str]| args.extend(more.iter().map(|arg| arg.to_string()));
        add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        add(&["-chardev", &socket("agent"), "-serial", "chardev:agent"]);
        add(&["-chardev", &socket("qmp"), "-mon", "chardev=qmp,mode=control"]);
        add(&["-kernel", &self.vmlinuz.to_string_lossy(), "-initrd", &self.initramfs.to_string_lossy()]);
        add(&["-append", &format!("{} {cmdline}", Self::CMDLINE)]);
        args
    }
}
