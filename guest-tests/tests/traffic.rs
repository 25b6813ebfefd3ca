//! A guest's traffic through vnicd to a TAP, with what its driver may choose, payload compared by hash.

use std::thread;

use anyhow::{Result, ensure};
use guest_tests::lab::{self, GUEST, GUEST6, HOST, HOST6};
use guest_tests::transfer::{self, Datagrams};
use guest_tests::{Counters, Guest, Lab, Qemu, Side};

const MB: u64 = 1_000_000;
/// The largest frame that is not to be segmented: the MTU, an Ethernet header, and the TAP's own header.
const PLAIN_FRAME: u64 = 1500 + 14 + 12;

/// Average sizes of the frames that a TCP payload travelled in.
#[derive(Debug)]
struct Sizes {
    /// As the guest's driver had them: from the guest, to it.
    guest: [u64; 2],
    /// As the TAP had them.
    tap: [u64; 2],
}

/// Sends a payload each way. Acknowledgements go the other way, so they do not count.
fn frame_sizes(lab: &Lab, guest: &Guest, [host_address, guest_address]: [&str; 2], bytes: u64) -> Result<Sizes> {
    let (inside, outside) = (Side::Guest(guest), Side::Host(&lab.ns));
    let counters = || anyhow::Ok([guest_counters(guest)?, lab.ns.counters("tap0")?]);
    let rx = |counters: Counters| (counters.rx_bytes, counters.rx_packets);
    let tx = |counters: Counters| (counters.tx_bytes, counters.tx_packets);
    let average = |before: (u64, u64), after: (u64, u64)| (after.0 - before.0) / (after.1 - before.1).max(1);

    let [start_in, start_out] = counters()?;
    transfer::tcp(inside, outside, host_address, bytes)?;
    let [middle_in, middle_out] = counters()?;
    transfer::tcp(outside, inside, guest_address, bytes)?;
    let [end_in, end_out] = counters()?;
    Ok(Sizes {
        guest: [average(tx(start_in), tx(middle_in)), average(rx(middle_in), rx(end_in))],
        tap: [average(rx(start_out), rx(middle_out)), average(tx(middle_out), tx(end_out))],
    })
}

fn guest_counters(guest: &Guest) -> Result<Counters> {
    Counters::of("eth0", &guest.run_ok("cat /proc/net/dev")?)
}

/// The frames of the TAP are large, and so are the guest's.
fn is_segmented_late(sizes: &Sizes) -> Result<()> {
    let all = || sizes.guest.iter().chain(&sizes.tap);
    ensure!(all().all(|size| *size > 4 * PLAIN_FRAME), "TCP is not segmented late: {sizes:?} B a frame");
    Ok(())
}

/// The guest has only packets. Those that it sends reach the TAP joined, if `joined`.
fn is_plain(sizes: &Sizes, joined: bool) -> Result<()> {
    ensure!(sizes.guest.iter().all(|size| *size <= PLAIN_FRAME), "frames are larger than the MTU: {sizes:?} B a frame");
    ensure!((sizes.tap[0] > 2 * PLAIN_FRAME) == joined, "the TAP got {} B a frame", sizes.tap[0]);
    Ok(())
}

fn udp_both_ways(lab: &Lab, guest: &Guest) -> Result<()> {
    let (inside, outside) = (Side::Guest(guest), Side::Host(&lab.ns));
    // The last one goes in IP fragments.
    for (size, count, pps) in [(16, 500, 5000), (1472, 1000, 5000), (9000, 100, 500)] {
        let datagrams = Datagrams { count, size, pps: Some(pps) };
        for (from, to, address) in [(inside, outside, HOST), (outside, inside, GUEST)] {
            let came = transfer::udp(from, to, address, datagrams)?;
            ensure!(came.count == count, "{size} B datagrams to {address} were lost: {came:?}");
        }
    }
    Ok(())
}

/// Everything in the way in which it is by default, then with the offloads off in the guest's and the host's kernel.
fn everything(qemu: Qemu) -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot(qemu)?;
    lab.ping(&guest)?;
    udp_both_ways(&lab, &guest)?;
    for addresses in [[HOST, GUEST], [HOST6, GUEST6]] {
        is_segmented_late(&frame_sizes(&lab, &guest, addresses, 64 * MB + 1)?)?;
    }

    // One by one: a driver that cannot change one of them refuses the line.
    guest.run_ok("for what in tx sg tso gso gro rx; do ethtool -K eth0 $what off; done >&2; true")?;
    let features = guest.run_ok("ethtool -k eth0")?;
    for feature in ["tx-checksumming: off", "tcp-segmentation-offload: off", "generic-segmentation-offload: off"] {
        ensure!(features.contains(feature), "not \"{feature}\" in the guest:\n{features}");
    }
    lab.ns.sh("ethtool -K tap0 tx off sg off tso off gso off gro off")?;
    is_plain(&frame_sizes(&lab, &guest, [HOST, GUEST], 16 * MB + 1)?, true)?;
    lab.ns.sh("ethtool -K tap0 tx on sg on tso on gso on")?;
    udp_both_ways(&lab, &guest)?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)
}

