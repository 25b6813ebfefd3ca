//! Drivers, guests and front ends that stop, die and come back on a daemon that stays.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{self, GUEST, HOST, Traffic, eventually};
use guest_tests::{Counters, Guest, Lab, Qemu, Side, Usage, transfer};

const MB: u64 = 1_000_000;

/// The driver lets go of its device and takes it again while the host keeps sending.
fn a_driver_comes_and_goes(qemu: Qemu) -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot(qemu)?;
    lab.settle_neighbours(&guest)?;
    let _flood = lab.ns.spawn(&format!("exec ping -q -f {GUEST}"))?;
    for round in 1..=4 {
        let stopped = lab.lines_with("ring stopped");
        guest.run_ok("echo virtio0 > /sys/bus/virtio/drivers/virtio_net/unbind")?;
        ensure!(guest.run("test -e /sys/class/net/eth0")?.status == 1, "the driver kept its device");
        lab.wait_for_lines("ring stopped", stopped + 2)?;
        guest.run_ok("echo virtio0 > /sys/bus/virtio/drivers/virtio_net/bind")?;
        lab::address_guest(&guest)?;
        lab.tcp_both_ways(&guest, 2 * MB + round)?;
    }
    lab.tcp_both_ways(&guest, 16 * MB + 1)
}

#[test]
fn qemu_7_driver_comes_and_goes() -> Result<()> {
    a_driver_comes_and_goes(Qemu::V7)
}

#[test]
fn qemu_10_driver_comes_and_goes() -> Result<()> {
    a_driver_comes_and_goes(Qemu::V10)
}

/// The guest reboots by itself, is reset under load, and its QEMU ends and starts in order.
fn a_guest_boots_anew(qemu: Qemu) -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot(qemu)?;
    lab.tcp_both_ways(&guest, MB)?;
    guest.reboot()?;
    lab::address_guest(&guest)?;
    lab.tcp_both_ways(&guest, 4 * MB + 1)?;

    let traffic = Traffic::start(&lab, &guest)?;
    guest.reset()?;
    drop(traffic);
    lab::address_guest(&guest)?;
    lab.tcp_both_ways(&guest, 4 * MB + 1)?;

    guest.quit()?;
    lab.wait_for_lines("front end gone", 1)?;
    lab.tcp_both_ways(&lab.boot(qemu)?, 4 * MB + 1)
}

#[test]
fn qemu_7_guest_boots_anew() -> Result<()> {
    a_guest_boots_anew(Qemu::V7)
}

#[test]
fn qemu_10_guest_boots_anew() -> Result<()> {
    a_guest_boots_anew(Qemu::V10)
}

/// Whatever a front end that was killed under load held is let go.
#[test]
fn a_killed_front_end_leaves_nothing_behind() -> Result<()> {
    /// Room for what the allocator keeps.
    const SLACK: u64 = 512 << 10;
    let lab = Lab::new()?;
    let mut first: Option<Usage> = None;
    for (round, qemu) in [Qemu::V10, Qemu::V7, Qemu::V10, Qemu::V10].into_iter().enumerate() {
        let guest = lab.boot(qemu)?;
        lab.tcp_both_ways(&guest, MB)?;
        let _traffic = Traffic::start(&lab, &guest)?;
        guest.kill()?;
        lab.wait_for_lines("front end gone", round + 1)?;
        let maps = || fs::read_to_string(format!("/proc/{}/maps", lab.vnicd.pid()));
        eventually("the guest's memory is let go", || Ok(!maps()?.contains("memfd:")))?;
        match &first {
            None => {
                eventually("the connection's thread is gone", || {
                    Ok(lab.vnicd.usage()?.threads_named("front-end").count() == 0)
                })?;
                first = Some(lab.vnicd.usage()?);
            }
            Some(first) => eventually("as many descriptors and threads as after the first", || {
                let now = lab.vnicd.usage()?;
                Ok(now.fds == first.fds && now.threads.len() == first.threads.len())
            })
            .with_context(|| format!("after round {round}: {first:?}, now {:?}", lab.vnicd.usage()))?,
        }
    }
    let (first, last) = (first.context("no round")?.rss_private_bytes, lab.vnicd.usage()?.rss_private_bytes);
    ensure!(last <= first + SLACK, "private memory has grown from {first} to {last} bytes");
    ensure!(lab.lines_with("ERROR") == 0, "errors in the log:\n{}", lab.vnicd.log().join("\n"));
    Ok(())
}

/// Stops the guest's processors, and with them its rings, whenever another part of a payload has passed.
fn a_stream_survives_pauses(lab: &Lab, guest: &Guest, to_guest: bool) -> Result<()> {
    const BYTES: u64 = 64 * MB + 1;
    const PAUSES: u64 = 4;
    let (inside, outside) = (Side::Guest(guest), Side::Host(&lab.ns));
    let (from, to, address) = if to_guest { (outside, inside, GUEST) } else { (inside, outside, HOST) };
    let moved = |counters: Counters| if to_guest { counters.tx_bytes } else { counters.rx_bytes };
    let start = moved(lab.ns.counters("tap0")?);
    thread::scope(|scope| {
        let transfer = scope.spawn(move || transfer::tcp(from, to, address, BYTES));
        for pause in 1..=PAUSES {
            let goal = start + BYTES * pause / (PAUSES + 2);
            eventually("progress of the transfer", || {
                Ok(transfer.is_finished() || moved(lab.ns.counters("tap0")?) > goal)
            })?;
            guest.pause()?;
            ensure!(!transfer.is_finished(), "the transfer ended before pause {pause}");
            let before = lab.ns.counters("tap0")?;
            thread::sleep(Duration::from_millis(200));
            let after = lab.ns.counters("tap0")?;
            ensure!(moved(before) == moved(after), "frames moved to or from a guest that is stopped");
            guest.resume()?;
        }
        transfer.join().expect("the transfer does not panic").map(drop)
    })
}

fn streams_survive_pauses(qemu: Qemu) -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot(qemu)?;
    a_stream_survives_pauses(&lab, &guest, false)?;
    a_stream_survives_pauses(&lab, &guest, true)
}

#[test]
fn qemu_7_streams_survive_pauses() -> Result<()> {
    streams_survive_pauses(Qemu::V7)
}

#[test]
fn qemu_10_streams_survive_pauses() -> Result<()> {
    streams_survive_pauses(Qemu::V10)
}

#[test]
fn a_second_front_end_is_turned_away() -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot(Qemu::V10)?;
    let traffic = Traffic::start(&lab, &guest)?;
    let rings = lab.lines_with("ring st");
    for attempt in 1..=3 {
        let mut second = UnixStream::connect(lab.vnicd.socket())?;
        second.set_read_timeout(Some(Duration::from_secs(10)))?;
        ensure!(second.read(&mut [0])? == 0, "it was told something");
        lab.wait_for_lines("turned away", attempt)?;
    }
    lab.tcp_both_ways(&guest, 16 * MB + 1)?;
    ensure!(lab.lines_with("ring st") == rings && lab.lines_with("front end gone") == 0, "the first one was disturbed");
    drop(traffic);
    guest.kill()?;
    lab.wait_for_lines("front end gone", 1)?;
    lab.tcp_both_ways(&lab.boot(Qemu::V7)?, MB)
}
