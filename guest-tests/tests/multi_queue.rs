//! Four queue pairs of a guest, and how many of them it uses from moment to moment.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Client;
use guest_tests::driver::nic::VERSION_1;
use guest_tests::lab::{self, GUEST, HOST, eventually};
use guest_tests::transfer::{self, Datagrams};
use guest_tests::{Guest, Lab, NetNs, Qemu, Side, Vnicd};
use vhost::VhostBackend;

const MB: u64 = 1_000_000;
const PAIRS: u16 = 4;

fn boot(lab: &Lab, qemu: Qemu) -> Result<Guest> {
    let guest = Guest::builder().qemu(qemu).cpus(PAIRS).nic(lab.nic().queue_pairs(PAIRS)).boot()?;
    lab::address_guest(&guest)?;
    Ok(guest)
}

/// Queues of the TAP that frames go to, and those that are detached.
fn tap_queues(ns: &NetNs) -> Result<(u32, u32)> {
    let shown = ns.sh("ip -d link show tap0")?;
    let number = |name: &str| {
        let after = shown.split_whitespace().skip_while(|word| *word != name).nth(1);
        after.and_then(|word| word.parse().ok()).with_context(|| format!("no {name} in {shown}"))
    };
    Ok((number("numqueues")?, number("numdisabled")?))
}

/// Waits until the TAP has so many queues that frames go to, in the kernel's own two ways of telling.
fn has_tap_queues(lab: &Lab, attached: u32) -> Result<()> {
    let wanted = (attached, 32 - attached);
    eventually(&format!("{wanted:?} queues of the TAP"), || Ok(tap_queues(&lab.ns)? == wanted))?;
    let listed = lab.ns.sh("ls -d /sys/class/net/tap0/queues/tx-*")?;
    ensure!(listed.lines().count() == attached as usize, "not {attached} queues:\n{listed}");
    Ok(())
}

fn use_pairs(guest: &Guest, pairs: u16) -> Result<()> {
    guest.run_ok(&format!("ethtool -L eth0 combined {pairs}")).map(drop)
}

/// Flows over every pair, each way.
fn all_pairs_carry_traffic(qemu: Qemu) -> Result<()> {
    let lab = Lab::with(|vnicd| vnicd.control())?;
    let guest = boot(&lab, qemu)?;
    // As many as it has processors are used without being asked for.
    has_tap_queues(&lab, PAIRS.into())?;

    thread::scope(|scope| {
        let streams = [(); 4].map(|()| scope.spawn(|| lab.tcp_both_ways(&guest, 8 * MB + 1)));
        streams.into_iter().try_for_each(|stream| stream.join().expect("a transfer does not panic"))
    })?;

    // A guest sends on the pair of the processor that it sends from.
    let before = lab.vnicd.counters("tx_packets")?;
    for cpu in 0..PAIRS {
        guest.run_ok(&format!("taskset {:x} ping -c 3 -i 0.1 -W 5 {HOST}", 1 << cpu))?;
    }
    let after = lab.vnicd.counters("tx_packets")?;
    ensure!(after.len() == usize::from(PAIRS), "{after:?}");
    ensure!(before.iter().zip(&after).all(|(before, after)| before < after), "pairs sent {before:?}, then {after:?}");

    // The TAP spreads flows by their hash.
    let before = lab.vnicd.counters("rx_packets")?;
    let sends_flow = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(b"one of many flows", (GUEST, 9))
    };
    eventually("frames from the host on each pair", || {
        for _ in 0..8 {
            lab.ns.run_in(sends_flow)??;
        }
        Ok(before.iter().zip(lab.vnicd.counters("rx_packets")?).all(|(before, after)| *before < after))
    })?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)
}

/// Without MSI-X all rings share one interrupt.
#[test]
fn qemu_7_all_pairs_carry_traffic() -> Result<()> {
    all_pairs_carry_traffic(Qemu::V7)
}

#[test]
fn qemu_10_all_pairs_carry_traffic() -> Result<()> {
    all_pairs_carry_traffic(Qemu::V10)
}

