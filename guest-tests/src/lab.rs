//! What most tests stand on: a namespace with vnicd and an address on its uplink, and guests that have an address too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use crate::assets::Qemu;
use crate::guest::{Guest, GuestProcess, Nic};
use crate::netns::NetNs;
use crate::patience::Patience;
use crate::process::Process;
use crate::tools::READY;
use crate::transfer::{self, Side};
use crate::vnicd::{Vnicd, VnicdBuilder};

/// The host's address.
pub const HOST: &str = "10.77.0.1";
/// The guest's address.
pub const GUEST: &str = "10.77.0.2";
/// The host's IPv6 address.
pub const HOST6: &str = "fd77::1";
/// The guest's IPv6 address.
pub const GUEST6: &str = "fd77::2";

/// How long [`eventually`] waits: generous, for a machine that does other things too.
const EVENTUALLY: Duration = Duration::from_secs(20);

/// A daemon in a namespace of its own.
#[derive(Debug)]
pub struct Lab {
    /// The daemon.
    pub vnicd: Vnicd,
    /// The namespace.
    pub ns: NetNs,
}

impl Lab {
    /// With the uplink tap0, which has [`HOST`] and [`HOST6`].
    pub fn new() -> Result<Self> {
        Self::with(|vnicd| vnicd)
    }

    /// The same with other options for the daemon.
    pub fn with(options: impl for<'a> FnOnce(VnicdBuilder<'a>) -> VnicdBuilder<'a>) -> Result<Self> {
        Self::in_ns(NetNs::new()?, options)
    }

    /// The same in a namespace that was prepared.
    pub fn in_ns(ns: NetNs, options: impl for<'a> FnOnce(VnicdBuilder<'a>) -> VnicdBuilder<'a>) -> Result<Self> {
        let vnicd = options(Vnicd::builder(&ns)).start()?;
        address_host(&ns, "tap0")?;
        Ok(Self { vnicd, ns })
    }

    /// A network device that this daemon serves.
    pub fn nic(&self) -> Nic {
        Nic::vhost_user(self.vnicd.socket())
    }

    /// A guest with [`GUEST`] and [`GUEST6`] on a device that this daemon serves.
    pub fn boot(&self, qemu: Qemu) -> Result<Guest> {
        self.boot_with(qemu, "")
    }

    /// The same with properties of QEMU's device.
    pub fn boot_with(&self, qemu: Qemu, properties: &str) -> Result<Guest> {
        let guest = Guest::builder().qemu(qemu).nic(self.nic().properties(properties)).boot()?;
        address_guest(&guest)?;
        Ok(guest)
    }

    /// Pings from both sides.
    pub fn ping(&self, guest: &Guest) -> Result<()> {
        guest.run_ok(&format!("ping -c 2 -i 0.2 -W 5 {HOST}"))?;
        self.ns.sh(&format!("ping -c 2 -i 0.2 -W 5 {GUEST}")).map(drop)
    }

    /// Moves `bytes` bytes from the guest and as many to it, each over one TCP connection, compared by hash.
    pub fn tcp_both_ways(&self, guest: &Guest, bytes: u64) -> Result<()> {
        transfer::tcp(Side::Guest(guest), Side::Host(&self.ns), HOST, bytes)?;
        transfer::tcp(Side::Host(&self.ns), Side::Guest(guest), GUEST, bytes).map(drop)
    }

    /// Makes each side know the other's MAC address for good, so that nobody asks for it while a test wants silence or
    /// while the other side cannot answer.
    pub fn settle_neighbours(&self, guest: &Guest) -> Result<()> {
        let mac = guest.run_ok("cat /sys/class/net/eth0/address")?;
        self.ns.sh(&format!("ip neigh replace {GUEST} lladdr {} dev tap0 nud permanent", mac.trim()))?;
        let mac = self.ns.sh("cat /sys/class/net/tap0/address")?;
        guest.run_ok(&format!("arp -s {HOST} {}", mac.trim())).map(drop)
    }

    /// Waits until the daemon has printed `count` lines that contain `text`.
    pub fn wait_for_lines(&self, text: &str, count: usize) -> Result<()> {
        eventually(&format!("{count} lines of vnicd with \"{text}\""), || Ok(self.lines_with(text) >= count))
    }

    /// How many lines that the daemon printed contain `text`.
    pub fn lines_with(&self, text: &str) -> usize {
        self.vnicd.log().iter().filter(|line| line.contains(text)).count()
    }
}

