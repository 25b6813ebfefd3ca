//! A small Debian that systemd runs in namespaces of its own, to install packages and start units in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::lab::eventually;
use crate::process::Signal;
use crate::{NetNs, Output, Process, assets};

const PATIENCE: Duration = Duration::from_secs(120);

/// A booted system; it is gone when this is dropped.
#[derive(Debug)]
pub struct Container {
    process: Process,
    init: u32,
    root: TempDir,
    cgroups: Vec<PathBuf>,
}

impl Container {
    /// Unpacks and boots it, with a network of its own.
    pub fn boot() -> Result<Self> {
        Self::of("debian.tar")
    }

    /// The same with QEMU and libvirt.
    pub fn with_virtual_machines() -> Result<Self> {
        Self::of("debian-vm.tar")
    }

    fn of(archive: &str) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("vnicd-test-").tempdir()?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(assets::cache()?.join(archive)).arg("-C").arg(root.path());
        Process::spawn(unpack)?.wait_output(PATIENCE)?.ok("tar: run `scripts/setup test` first")?;
        // The machine's id may be any.
        fs::write(root.path().join("etc/machine-id"), "")?;

        let cgroups = cgroups()?;
        let enter: String = cgroups.iter().map(|dir| format!("echo $$ >{}/cgroup.procs; ", dir.display())).collect();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{enter} exec \"$@\""), "sh", "systemd-nspawn", "--quiet", "--register=no"]);
        command.args(["--keep-unit", "--private-network", "--link-journal=no", "--console=pipe"]);
        command.args(["--bind=/dev/net/tun", "--boot", "-D"]).arg(root.path()).arg("systemd.unit=multi-user.target");
        let process = Process::spawn(command)?;
        let mut container = Self { process, init: 0, root, cgroups };
        container.wait_until_booted()?;
        Ok(container)
    }

    fn wait_until_booted(&mut self) -> Result<()> {
        let children = |pid: u32| {
            let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).collect::<Vec<_>>()
        };
        let nspawn = self.process.pid();
        let is_init = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "systemd\n");
        eventually("systemd is started", || {
            ensure!(self.process.try_status()?.is_none(), "systemd-nspawn ended\n{}", self.process.tail());
            let found = children(nspawn).into_iter().flat_map(|pid| [vec![pid], children(pid)].concat()).find(is_init);
            self.init = found.unwrap_or(0);
            Ok(self.init != 0)
        })?;
        eventually("systemd has booted", || {
            let state = self.run("systemctl is-system-running --wait")?.stdout;
            Ok(["running\n", "degraded\n"].contains(&&*state))
        })
    }

    /// What a shell in it does with this line.
    pub fn run(&self, line: &str) -> Result<Output> {
        self.spawn(line)?.wait_output(PATIENCE)
    }

    /// Starts a shell line in it, which may go on in there when the process here is killed.
    pub fn spawn(&self, line: &str) -> Result<Process> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "--all", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "sh", "-c", line]);
        Process::spawn(command)
    }

    /// What it prints, if it succeeds.
    pub fn ok(&self, line: &str) -> Result<String> {
        self.run(line)?.ok(line)
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.ok(&format!("systemctl show --value -p {name} '{unit}'"))?.trim().into())
    }

    /// The main process of a unit, by its id outside.
    pub fn main_pid(&self, unit: &str) -> Result<u32> {
        let inside = self.property(unit, "MainPID")?;
        // The last id is that of the innermost namespace.
        let is_it = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            ids.split_whitespace().count() == 2 && ids.split_whitespace().last() == Some(&inside)
        };
        let same_ns = |pid: &u32| self.shares_pid_namespace(*pid);
        let all = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(is_it).find(same_ns).with_context(|| format!("no main process of {unit}"))
    }

    fn shares_pid_namespace(&self, pid: u32) -> bool {
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        of(pid).is_some() && of(pid) == of(self.init)
    }

    /// The path outside of a file inside, as short as a socket's must be.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// Copies a file into it.
    pub fn put(&self, file: &Path, inside: &str) -> Result<()> {
        fs::copy(file, self.path(inside)).with_context(|| format!("cannot copy {}", file.display())).map(drop)
    }

    /// Its network.
    pub fn network(&self) -> Result<NetNs> {
        NetNs::of(self.init)
    }

    /// Where its files are.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.init != 0
            && let Some(init) = rustix::process::Pid::from_raw(self.init as i32)
        {
            // With it goes all that runs inside.
            let _ = rustix::process::kill_process(init, Signal::KILL);
        }
        let _ = self.process.wait(Duration::from_secs(5)).or_else(|_| self.process.kill());
        for dir in &self.cgroups {
            remove(dir);
        }
    }
}

/// A group of its own in each hierarchy that systemd uses: whatever it makes is below, and goes with it.
fn cgroups() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let is_systemds = |line: &&str| line.contains(" - cgroup2 ") || line.contains("name=systemd");
    let places = mounts.lines().filter(is_systemds).filter_map(|line| line.split(' ').nth(4));
    let own = |place: &str| {
        let dir = Path::new(place).join(format!("vnicd-test-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    };
    places.map(own).collect()
}

/// Removes a group and those below.
fn remove(dir: &Path) {
    let below = fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    below.for_each(|entry| remove(&entry.path()));
    // What was killed may take a moment to leave it.
    for _ in 0..100 {
        if fs::remove_dir(dir).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
