//! One guest on one of two peers, everything else the same.

#![forbid(unsafe_code)]

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use guest_tests::guest::Accel;
use guest_tests::{Guest, NetNs, Nic, Qemu, Slots, Vnicd};
use serde_json::json;

/// The host's address.
pub const HOST: &str = "10.77.0.1";
/// The guest's address.
pub const GUEST: &str = "10.77.0.2";

/// What makes QEMU's virtio-net-pci a device that does nothing for its driver.
const NO_OFFLOADS: &str = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                           host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off";

/// Nothing of a run lives longer.
const LIFETIME: Duration = Duration::from_secs(300);
/// After traffic, what is delayed in guest and kernel happens within this time.
const SETTLE: Duration = Duration::from_secs(2);

/// What carries the guest's packets to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The daemon.
    Vnicd,
    /// The daemon with AF_XDP on a veth pair, whose far end stands in the TAP's place.
    VnicdAfXdp,
    /// QEMU's own `-netdev tap`.
    QemuTap,
    /// The same with the kernel's own back end: `vhost=on`.
    KernelVhost,
}

impl Peer {
    /// Those that this machine has, ours first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let vhost = Path::new("/dev/vhost-net").exists().then_some(Self::KernelVhost);
        [Self::Vnicd, Self::QemuTap].into_iter().chain(vhost).collect()
    }

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vnicd => "vnicd",
            Self::VnicdAfXdp => "vnicd, AF_XDP on veth",
            Self::QemuTap => "QEMU tap",
            Self::KernelVhost => "QEMU tap, vhost=on",
        }
    }
}

/// How large the guest is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its processors.
    pub cpus: u16,
    /// The queue pairs of its network device.
    pub pairs: u16,
    /// Whether the device makes checksums and segments for it.
    pub offloads: bool,
}

impl Shape {
    /// One of each.
    pub const ONE: Self = Self { cpus: 1, pairs: 1, offloads: true };
}

/// A guest with an address, and the host's end in a namespace of its own.
#[derive(Debug)]
pub struct Rig {
    // Taken down in this order.
    guest: Guest,
    vnicd: Option<Vnicd>,
    ns: NetNs,
}

/// What the daemon used while its guest was quiet.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// How often one of its threads slept again, which is once a wake-up.
    pub switches: u64,
    /// Time on a processor.
    pub cpu: Duration,
    /// Resident memory that is not the guest's.
    pub private_bytes: u64,
}

impl Rig {
    /// Boots the guest: QEMU 10, 512 MiB, no IPv6 on either side.
    pub fn boot(peer: Peer, shape: Shape, slots: &Slots) -> Result<Self> {
        Self::boot_on(peer, &[], shape, slots)
    }

    /// Boots it on a daemon with further options.
    pub fn boot_vnicd(args: &[&str], shape: Shape, slots: &Slots) -> Result<Self> {
        Self::boot_on(Peer::Vnicd, args, shape, slots)
    }

    /// Boots it on a peer; `args` are the daemon's alone.
    pub fn boot_on(peer: Peer, args: &[&str], shape: Shape, slots: &Slots) -> Result<Self> {
        let ns = NetNs::new()?;
        for key in ["all", "default"] {
            ns.sysctl(&format!("net.ipv6.conf.{key}.disable_ipv6"), "1")?;
        }
        let (vnicd, nic) = match peer {
            Peer::Vnicd => {
                let vnicd = Vnicd::builder(&ns).args(args.to_vec()).lifetime(LIFETIME).start()?;
                let nic = Nic::vhost_user(vnicd.socket());
                (Some(vnicd), nic)
            }
            Peer::VnicdAfXdp => {
                // Nobody but a NIC's far end finishes checksums, and a NIC joins what it received.
                ns.sh("ip link add up0 type veth peer name tap0 && ethtool -K tap0 tx off gro on")?;
                let vnicd = Vnicd::builder(&ns).uplink("af-xdp=up0").args(args.to_vec()).lifetime(LIFETIME).start()?;
                let nic = Nic::vhost_user(vnicd.socket());
                (Some(vnicd), nic)
            }
            Peer::QemuTap | Peer::KernelVhost => {
                ns.add_tap("tap0", shape.pairs)?;
                let nic = Nic::tap("tap0");
                (None, if peer == Peer::KernelVhost { nic.kernel_vhost() } else { nic })
            }
        };
        ns.sh(&format!("ip addr add {HOST}/24 dev tap0 && ip link set tap0 up"))?;
        let guest = boot(&ns, nic, shape, slots);
        let rig = Self { guest: guest.map_err(|error| with_log(error, vnicd.as_ref()))?, vnicd, ns };
        rig.explained(rig.address())?;
        Ok(rig)
    }