#[test]
fn qemu_7_carries_everything() -> Result<()> {
    everything(Qemu::V7)
}

#[test]
fn qemu_10_carries_everything() -> Result<()> {
    everything(Qemu::V10)
}

const NO_OFFLOADS: &str = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                           host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off";

/// Boots with the device's `properties`, after which the driver must not have chosen the features `absent`. Answers
/// the frame sizes.
fn without(qemu: Qemu, properties: &str, absent: &[&str]) -> Result<Sizes> {
    without_in(&Lab::new()?, qemu, properties, absent)
}

fn without_in(lab: &Lab, qemu: Qemu, properties: &str, absent: &[&str]) -> Result<Sizes> {
    let guest = lab.boot_with(qemu, properties)?;
    let log = lab.vnicd.log();
    let features = log.iter().rfind(|line| line.contains("features: ")).map(String::as_str).unwrap_or_default();
    ensure!(features.contains("VERSION_1"), "vnicd does not log the driver's features: {features}");
    for feature in absent {
        ensure!(!features.contains(feature), "{properties} has no effect: {features}");
    }
    lab.ping(&guest)?;
    udp_both_ways(lab, &guest)?;
    frame_sizes(lab, &guest, [HOST6, GUEST6], 4 * MB + 1)?;
    frame_sizes(lab, &guest, [HOST, GUEST], 16 * MB + 1)
}

#[test]
fn without_mergeable_buffers() -> Result<()> {
    is_segmented_late(&without(Qemu::V10, "mrg_rxbuf=off", &["MRG_RXBUF"])?)
}

#[test]
fn without_event_idx() -> Result<()> {
    is_segmented_late(&without(Qemu::V7, "event_idx=off", &["EVENT_IDX"])?)
}

#[test]
fn without_indirect_descriptors() -> Result<()> {
    is_segmented_late(&without(Qemu::V10, "indirect_desc=off", &["INDIRECT_DESC"])?)
}

#[test]
fn without_offloads() -> Result<()> {
    is_plain(&without(Qemu::V7, NO_OFFLOADS, &["CSUM", "TSO", "ECN", "USO"])?, true)
}

#[test]
fn without_anything() -> Result<()> {
    let properties = format!("mrg_rxbuf=off,event_idx=off,indirect_desc=off,{NO_OFFLOADS}");
    let absent = ["MRG_RXBUF", "EVENT_IDX", "INDIRECT_DESC", "CSUM", "TSO", "ECN", "USO"];
    let lab = Lab::with(|vnicd| vnicd.args(["--no-coalesce"]))?;
    is_plain(&without_in(&lab, Qemu::V10, &properties, &absent)?, false)
}

/// A driver of virtio 0.9 without mergeable buffers has the short header.
#[test]
fn a_legacy_device_with_the_short_header() -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot_with(Qemu::V10, "disable-modern=on,disable-legacy=off,mrg_rxbuf=off")?;
    ensure!(lab.lines_with("VERSION_1") == 0, "the device is not a legacy one");
    udp_both_ways(&lab, &guest)?;
    is_segmented_late(&frame_sizes(&lab, &guest, [HOST, GUEST], 16 * MB + 1)?)
}

/// Streams at a time, on one, two and again one of two queue pairs.
#[test]
fn two_queue_pairs() -> Result<()> {
    let lab = Lab::new()?;
    let guest = Guest::builder().qemu(Qemu::V10).cpus(2).nic(lab.nic().queue_pairs(2)).boot()?;
    lab::address_guest(&guest)?;
    lab.wait_for_lines("queue=nic0/1/tx", 1)?;
    for pairs in [2, 1, 2] {
        guest.run_ok(&format!(
            "ethtool -L eth0 combined {pairs}; ethtool -l eth0 | tail -2 | grep 'Combined:.*{pairs}'"
        ))?;
        let both_ways = || lab.tcp_both_ways(&guest, 8 * MB + 1);
        thread::scope(|scope| {
            let streams = [(); 4].map(|()| scope.spawn(both_ways));
            streams.into_iter().try_for_each(|stream| stream.join().expect("a transfer does not panic"))
        })?;
    }
    Ok(())
}
