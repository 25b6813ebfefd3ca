//! Large packets: an MTU that the monitor tells guest and daemon, up to the largest that IP allows.

use anyhow::{Result, ensure};
use guest_tests::lab::{GUEST, HOST, Lab};
use guest_tests::{Qemu, Side, transfer};

/// QEMU tells both sides an MTU; packets of that size cross unfragmented, and none larger is tried.
fn an_mtu_holds(mtu: u32) -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot_with(Qemu::V10, &format!("host_mtu={mtu}"))?;
    let told = [guest.run_ok("cat /sys/class/net/eth0/mtu")?, lab.ns.sh("cat /sys/class/net/tap0/mtu")?];
    let [inside, outside] = told.map(|text| text.trim().parse::<u32>().unwrap_or(0));
    // A TAP takes 65,521 at most.
    ensure!((inside, outside) == (mtu, mtu.min(65_521)), "MTUs of {inside} and {outside}");
    // Without IP and ICMP headers.
    let payload = outside - 28;
    lab.ns.sh(&format!("ping -c 3 -i 0.2 -W 5 -M do -s {payload} {GUEST}"))?;
    // The guest's own stack does not fragment towards a link of this MTU either.
    guest.run_ok(&format!("ping -c 3 -i 0.2 -W 5 -s {payload} {HOST}"))?;
    let moved = lab.ns.counters("tap0")?;
    ensure!(moved.rx_bytes > 6 * u64::from(payload) && moved.tx_bytes > 6 * u64::from(payload), "{moved:?}");
    lab.tcp_both_ways(&guest, 16_000_001)?;
    let datagrams = transfer::Datagrams { count: 200, size: 8000.min(mtu as usize - 28), pps: Some(1000) };
    for (from, to, address) in
        [(Side::Guest(&guest), Side::Host(&lab.ns), HOST), (Side::Host(&lab.ns), Side::Guest(&guest), GUEST)]
    {
        let came = transfer::udp(from, to, address, datagrams)?;
        ensure!(came.count == datagrams.count, "datagrams were lost: {came:?}");
    }
    Ok(())
}

#[test]
fn jumbo_frames() -> Result<()> {
    an_mtu_holds(9000)
}

#[test]
fn the_largest_packets_that_ip_allows() -> Result<()> {
    an_mtu_holds(65_535)
}

#[test]
fn the_smallest_mtu_that_ip_allows() -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot_with(Qemu::V10, "host_mtu=68")?;
    ensure!(guest.run_ok("cat /sys/class/net/eth0/mtu")?.trim() == "68");
    lab.ns.sh(&format!("ping -c 3 -i 0.2 -W 5 -s 40 {GUEST}")).map(drop)
}