/// Two TCP connections, one each way, on which data moves until this value is dropped.
#[derive(Debug)]
pub struct Traffic<'a> {
    _inside: [GuestProcess<'a>; 2],
    _outside: [Process; 2],
}

impl<'a> Traffic<'a> {
    /// Starts it; returns when data has come both ways over the lab's tap0.
    pub fn start(lab: &Lab, guest: &'a Guest) -> Result<Self> {
        const ENDLESS: u64 = 1 << 50;
        let receivers = (guest.spawn("exec tool tcp-recv 5001")?, lab.ns.tool("tcp-recv 5002")?);
        receivers.0.wait_for_line(READY, EVENTUALLY)?;
        receivers.1.wait_for_line(READY, EVENTUALLY)?;
        let before = lab.ns.counters("tap0")?;
        let to_host = guest.spawn(&format!("exec tool tcp-send {HOST} 5002 {ENDLESS} 1"))?;
        let to_guest = lab.ns.tool(&format!("tcp-send {GUEST} 5001 {ENDLESS} 2"))?;
        eventually("data in both directions", || {
            let now = lab.ns.counters("tap0")?;
            Ok((now.rx_bytes - before.rx_bytes).min(now.tx_bytes - before.tx_bytes) > 4 << 20)
        })?;
        Ok(Self { _inside: [receivers.0, to_host], _outside: [receivers.1, to_guest] })
    }
}

/// Gives the host's end its addresses.
pub fn address_host(ns: &NetNs, dev: &str) -> Result<()> {
    ns.sh(&format!("ip addr add {HOST}/24 dev {dev} && ip link set {dev} up"))?;
    let with_ipv6 = format!("test $(cat /proc/sys/net/ipv6/conf/{dev}/disable_ipv6) = 1");
    ns.sh(&format!("{with_ipv6} || ip addr add {HOST6}/64 dev {dev} nodad")).map(drop)
}

/// Gives the guest's device its addresses, which are usable at once.
pub fn address_guest(guest: &Guest) -> Result<()> {
    guest.run_ok(&format!("ip addr add {GUEST}/24 dev eth0"))?;
    let ipv6 = "/proc/sys/net/ipv6/conf/eth0";
    guest.run_ok(&format!("test ! -d {ipv6} || echo 0 > {ipv6}/accept_dad"))?;
    guest.run_ok("ip link set eth0 up")?;
    guest.run_ok(&format!("test ! -d {ipv6} || ip addr add {GUEST6}/64 dev eth0")).map(drop)
}

/// Waits until `probe` says yes.
pub fn eventually(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut patience = Patience::new(EVENTUALLY);
    while !probe()? {
        if patience.is_over() {
            bail!("not within {EVENTUALLY:?}: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Does `work` while `other` runs on a thread of its own, which is told to stop when the work has ended, well or not.
pub fn beside<T: Send>(
    other: impl FnOnce(&AtomicBool) -> Result<T> + Send,
    work: impl FnOnce() -> Result<()>,
) -> Result<T> {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| other(&stop));
        let stop_at_the_end = Stop(&stop);
        let done = work();
        drop(stop_at_the_end);
        let other = other.join().map_err(|_| anyhow!("the thread beside panicked"))?;
        done.and(other)
    })
}

/// Says what a test leaves out and why, also where the output of tests that pass is not shown.
pub fn left_out(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {what}");
}

/// Fails unless the daemon ended by itself with this exit code.
pub fn ended_with(status: std::process::ExitStatus, code: i32) -> Result<()> {
    ensure!(status.code() == Some(code), "vnicd ended with {status}, not with exit code {code}");
    Ok(())
}