/// The guest takes pairs out of use and into use while datagrams and streams flow.
#[test]
fn pairs_come_and_go_under_traffic() -> Result<()> {
    const FLOWS: u64 = 4;
    const PPS: u64 = 300;
    const SECONDS: u64 = 9;
    /// Frames under way when a queue of the TAP is detached are lost with it: at this rate hardly any, and never more
    /// than the worker takes in a burst.
    const LOST_AT_A_CHANGE: u64 = 64;
    const CHANGES: [u16; 4] = [1, 4, 1, 4];

    let lab = Lab::new()?;
    let guest = boot(&lab, Qemu::V10)?;
    has_tap_queues(&lab, PAIRS.into())?;
    let (inside, outside) = (Side::Guest(&guest), Side::Host(&lab.ns));
    let datagrams = Datagrams { count: PPS * SECONDS, size: 200, pps: Some(PPS) };
    let changed = AtomicBool::new(false);
    let (arrived, streams) = thread::scope(|scope| {
        let flows = [(); FLOWS as usize].map(|()| scope.spawn(|| transfer::udp(outside, inside, GUEST, datagrams)));
        let streams = scope.spawn(|| {
            let mut streams = 0;
            while !changed.load(Ordering::Relaxed) {
                lab.tcp_both_ways(&guest, 24 * MB + 1)?;
                streams += 2;
            }
            anyhow::Ok(streams)
        });
        let changes = || {
            for pairs in CHANGES {
                thread::sleep(Duration::from_secs(1));
                use_pairs(&guest, pairs)?;
                has_tap_queues(&lab, pairs.into())?;
                ensure!(!flows.iter().any(|flow| flow.is_finished()), "a flow ended before the change to {pairs}");
            }
            Ok(())
        };
        let result = changes();
        changed.store(true, Ordering::Relaxed);
        let streams = streams.join().expect("a transfer does not panic")?;
        result?;
        let arrived = flows.map(|flow| flow.join().expect("a transfer does not panic").map(|came| came.count));
        anyhow::Ok((arrived.into_iter().sum::<Result<u64>>()?, streams))
    })?;
    let sent = FLOWS * datagrams.count;
    let (lost, bound) = (sent - arrived, LOST_AT_A_CHANGE * CHANGES.len() as u64);
    eprintln!("{lost} of {sent} datagrams lost in {} changes, {streams} streams", CHANGES.len());
    ensure!(lost <= bound, "{lost} datagrams lost: more than {bound}");
    Ok(())
}

/// A front end that wants more than there is learns why, and the daemon is there for the next one.
fn more_pairs_than_there_are(qemu: Qemu, asked: u16, line_of_qemu: Option<&str>) -> Result<()> {
    let lab = Lab::with(|vnicd| vnicd.arg("--queue-pairs=2"))?;
    let guest = Guest::builder().qemu(qemu).nic(lab.nic().queue_pairs(asked)).start()?;
    match line_of_qemu {
        Some(line) => eventually(line, || Ok(guest.console().contains(line)))?,
        // QEMU is content with this number, as it takes rings for pairs; its first look at the third pair ends it.
        None => lab.wait_for_lines("ring 4 does not exist: this device has 4; start vnicd with --queue-pairs", 1)?,
    }
    // It tries again for ever.
    drop(guest);
    eventually("no front end", || Ok(lab.vnicd.usage()?.threads_named("front-end").count() == 0))?;
    let guest = Guest::builder().qemu(qemu).cpus(2).nic(lab.nic().queue_pairs(2)).boot()?;
    lab::address_guest(&guest)?;
    lab.tcp_both_ways(&guest, MB)
}

#[test]
fn qemu_7_wants_more_pairs_than_there_are() -> Result<()> {
    more_pairs_than_there_are(Qemu::V7, 3, None)
}

#[test]
fn qemu_10_wants_far_more_pairs_than_there_are() -> Result<()> {
    more_pairs_than_there_are(Qemu::V10, 5, Some("you are asking more queues than supported: 4"))
}

/// All pairs that there can be: how long the daemon takes to come, to start every ring, and to go.
#[test]
fn all_pairs_start_and_stop() -> Result<()> {
    const RINGS: usize = 64;
    /// A hundred times what it takes.
    const GENEROUS: Duration = Duration::from_secs(20);
    let ns = NetNs::new()?;
    let begun = Instant::now();
    let vnicd = Vnicd::builder(&ns).start()?;
    let started = begun.elapsed();

    let begun = Instant::now();
    let mut client = Client::start(vnicd.socket(), VERSION_1)?;
    let rings = (0..RINGS).map(|index| client.running_queue(index, 256)).collect::<Result<Vec<_>>>()?;
    let rings_started = begun.elapsed();
    ensure!(tap_queues(&ns)? == (32, 0), "{:?}", tap_queues(&ns)?);
    ensure!(vnicd.usage()?.threads_named("nic0/").count() == RINGS / 2);

    let begun = Instant::now();
    for ring in &rings {
        client.front.get_vring_base(ring.index)?;
    }
    let rings_stopped = begun.elapsed();
    ensure!(tap_queues(&ns)? == (0, 32), "{:?}", tap_queues(&ns)?);

    // Once more, to end with all of them running.
    for ring in &rings {
        client.start_queue(ring)?;
    }
    let begun = Instant::now();
    ensure!(vnicd.terminate()?.success());
    let ended = begun.elapsed();
    eprintln!(
        "32 pairs: up in {started:?}, rings started in {rings_started:?}, stopped in {rings_stopped:?}, ended in {ended:?}"
    );
    ensure!([started, rings_started, rings_stopped, ended].iter().max() < Some(&GENEROUS));
    Ok(())
}
