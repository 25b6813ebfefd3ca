//! Where a TAP comes from and what it hangs on: a bridge, a name of the kernel's choice, an operator who made it before.

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{self, GUEST, HOST, eventually};
use guest_tests::{Guest, Lab, NetNs, Nic, Qemu, Side, Slots, Vnicd, transfer};

const MB: u64 = 1_000_000;
/// A user without any right.
const NOBODY: u32 = 65534;

/// The fields of the line that tells of the uplink, such as `uplink="tap tap0" queue_pairs=32`.
fn uplink_line(vnicd: &Vnicd) -> Result<String> {
    vnicd.log().into_iter().find(|line| line.contains("queue_pairs=")).context("no line about the uplink")
}

/// Two daemons on one bridge: guests reach the host and each other.
#[test]
fn guests_meet_on_a_bridge() -> Result<()> {
    const OTHER: &str = "10.77.0.3";
    let slots = Slots::take(2);
    let ns = NetNs::new()?;
    ns.sh("ip link add br0 type bridge")?;
    lab::address_host(&ns, "br0")?;
    let start = |tap: &str| Vnicd::builder(&ns).uplink(format!("tap={tap},bridge=br0")).start();
    let vnicds = [start("tap0")?, start("tap1")?];
    for tap in ["tap0", "tap1"] {
        ensure!(ns.sh(&format!("basename $(readlink /sys/class/net/{tap}/master)"))?.trim() == "br0");
    }
    let boot =
        |vnicd: &Vnicd, qemu| Guest::builder().in_slots(&slots).qemu(qemu).nic(Nic::vhost_user(vnicd.socket())).boot();
    let (one, other) = (boot(&vnicds[0], Qemu::V10)?, boot(&vnicds[1], Qemu::V7)?);
    lab::address_guest(&one)?;
    other.run_ok(&format!("ip addr add {OTHER}/24 dev eth0 && ip link set eth0 up"))?;

    let host = Side::Host(&ns);
    for (guest, address) in [(&one, GUEST), (&other, OTHER)] {
        transfer::tcp(Side::Guest(guest), host, HOST, 8 * MB + 1)?;
        transfer::tcp(host, Side::Guest(guest), address, 8 * MB + 1)?;
    }
    transfer::tcp(Side::Guest(&one), Side::Guest(&other), OTHER, 8 * MB + 1)?;
    transfer::tcp(Side::Guest(&other), Side::Guest(&one), GUEST, 8 * MB + 1).map(drop)
}

/// Without `--uplink` the kernel picks a name, which is logged; the interface goes with its daemon.
#[test]
fn the_kernel_picks_a_name() -> Result<()> {
    let ns = NetNs::new()?;
    let first = Vnicd::builder(&ns).default_uplink().start()?;
    let second = Vnicd::builder(&ns).default_uplink().start()?;
    for (vnicd, name) in [(&first, "vnic0"), (&second, "vnic1")] {
        let line = uplink_line(vnicd)?;
        ensure!(line.contains("made") && line.contains(&format!("uplink=\"tap {name}\"")), "not {name}: {line}");
    }
    let lab = Lab { vnicd: second, ns };
    lab::address_host(&lab.ns, "vnic1")?;
    let guest = lab.boot(Qemu::V10)?;
    lab.tcp_both_ways(&guest, 4 * MB + 1)?;
    lab::ended_with(lab.vnicd.terminate()?, 0)?;
    eventually("the interface is gone", || Ok(lab.ns.sh("ls /sys/class/net")? == "lo\nvnic0\n"))?;
    // The other one has not been touched.
    ensure!(first.process().try_status()?.is_none());
    Ok(())
}

/// A TAP that an operator made serves one daemon after another, and stays.
#[test]
fn a_tap_that_was_there() -> Result<()> {
    let ns = NetNs::new()?;
    ns.add_tap("tap0", 2)?;
    ns.sh("ip link set tap0 address 02:00:00:00:77:01")?;
    for qemu in [Qemu::V7, Qemu::V10] {
        let lab = Lab::in_ns(ns.clone(), |vnicd| vnicd)?;
        let line = uplink_line(&lab.vnicd)?;
        ensure!(line.contains("opened") && line.contains("queue_pairs=32"), "{line}");
        let guest = lab.boot(qemu)?;
        lab.tcp_both_ways(&guest, 8 * MB + 1)?;
        lab::ended_with(lab.vnicd.terminate()?, 0)?;
        ensure!(lab.ns.sh("cat /sys/class/net/tap0/address")? == "02:00:00:00:77:01\n");
        lab.ns.sh("ip addr flush dev tap0")?;
    }
    Ok(())
}

#[test]
fn a_tap_with_a_single_queue() -> Result<()> {
    let ns = NetNs::new()?;
    ns.add_tap("tap0", 1)?;
    let lab = Lab::in_ns(ns, |vnicd| vnicd)?;
    let line = uplink_line(&lab.vnicd)?;
    ensure!(line.contains("opened") && line.contains("queue_pairs=1"), "{line}");
    ensure!(lab.lines_with("single queue") == 1, "no word about the single pair:\n{}", lab.vnicd.log().join("\n"));
    let guest = lab.boot(Qemu::V10)?;
    lab.tcp_both_ways(&guest, 8 * MB + 1)?;
    // Its queue cannot be detached, and still nothing may be left over for the next driver.
    guest.reboot()?;
    lab::address_guest(&guest)?;
    lab.tcp_both_ways(&guest, 8 * MB + 1)
}

/// What vnicd itself advises for a user without rights: the operator makes the TAP for that user.
#[test]
fn a_tap_made_for_a_user_without_rights() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sh(&format!("ip tuntap add dev tap0 mode tap multi_queue vnet_hdr user {NOBODY}"))?;
    ns.sh("ip link set tap0 up")?;
    let lab = Lab::in_ns(ns, |vnicd| vnicd.user(NOBODY))?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.vnicd.pid()))?;
    ensure!(status.lines().any(|line| line == "CapEff:\t0000000000000000"), "it has rights:\n{status}");
    let guest = lab.boot(Qemu::V10)?;
    lab.tcp_both_ways(&guest, 8 * MB + 1)
}
