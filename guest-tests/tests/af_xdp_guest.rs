//! A Linux guest over AF_XDP on a veth pair: ping, iperf3, payload compared by hash.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::lab::{self, GUEST, HOST, Traffic, eventually};
use guest_tests::transfer::{self, Datagrams};
use guest_tests::{Guest, Lab, NetNs, Qemu, Side};

const MB: u64 = 1_000_000;

/// A daemon on `up0`; the host is at `tap0`.
fn lab(queues: u16, uplink: &'static str) -> Result<Lab> {
    let ns = NetNs::new()?;
    let many = format!("numtxqueues {queues} numrxqueues {queues}");
    ns.sh(&format!("ip link add up0 {many} type veth peer name tap0 {many}"))?;
    ns.sh("ethtool -K tap0 tx off; sysctl -qw net.ipv6.conf.up0.disable_ipv6=1; ip link set tap0 up")?;
    Lab::in_ns(ns, |vnicd| vnicd.uplink(uplink).control())
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

#[test]
fn a_guest_pings_and_runs_iperf() -> Result<()> {
    let lab = lab(1, "af-xdp=up0")?;
    let guest = lab.boot(Qemu::V10)?;
    lab.ping(&guest)?;
    udp_both_ways(&lab, &guest)?;
    lab.tcp_both_ways(&guest, 64 * MB + 1)?;
    let server = lab.ns.spawn("exec iperf3 -s --forceflush")?;
    server.wait_for_line("listening", Duration::from_secs(10))?;
    for direction in ["", "-R"] {
        let printed = guest.run_ok(&format!("iperf3 -c {HOST} -t 2 -f m {direction}"))?;
        let line = printed.lines().find(|line| line.contains("receiver")).unwrap_or_default();
        eprintln!("{line}");
        ensure!(line.contains("Mbits/sec"), "{printed}");
    }
    // Frames to be cut came from the guest, and were cut.
    let (packets, segments) = (lab.vnicd.counters("tx_packets")?[0], lab.vnicd.counters("tx_segments")?[0]);
    ensure!(segments > 2 * packets, "{packets} frames, {segments} segments");
    ensure!(lab.vnicd.counters("tx_dropped_refused")? == [0]);
    Ok(())
}

#[test]
fn a_guest_without_offloads() -> Result<()> {
    let lab = lab(1, "af-xdp=up0,mode=skb")?;
    let properties = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                      host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,mrg_rxbuf=off";
    let guest = lab.boot_with(Qemu::V10, properties)?;
    lab.ping(&guest)?;
    udp_both_ways(&lab, &guest)?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)
}

#[test]
fn two_queues_carry_traffic() -> Result<()> {
    let lab = lab(2, "af-xdp=up0")?;
    let guest = Guest::builder().qemu(Qemu::V10).cpus(2).nic(lab.nic().queue_pairs(2)).boot()?;
    lab::address_guest(&guest)?;
    lab.wait_for_lines("queue=nic0/1/tx", 1)?;
    for pairs in [2, 1, 2] {
        guest.run_ok(&format!(
            "ethtool -L eth0 combined {pairs}; ethtool -l eth0 | tail -2 | grep 'Combined:.*{pairs}'"
        ))?;
        // A queue whose pair the guest does not use gets none of its frames: the host is told to use the other.
        lab.ns.sh(&format!("ethtool -L tap0 tx {pairs}"))?;
        let both_ways = || lab.tcp_both_ways(&guest, 8 * MB + 1);
        std::thread::scope(|scope| {
            let streams = [(); 4].map(|()| scope.spawn(both_ways));
            streams.into_iter().try_for_each(|stream| stream.join().expect("a transfer does not panic"))
        })?;
    }
    let came = lab.vnicd.counters("rx_packets")?;
    ensure!(came.len() == 2 && came.iter().all(|packets| *packets > 0), "{came:?}");
    Ok(())
}

/// Streams both ways outlive an interface that goes down for a while.
#[test]
fn traffic_goes_on_when_the_interface_is_back() -> Result<()> {
    let lab = lab(1, "af-xdp=up0")?;
    let guest = lab.boot(Qemu::V10)?;
    let _traffic = Traffic::start(&lab, &guest)?;
    for _ in 0..2 {
        lab.ns.sh("ip link set up0 down")?;
        std::thread::sleep(Duration::from_millis(300));
        lab.ns.sh("ip link set up0 up")?;
        let before = lab.ns.counters("tap0")?;
        eventually("data in both directions again", || {
            let now = lab.ns.counters("tap0")?;
            Ok((now.rx_bytes - before.rx_bytes).min(now.tx_bytes - before.tx_bytes) > 4 << 20)
        })?;
    }
    Ok(())
}

#[test]
fn a_guest_with_jumbo_frames() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sh("ip link add up0 mtu 9000 type veth peer name tap0 mtu 9000")?;
    ns.sh("ethtool -K tap0 tx off; sysctl -qw net.ipv6.conf.up0.disable_ipv6=1; ip link set tap0 up")?;
    let lab = Lab::in_ns(ns, |vnicd| vnicd.uplink("af-xdp=up0"))?;
    let guest = lab.boot_with(Qemu::V10, "host_mtu=9000")?;
    lab.ns.sh(&format!("ping -c 3 -i 0.2 -W 5 -M do -s 8972 {GUEST}"))?;
    guest.run_ok(&format!("ping -c 3 -i 0.2 -W 5 -s 8972 {HOST}"))?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)
}
