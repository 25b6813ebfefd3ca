//! DPDK's testpmd as a front end that connects: floods, a TAP, a killed one.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::frames;
use guest_tests::lab::eventually;
use guest_tests::testpmd::{Moved, Rig, Testpmd, each_moves, since, total};

/// A chain of four buffers.
const LONG: &str = "2000,2000,2000,2000";
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends without pause until each queue has moved many, and returns what the daemon has moved when it has all.
fn flood(rig: &Rig, testpmd: &mut Testpmd, lengths: &str) -> Result<Vec<Moved>> {
    let before = testpmd.moved()?;
    let daemon_before = rig.moved(before.len())?;
    testpmd.run_all(&[&format!("set txpkts {lengths}"), "set fwd txonly", "start"])?;
    each_moves(&before, || testpmd.moved(), |queue| queue.tx_packets)?;
    testpmd.run("stop")?;
    let sent = since(&before, &testpmd.moved()?);
    let mut came = Vec::new();
    eventually("the rings are empty", || {
        came = since(&daemon_before, &rig.moved(before.len())?);
        Ok(total(&came).tx_packets >= total(&sent).tx_packets)
    })
    .with_context(|| format!("testpmd has sent {sent:?}, vnicd {came:?}"))?;
    ensure!(came == sent, "frames of {lengths}: testpmd has sent {sent:?}, vnicd {came:?}");
    Ok(came)
}

#[test]
fn all_that_is_sent_is_counted() -> Result<()> {
    let rig = Rig::new("discard")?;
    for (queues, ring_size) in [(1, 256), (1, 1024), (4, 64)] {
        let mut testpmd = rig.testpmd().queues(queues).ring_size(ring_size).start()?;
        for lengths in ["64", "1518", "300,60,900", LONG] {
            flood(&rig, &mut testpmd, lengths)?;
        }
        testpmd.quit()?;
    }
    Ok(())
}

#[test]
fn the_kernel_counts_the_same_at_a_tap() -> Result<()> {
    let rig = Rig::new("tap=tap0")?;
    rig.ns.sh("ip link set tap0 up")?;
    for device in ["mrg_rxbuf=1", "mrg_rxbuf=0"] {
        let mut testpmd = rig.testpmd().queues(2).device(device).start()?;
        for lengths in ["64", "300,60,900", "1518"] {
            let before = rig.ns.counters("tap0")?;
            let moved = total(&flood(&rig, &mut testpmd, lengths)?);
            let after = rig.ns.counters("tap0")?;
            let counted = (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes);
            ensure!(counted == (moved.tx_packets, moved.tx_bytes), "tap0 has received {counted:?} of {moved:?}");
        }
        testpmd.quit()?;
    }
    Ok(())
}

/// Datagrams between testpmd and a socket of the host, compared.
#[test]
fn datagrams_cross_a_tap_both_ways() -> Result<()> {
    const GUEST: ([u8; 4], u16) = ([10, 77, 0, 2], 7000);
    const HOST: ([u8; 4], u16) = ([10, 77, 0, 1], 7001);
    let guest_mac = [2, 0, 0, 0, 0, 0x77];
    let rig = Rig::new("tap=tap0")?;
    rig.ns.sh("ip addr add 10.77.0.1/24 dev tap0 && ip link set tap0 up")?;
    rig.ns.sh("ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0 nud permanent")?;
    let host_mac = frames::mac(&rig.ns.sh("cat /sys/class/net/tap0/address")?).context("tap0 has no address")?;
    let socket = rig.ns.run_in(|| UdpSocket::bind((Ipv4Addr::from(HOST.0), HOST.1)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    let payloads = |seed: usize| -> Vec<Vec<u8>> {
        (0..60).map(|n| (0..n * 24).map(|at| (at * 7 + n * 13 + seed) as u8).collect()).collect()
    };
    for device in ["mrg_rxbuf=1", "mrg_rxbuf=0,vectorized=1"] {
        let mut testpmd = rig.testpmd().device(device).start()?;
        let (out, back) = (payloads(1), payloads(2));
        let before = testpmd.moved()?;
        testpmd.send(&[out.iter().map(|data| frames::udp(guest_mac, host_mac, GUEST, HOST, data)).collect()])?;
        let mut data = [0; 2048];
        for (at, expected) in out.iter().enumerate() {
            let (len, from) = socket.recv_from(&mut data).with_context(|| format!("datagram {at} is missing"))?;
            ensure!(from == GUEST.into() && data[..len] == **expected, "datagram {at} from {from} has changed");
        }
        for data in &back {
            socket.send_to(data, (Ipv4Addr::from(GUEST.0), GUEST.1))?;
        }
        let came = testpmd.receive(&before, back.len())?.concat();
        ensure!(came.len() == back.len(), "{} frames came for {} datagrams", came.len(), back.len());
        for (at, (frame, expected)) in came.iter().zip(&back).enumerate() {
            ensure!(frame[..6] == guest_mac && frame[6..12] == host_mac, "frame {at} has other addresses");
            ensure!(frames::udp_payload(frame) == Some((GUEST.1, expected)), "datagram {at} has changed: {frame:?}");
        }
        testpmd.quit()?;
    }
    Ok(())
}

#[test]
fn a_killed_testpmd_leaves_nothing_behind() -> Result<()> {
    let rig = Rig::new("loopback")?;
    let mut first = None;
    for round in 1..=5 {
        let mut testpmd = rig.testpmd().queues(2).start()?;
        rig.goes_round(&mut testpmd, "64")?;
        rig.comes_back_intact(&mut testpmd, 9000)?;
        testpmd.run_all(&["set fwd io", "start tx_first 32"])?;
        testpmd.kill()?;
        let gone = || rig.vnicd.log().iter().filter(|line| line.contains("front end gone")).count();
        eventually("the front end is let go", || Ok(gone() == round))?;
        let now = || rig.vnicd.usage().map(|usage| (usage.fds, usage.threads.len()));
        match first {
            None => {
                thread::sleep(Duration::from_millis(200));
                first = Some(now()?);
            }
            Some(first) => eventually("as many descriptors and threads as after the first", || Ok(now()? == first))
                .with_context(|| format!("round {round}: {first:?} descriptors and threads, now {:?}", now()))?,
        }
    }
    Ok(())
}