    /// Gives the guest its address and tells both ends the other's, so that no ARP disturbs a measurement.
    fn address(&self) -> Result<()> {
        let host_mac = self.ns.sh("cat /sys/class/net/tap0/address")?;
        let guest_mac = self.guest.run_ok("cat /sys/class/net/eth0/address")?;
        self.ns.sh(&format!("ip neigh replace {GUEST} lladdr {} dev tap0 nud permanent", guest_mac.trim()))?;
        self.guest.run_ok(&format!(
            "ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up && arp -i eth0 -s {HOST} {}",
            host_mac.trim()
        ))?;
        self.guest.run_ok(&format!("ping -c 1 -W 5 {HOST}")).context("no packet gets through").map(drop)
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The namespace of the host's end.
    pub fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// The mean round trip of `count` pings from the host, 10 ms apart, in milliseconds.
    pub fn ping_ms(&self, count: u32) -> Result<f64> {
        average_ms(&self.ns.sh(&format!("ping -q -i 0.01 -c {count} -W 2 {GUEST}"))?)
    }

    /// What the daemon uses while the guest is quiet; `None` when there is no daemon.
    pub fn idle(&self, time: Duration) -> Result<Option<Idle>> {
        let Some(vnicd) = &self.vnicd else {
            return Ok(None);
        };
        thread::sleep(SETTLE);
        let before = vnicd.usage()?;
        thread::sleep(time);
        let after = vnicd.usage()?;
        Ok(Some(Idle {
            switches: after.voluntary_switches().saturating_sub(before.voluntary_switches()),
            cpu: after.cpu.saturating_sub(before.cpu),
            private_bytes: after.rss_private_bytes,
        }))
    }

    /// Version of QEMU and what executes the guest: `QEMU 10.0.2, TCG`.
    pub fn describe(&self) -> Result<String> {
        let version = self.guest.qmp(json!({ "execute": "query-version" }))?;
        let part = |name: &str| version["qemu"][name].to_string();
        let accel = match self.guest.accel() {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG",
        };
        Ok(format!("QEMU {}.{}.{}, {accel}", part("major"), part("minor"), part("micro")))
    }

    /// Adds the daemon's log to an error.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| with_log(error, self.vnicd.as_ref()))
    }
}

fn boot(ns: &NetNs, nic: Nic, shape: Shape, slots: &Slots) -> Result<Guest> {
    let nic = nic.queue_pairs(shape.pairs).properties(if shape.offloads { "" } else { NO_OFFLOADS });
    let guest = Guest::builder().qemu(Qemu::V10).memory_mib(512).cpus(shape.cpus).cmdline("ipv6.disable=1");
    guest.nic(nic).ns(ns).in_slots(slots).lifetime(LIFETIME).boot()
}

/// Packets a second of `size` bytes of payload that a guest sends when the daemon drops them unseen: its own limit.
pub fn guest_alone(shape: Shape, slots: &Slots, size: u32, seconds: u64) -> Result<f64> {
    let ns = NetNs::new()?;
    // It asks for no kick, which would cost the guest more than a packet.
    let vnicd = Vnicd::builder(&ns).uplink("discard,unread").args(["--mode", "polling"]).control();
    let vnicd = vnicd.lifetime(LIFETIME).start()?;
    let guest = boot(&ns, Nic::vhost_user(vnicd.socket()), shape, slots)?;
    guest.run_ok(&format!(
        "ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up && arp -i eth0 -s {HOST} 02:00:00:00:00:01"
    ))?;
    let sent = || vnicd.counters("tx_packets").map(|pairs| pairs.iter().sum::<u64>());
    let before = sent()?;
    guest
        .run_for(&format!("tool udp-flood {HOST} 9 {size} {seconds}"), Duration::from_secs(seconds + 25))?
        .ok("flood")?;
    Ok((sent()? - before) as f64 / seconds as f64)
}

fn with_log(error: anyhow::Error, vnicd: Option<&Vnicd>) -> anyhow::Error {
    match vnicd {
        Some(vnicd) => anyhow!("{error:#}\n--- vnicd\n{}", vnicd.log().join("\n")),
        None => error,
    }
}

/// The average in the last line of ping: `rtt min/avg/max/mdev = 0.1/0.2/0.3/0.0 ms`.
fn average_ms(printed: &str) -> Result<f64> {
    let average = printed.lines().find_map(|line| line.strip_prefix("rtt ")?.split_once(" = ")?.1.split('/').nth(1));
    average.and_then(|text| text.parse().ok()).with_context(|| format!("ping told no average: {printed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_of_a_ping_is_found() {
        let printed = "100 packets transmitted, 100 received, 0% packet loss, time 999ms\n\
                       rtt min/avg/max/mdev = 0.412/1.337/9.001/0.700 ms, pipe 2\n";
        assert_eq!(average_ms(printed).unwrap(), 1.337);
        assert!(average_ms("100% packet loss").is_err());
    }
}
