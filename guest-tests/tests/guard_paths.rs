//! What a guest may send and how much may move, whatever moves it: rings of either format, threads of every kind, a TAP and
//! AF_XDP.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};

/// With checksums that are left to the device.
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX | 1;
const POSTING: Posting = Posting { count: 128, len: 2048 };
const FORMATS: [(&str, u64); 2] = [("split", 0), ("packed", PACKED)];
const UPLINKS: [&str; 2] = ["tap=tap0", "af-xdp=up0"];
const THREADS: [&str; 3] = ["per-pair", "per-direction", "pipeline"];
/// Places in a frame.
const SOURCE_MAC: usize = 6;
const SOURCE_IP: usize = 26;

/// A namespace in which the host is at tap0: the daemon's TAP, or the other end of the pair whose frames it takes.
fn namespace(uplink: &str) -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    if uplink.starts_with("af-xdp") {
        ns.sh("ip link add up0 type veth peer name tap0; ethtool -K tap0 tx off; ip link set tap0 up")?;
    }
    Ok(ns)
}

/// Runs a test with a guest in each format, on each uplink, with threads of each kind.
fn everywhere(options: &[&str], test: impl Fn(&Vnicd, &mut ScriptedNic) -> Result<()>) -> Result<()> {
    for uplink in UPLINKS {
        let ns = namespace(uplink)?;
        for (threads, (name, format)) in THREADS.iter().flat_map(|threads| FORMATS.map(|format| (*threads, format))) {
            let vnicd = Vnicd::builder(&ns).uplink(uplink).args(options).args(["--threads", threads]).control();
            let vnicd = vnicd.args(["--queue-pairs", "1"]).start()?;
            let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, 256, POSTING)?;
            test(&vnicd, &mut nic).with_context(|| format!("{uplink}, {threads}, {name}"))?;
            drop(nic);
            // The next one wants its interface.
            ensure!(vnicd.terminate()?.success());
        }
    }
    Ok(())
}

/// What all of the guest's threads have counted.
fn count(vnicd: &Vnicd, counter: &str) -> Result<u64> {
    Ok(vnicd.counters(counter)?.iter().sum())
}

/// Waits for a count, which another thread may be about to make.
fn counts(vnicd: &Vnicd, counter: &str, expected: u64) -> Result<()> {
    eventually(&format!("{counter} is {expected}"), || Ok(count(vnicd, counter)? == expected))
}

/// The IPv4 header's checksum, made good again.
fn repair(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = guest_tests::driver::frames::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn only_what_the_guest_may_send_leaves_on_every_path() -> Result<()> {
    const ROUNDS: usize = 3;
    let options = ["--allowed-macs=02:00:00:00:00:77", "--allowed-ips=10.77.0.2", "--allowed-vlans=0"];
    everywhere(&options, |vnicd, nic| {
        let plain = nic.frame(b"payload")?;
        let mut of_another_mac = plain.clone();
        of_another_mac[SOURCE_MAC + 5] = 0x78;
        let mut of_another_ip = plain.clone();
        of_another_ip[SOURCE_IP + 3] = 3;
        repair(&mut of_another_ip);
        let mut to_a_vlan = plain.clone();
        to_a_vlan.splice(12..12, [0x81, 0, 0, 9]);
        // Its checksum would be written over the address.
        let over_the_ip = [1, 0, 0, 0, 0, 0, SOURCE_IP as u8, 0, 0, 0, 0, 0];
        for round in 1..=ROUNDS {
            nic.send(b"before", round)?;
            for (header, frame, counter) in [
                ([0; 12], &of_another_mac, "tx_dropped_mac"),
                ([0; 12], &of_another_ip, "tx_dropped_ip"),
                ([0; 12], &to_a_vlan, "tx_dropped_vlan"),
                (over_the_ip, &plain, "tx_dropped_header"),
            ] {
                nic.send_raw(&header, frame, round)?;
                counts(vnicd, counter, round as u64)?;
            }
            // Nothing came between these two.
            nic.send(b"after", 1)?;
            nic.exchange(b"what comes is not judged")?;
        }
        counts(vnicd, "tx_packets", 2 * ROUNDS as u64)
    })
}

/// At least so long things take at a limit, whatever the machine does; and nothing is lost.
#[test]
fn limits_hold_things_up_both_ways_on_every_path() -> Result<()> {
    const PPS: u64 = 1000;
    const COUNT: u64 = 100;
    // What may come at once, and as much time as the rest takes.
    let least = Duration::from_millis((COUNT - 21) * 1000 / PPS);
    everywhere(&["--max-tx-pps=1k", "--max-rx-pps=1k", "--limit-burst-ms=20"], |vnicd, nic| {
        let begun = Instant::now();
        (0..COUNT).try_for_each(|n| nic.send(&n.to_be_bytes(), 1))?;
        ensure!(begun.elapsed() >= least, "{COUNT} packets left in {:?}", begun.elapsed());
        let begun = Instant::now();
        (0..COUNT).try_for_each(|n| nic.host_sends(&n.to_be_bytes()))?;
        (0..COUNT).try_for_each(|n| nic.expect(&n.to_be_bytes()).map(drop))?;
        ensure!(begun.elapsed() >= least, "{COUNT} packets came in {:?}", begun.elapsed());
        for counter in ["tx_held", "rx_held"] {
            ensure!(count(vnicd, counter)? > 0, "{counter} is 0");
        }
        Ok(())
    })
}
