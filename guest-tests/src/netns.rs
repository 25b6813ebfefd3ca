//! Anonymous network namespaces.
//!
//! A namespace has no name and no holder but a file descriptor of this program: when the program ends, however it
//! ends, the kernel takes the namespace with its interfaces away. Commands started in it see its interfaces in `/sys`
//! too (in a mount namespace of their own).

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::assets;
use crate::process::Process;
use crate::spawn::die_with_parent;

/// A network namespace that lives as long as this value, its clones and the processes in it.
#[derive(Clone, Debug)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
}

/// What an interface has carried, seen from the host: a TAP receives what its guest sends.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received; a frame yet to be segmented is one.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent; a frame yet to be segmented is one.
    pub tx_packets: u64,
    /// Packets that were not sent, for a TAP because its queue was full.
    pub tx_dropped: u64,
}

impl NetNs {
    /// Makes a namespace; its loopback interface is up.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: NEWNET gives this thread alone, which ends below, another network; no memory or fd is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace (not root?)")?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        });
        let fd = made.join().map_err(|_| anyhow!("the thread that makes the namespace panicked"))??;
        let ns = Self { fd: Arc::new(fd) };
        ns.sh("ip link set lo up")?;
        Ok(ns)
    }

    /// That of a process.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let fd = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { fd: Arc::new(fd.into()) })
    }

    /// A command that will run inside; it is killed when the thread that spawns it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        die_with_parent(&mut command);
        let fd = self.fd.clone();
        let enter = move || {
            move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            // SAFETY: the child has one thread; NEWNS changes what it has mounted, no memory or fd.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
            Ok(())
        };
        // SAFETY: between fork and exec the hook makes system calls only; short paths are converted on the stack, so it
        // allocates nothing, and it takes no lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a shell line inside (10 s at most) and returns what it printed; an error has its standard error.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.spawn(line)?.wait_output(Duration::from_secs(10))?.ok(line)
    }

    /// Starts a shell line inside.
    pub fn spawn(&self, line: &str) -> Result<Process> {
        let mut command = self.command("sh");
        command.args(["-c", line]);
        Process::spawn(command)
    }

    /// Starts one of the traffic [`tools`](crate::tools) inside: `ns.tool("tcp-recv 5001")`.
    pub fn tool(&self, line: &str) -> Result<Process> {
        Process::spawn(self.tool_command(line)?)
    }

    /// The same for one that may run as long as `lifetime`.
    pub fn tool_for(&self, line: &str, lifetime: Duration) -> Result<Process> {
        Process::spawn_for(self.tool_command(line)?, lifetime)
    }

    fn tool_command(&self, line: &str) -> Result<Command> {
        let mut command = self.command(assets::agent()?);
        command.arg("tool").args(line.split_whitespace());
        Ok(command)
    }

    /// Makes a persistent TAP interface that has a virtio-net header, for QEMU's own `-netdev tap`.
    pub fn add_tap(&self, name: &str, queues: u16) -> Result<()> {
        let multi_queue = if queues > 1 { "multi_queue" } else { "" };
        self.sh(&format!("ip tuntap add {name} mode tap vnet_hdr {multi_queue}")).map(drop)
    }

    /// Sets a value below `net` of this namespace: `ns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")`. A key that has
    /// slashes is taken as a path, as sysctl does for interfaces with dots in their names.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let key = if key.contains('/') { key.into() } else { key.replace('.', "/") };
        let path = format!("/proc/sys/{key}");
        self.run_in(|| fs::write(&path, value))?.with_context(|| format!("cannot set {path}"))
    }

    /// Runs a closure on a thread inside, for instance to open sockets there.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow!("a closure run in a namespace panicked"))?
        })
    }

    /// What an interface has carried so far.
    pub fn counters(&self, interface: &str) -> Result<Counters> {
        Counters::of(interface, &self.run_in(|| fs::read_to_string("/proc/thread-self/net/dev"))??)
    }

    /// A path by which other programs can enter it while this program lives (`nsenter --net=PATH`).
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

impl Counters {
    /// Those of an interface in a `/proc/net/dev`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(interface: &str, table: &str) -> Result<Self> {
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        let numbers: Vec<u64> = line
            .with_context(|| format!("no interface {interface}"))?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [rx_bytes, rx_packets, _, _, _, _, _, _, tx_bytes, tx_packets, _, tx_dropped, ..] = numbers[..] else {
            bail!("interface {interface} has too few counters: {numbers:?}");
        };
        Ok(Counters { rx_bytes, rx_packets, tx_bytes, tx_packets, tx_dropped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_private_and_seen_by_commands() {
        let (one, other) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        one.add_tap("tap0", 1).unwrap();
        assert_eq!(one.sh("ls /sys/class/net").unwrap(), "lo\ntap0\n");
        assert_eq!(other.sh("ls /sys/class/net").unwrap(), "lo\n");
        assert_eq!(one.counters("tap0").unwrap().rx_bytes, 0);
        one.sh("ping -c 1 -W 5 127.0.0.1").unwrap();
        assert!(one.counters("lo").unwrap().tx_packets >= 2);
        assert!(other.counters("tap0").is_err());
        assert!(other.sh("ip link show tap0").unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn sysctl_changes_this_namespace_only() {
        let (one, other) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        one.sysctl("net.ipv6.conf.all.disable_ipv6", "1").unwrap();
        let read = "cat /proc/sys/net/ipv6/conf/all/disable_ipv6";
        assert_eq!(one.sh(read).unwrap(), "1\n");
        assert_eq!(other.sh(read).unwrap(), "0\n");
    }
}
