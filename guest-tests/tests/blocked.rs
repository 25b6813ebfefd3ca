//! What cannot be moved costs no CPU, and neither does a guest that is quiet.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{self, GUEST, HOST, Traffic, eventually};
use guest_tests::{Guest, Lab, NetNs, Qemu, Signal};

const MB: u64 = 1_000_000;
/// As good as nothing in a second: two of the kernel's ticks. A worker that spins spends a hundred.
const NOTHING: Duration = Duration::from_millis(20);

fn spends_nothing(lab: &Lab, while_what: &str) -> Result<()> {
    let spent = lab.vnicd.spends_in(Duration::from_secs(1))?;
    ensure!(spent.cpu <= NOTHING, "vnicd spent {spent:?} in a second {while_what}");
    Ok(())
}

/// The guest's receive buffers are used up and the guest does not run, so it posts no new ones, and frames wait.
fn no_receive_buffers(qemu: Qemu, properties: &str) -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot_with(qemu, properties)?;
    lab.settle_neighbours(&guest)?;
    lab.tcp_both_ways(&guest, MB)?;
    let dropped = || lab.ns.counters("tap0").map(|counters| counters.tx_dropped);

    guest.qemu().signal(Signal::STOP)?;
    let before = dropped()?;
    let flood = lab.ns.tool(&format!("udp-send {GUEST} 9 20000 1400 1"))?;
    eventually("the TAP's queue is full", || Ok(dropped()? > before))?;
    flood.wait_output(Duration::from_secs(20))?.ok("udp-send")?;

    let before = dropped()?;
    let trickle = lab.ns.tool(&format!("udp-send {GUEST} 9 200 100 2 100"))?;
    eventually("frames that keep coming", || Ok(dropped()? > before))?;
    let spent = lab.vnicd.spends_in(Duration::from_secs(1))?;
    ensure!(spent.cpu <= NOTHING, "vnicd spent {spent:?} in a second without receive buffers");
    ensure!(spent.voluntary_switches <= 3, "vnicd woke up for frames that it cannot move: {spent:?}");
    trickle.wait_output(Duration::from_secs(20))?.ok("udp-send")?;
    ensure!(dropped()? >= before + 200, "the TAP's queue was read, so the receive ring was not empty");

    guest.qemu().signal(Signal::CONT)?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)
}

#[test]
fn no_receive_buffers_with_event_idx() -> Result<()> {
    no_receive_buffers(Qemu::V10, "")
}

#[test]
fn no_receive_buffers_without_event_idx() -> Result<()> {
    no_receive_buffers(Qemu::V7, "event_idx=off")
}

#[test]
fn a_tap_that_is_down() -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot(Qemu::V10)?;
    lab.settle_neighbours(&guest)?;
    lab.tcp_both_ways(&guest, MB)?;
    for round in 1..=2 {
        lab.ns.sh("ip link set tap0 down")?;
        let before = lab.ns.counters("tap0")?.rx_packets;
        // As fast as it can, and then slowly, with time to sleep between datagrams.
        guest.run_ok(&format!("tool udp-send {HOST} 9 20000 600 1"))?;
        let trickle = guest.spawn(&format!("exec tool udp-send {HOST} 9 150 600 1 100"))?;
        spends_nothing(&lab, "with the TAP down and a guest that sends now and then")?;
        ensure!(trickle.wait(Duration::from_secs(20))?.status == 0, "the guest could not send");
        spends_nothing(&lab, "with the TAP down and a guest that is quiet")?;
        ensure!(lab.ns.counters("tap0")?.rx_packets == before, "an interface that is down received frames");

        lab.ns.sh("ip link set tap0 up")?;
        lab.settle_neighbours(&guest)?;
        lab.tcp_both_ways(&guest, 8 * MB + 1)?;
        let told = (lab.lines_with("uplink is down"), lab.lines_with("uplink is up again"));
        ensure!(told == (round, round), "not one line each time: {told:?}\n{}", lab.vnicd.log().join("\n"));
    }
    Ok(())
}

#[test]
fn a_tap_that_vanishes() -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot(Qemu::V10)?;
    lab.settle_neighbours(&guest)?;
    let traffic = Traffic::start(&lab, &guest)?;
    let lines = lab.vnicd.log().len();
    lab.ns.sh("ip link del tap0")?;
    lab.wait_for_lines("uplink has gone", 1)?;
    drop(traffic);
    guest.run_ok(&format!("tool udp-send {HOST} 9 20000 600 1"))?;
    let trickle = guest.spawn(&format!("exec tool udp-send {HOST} 9 150 600 1 100"))?;
    spends_nothing(&lab, "without an uplink and with a guest that sends now and then")?;
    ensure!(trickle.wait(Duration::from_secs(20))?.status == 0, "the guest could not send");
    spends_nothing(&lab, "without an uplink and with a guest that is quiet")?;

    // One line, and no flood of others: the link is seen to go down, and that the interface is down first if a frame
    // comes at that moment.
    let told = lab.vnicd.log().split_off(lines);
    let known = ["uplink has gone", "uplink is down", "link down"];
    let expected = |line: &String| known.iter().any(|text| line.contains(text));
    ensure!(lab.lines_with("uplink has gone") == 1, "not one line about it:\n{}", told.join("\n"));
    ensure!(told.len() <= 3 && told.iter().all(expected), "too many lines about it:\n{}", told.join("\n"));

    // The device goes on without: its driver can still stop and start it.
    guest.reboot()?;
    lab::address_guest(&guest)?;
    guest.run_ok(&format!("arp -s {HOST} 02:00:00:00:00:01 && tool udp-send {HOST} 9 1000 600 1"))?;
    spends_nothing(&lab, "without an uplink after a reboot")?;
    lab::ended_with(lab.vnicd.terminate()?, 0)
}

/// A namespace in which nobody speaks IPv6, that is, by itself.
fn quiet_ns() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// Not one thread wakes up in three seconds, and the daemon is small.
fn asleep(lab: &Lab, what: &str) -> Result<()> {
    const SMALL: u64 = 16 << 20;
    // What was under way before is over, such as the last acknowledgement.
    thread::sleep(Duration::from_secs(1));
    let before = lab.vnicd.usage()?;
    thread::sleep(Duration::from_secs(3));
    let after = lab.vnicd.usage()?;
    ensure!(after.since(&before).voluntary_switches == 0, "vnicd woke up, {what}: {before:#?} {after:#?}");
    ensure!(after.rss_private_bytes < SMALL, "vnicd holds {} bytes, {what}", after.rss_private_bytes);
    Ok(())
}

fn idle(qemu: Qemu) -> Result<()> {
    let lab = Lab::in_ns(quiet_ns()?, |vnicd| vnicd)?;
    asleep(&lab, "before a front end came")?;
    let guest = Guest::builder().qemu(qemu).nic(lab.nic()).cmdline("ipv6.disable=1").boot()?;
    lab::address_guest(&guest)?;
    lab.settle_neighbours(&guest)?;
    lab.ping(&guest)?;
    asleep(&lab, "with a guest that had pinged")?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)?;
    asleep(&lab, "with a guest that had moved a lot")?;

    // The sleep was no coma.
    lab.ping(&guest).context("after the sleep")?;
    guest.kill()?;
    lab.wait_for_lines("front end gone", 1)?;
    asleep(&lab, "after the front end had gone")
}

#[test]
fn qemu_7_idle_means_asleep() -> Result<()> {
    idle(Qemu::V7)
}

#[test]
fn qemu_10_idle_means_asleep() -> Result<()> {
    idle(Qemu::V10)
}
