//! A Linux driver's rings in both formats, with and without EVENT_IDX: everything is carried, and the guest's own count of
//! interrupts (`/proc/interrupts`) shows what suppressing them is worth.

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{GUEST, HOST};
use guest_tests::transfer::{self, Datagrams};
use guest_tests::{Guest, Lab, Qemu, Side};

const MB: u64 = 1_000_000;
const FLOOD: Datagrams = Datagrams { count: 20_000, size: 64, pps: Some(20_000) };

/// Interrupts of the guest's receive or transmit queue so far.
fn interrupts(guest: &Guest, queue: &str) -> Result<u64> {
    let table = guest.run_ok("cat /proc/interrupts")?;
    let line = table.lines().find(|line| line.contains(queue)).with_context(|| format!("no {queue} in\n{table}"))?;
    Ok(line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum())
}

/// What a flood took: packets, the guest's interrupts, the daemon's calls, and bursts after which it did not call.
#[derive(Debug)]
struct Cost {
    packets: u64,
    interrupts: u64,
    calls: u64,
    suppressed: u64,
}

/// Sends a flood one way and counts what it took in `queue` of the guest.
fn flood(lab: &Lab, guest: &Guest, queue: &str, packets: &str) -> Result<Cost> {
    let count = |name| Ok::<_, anyhow::Error>(lab.vnicd.counters(name)?.iter().sum::<u64>());
    let counters = || -> Result<Cost> {
        Ok(Cost {
            packets: count(packets)?,
            interrupts: 0,
            calls: count("calls")?,
            suppressed: count("calls_suppressed")?,
        })
    };
    let (inside, outside) = (Side::Guest(guest), Side::Host(&lab.ns));
    let (from, to, address) = if packets == "tx_packets" { (inside, outside, HOST) } else { (outside, inside, GUEST) };
    // Interrupts after calls here and before them at the end: none is counted whose call is not.
    let mut before = counters()?;
    before.interrupts = interrupts(guest, queue)?;
    let came = transfer::udp(from, to, address, FLOOD)?;
    let in_the_end = interrupts(guest, queue)?;
    let after = Cost { interrupts: in_the_end, ..counters()? };
    // A guest that is kept from its CPU loses some; what is left is to be enough to count on.
    ensure!(came.count > FLOOD.count / 10, "most of the flood was lost: {came:?}");
    let cost = Cost {
        packets: after.packets - before.packets,
        interrupts: after.interrupts - before.interrupts,
        calls: after.calls - before.calls,
        suppressed: after.suppressed - before.suppressed,
    };
    ensure!(cost.packets >= came.count, "{cost:?}, and {came:?} came");
    Ok(cost)
}

fn carried(packed: bool, event_idx: bool) -> Result<()> {
    let on = |is_on| if is_on { "on" } else { "off" };
    let lab = Lab::with(|vnicd| vnicd.control())?;
    let properties = format!("packed={},event_idx={}", on(packed), on(event_idx));
    let guest = lab.boot_with(Qemu::V10, &properties)?;
    for (feature, is_on) in [("RING_PACKED", packed), ("EVENT_IDX", event_idx)] {
        let log = lab.vnicd.log();
        let features = log.iter().rfind(|line| line.contains("features: ")).map(String::as_str).unwrap_or_default();
        ensure!(features.contains(feature) == is_on, "{properties} has no effect: {features}");
    }
    lab.ping(&guest)?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)?;
    // One packet at a time: each must be told of, or nothing comes back. Not faster, for the socket of this ping holds a
    // dozen answers and a busy machine may keep the guest waiting.
    let pings = guest.run(&format!("ping -c 100 -i 0.02 -W 5 {HOST} | tail -3"))?;
    ensure!(format!("{pings:?}").contains(" 0% packet loss"), "{properties}: {pings:?}");

    let to_guest = flood(&lab, &guest, "input.0", "rx_packets")?;
    let from_guest = flood(&lab, &guest, "output.0", "tx_packets")?;
    for (way, cost) in [("to the guest", &to_guest), ("from the guest", &from_guest)] {
        println!("{properties}, {way}: {cost:?}");
        ensure!(cost.interrupts <= cost.calls, "{properties}, {way}: interrupts that nobody called for: {cost:?}");
        ensure!(cost.interrupts > 0, "{properties}, {way}: no interrupt came: {cost:?}");
        ensure!(cost.interrupts < cost.packets, "{properties}, {way}: an interrupt for each packet: {cost:?}");
        ensure!(cost.suppressed > 0, "{properties}, {way}: no call was ever spared: {cost:?}");
    }
    if event_idx {
        // The driver asks to be told when three quarters of what is under way are done.
        ensure!(from_guest.interrupts < from_guest.packets / 2, "{properties}: {from_guest:?}");
        // The driver polls once it is told, and asks to be told again when it finds nothing. Packets are sent by the
        // dozen, so that it is told of few of them: of one in 28 at most, as measured.
        ensure!(to_guest.interrupts < to_guest.packets / 4, "{properties}: {to_guest:?}");
    }
    Ok(())
}

#[test]
fn split_with_event_idx() -> Result<()> {
    carried(false, true)
}

#[test]
fn split_without_event_idx() -> Result<()> {
    carried(false, false)
}

#[test]
fn packed_with_event_idx() -> Result<()> {
    carried(true, true)
}

#[test]
fn packed_without_event_idx() -> Result<()> {
    carried(true, false)
}
