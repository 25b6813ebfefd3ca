//! What a guest may send, and how much may move.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};
use vm_memory::{Bytes, GuestAddress};

/// With checksums that are left to the device.
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | 1;
const POSTING: Posting = Posting { count: 128, len: 2048 };
/// What the driver sends from.
const OURS: [&str; 2] = ["--allowed-macs=02:00:00:00:00:77", "--allowed-ips=10.77.0.2"];
/// Places in a frame.
const SOURCE_MAC: usize = 6;
const SOURCE_IP: usize = 26;

fn start(options: &[&str]) -> Result<(NetNs, Vnicd, ScriptedNic)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(options).args(["--queue-pairs", "1"]).control().start()?;
    let nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    Ok((ns, vnicd, nic))
}

fn count(vnicd: &Vnicd, counter: &str) -> Result<u64> {
    let status = vnicd.status()?;
    status["devices"][0]["pairs"][0]["counters"][counter].as_u64().with_context(|| format!("no {counter}"))
}

/// The IPv4 header's checksum, made good again.
fn repair(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn only_what_the_guest_may_send_leaves() -> Result<()> {
    let (_ns, vnicd, mut nic) = start(&[OURS[0], OURS[1], "--allowed-vlans=0"])?;
    let plain = nic.frame(b"payload")?;
    let mut of_another_mac = plain.clone();
    of_another_mac[SOURCE_MAC + 5] = 0x78;
    let mut of_another_ip = plain.clone();
    of_another_ip[SOURCE_IP + 3] = 3;
    repair(&mut of_another_ip);
    let mut to_a_vlan = plain.clone();
    to_a_vlan.splice(12..12, [0x81, 0, 0, 9]);
    for round in 1..=3 {
        nic.send(b"before", 1)?;
        for (frame, counter) in
            [(&of_another_mac, "tx_dropped_mac"), (&of_another_ip, "tx_dropped_ip"), (&to_a_vlan, "tx_dropped_vlan")]
        {
            // In as many pieces, too: the copy that is judged is whole.
            nic.send_raw(&[0; 12], frame, round)?;
            ensure!(count(&vnicd, counter)? == round as u64, "{counter} after {round} rounds");
        }
        // Its checksum would be written over the address.
        let over_the_ip = [1, 0, 0, 0, 0, 0, SOURCE_IP as u8, 0, 0, 0, 0, 0];
        nic.send_raw(&over_the_ip, &plain, round)?;
        ensure!(count(&vnicd, "tx_dropped_header")? == round as u64, "a checksum went over the address");
        // Nothing came between these two.
        nic.send(b"after", 1)?;
    }
    let told = vnicd.log().iter().filter(|line| line.contains("a frame of the guest is dropped")).count();
    ensure!(told == 1, "{told} lines about it");
    Ok(())
}

/// The address is changed all the time. Whatever leaves has the address that was judged.
#[test]
fn a_frame_that_changes_while_it_is_judged_leaves_as_it_was_judged() -> Result<()> {
    const FRAMES: usize = 3000;
    let (_ns, vnicd, mut nic) = start(&OURS)?;
    // Its checksums do not cover the address: none of UDP, and that of IPv4 fits only the address that is allowed.
    let frame = nic.frame(&[7; 300])?;
    let at = nic.client.memory.allocate(4096);
    let memory = nic.client.memory.map.clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flip = scope.spawn(|| {
            let address = GuestAddress(at + 12 + SOURCE_IP as u64 + 3);
            while !stop.load(Ordering::Relaxed) {
                for byte in [9u8, 2] {
                    memory.write_obj(byte, address)?;
                }
            }
            anyhow::Ok(())
        });
        let sent = (0..FRAMES).try_for_each(|_| nic.send_from(at, &[0; 12], &frame, 1));
        stop.store(true, Ordering::Relaxed);
        flip.join().expect("it does not panic")?;
        sent
    })?;
    let (dropped, left) = (count(&vnicd, "tx_dropped_ip")?, count(&vnicd, "tx_packets")?);
    ensure!(dropped + left == FRAMES as u64, "{dropped} dropped and {left} sent of {FRAMES}");
    ensure!(dropped > 0 && left > 0, "the address did not change: {dropped} dropped, {left} sent");
    nic.host().set_nonblocking(true)?;
    let mut came = 0;
    let mut payload = [0; 400];
    while let Ok((len, from)) = nic.host().recv_from(&mut payload) {
        ensure!(len == 300 && from.ip() == Ipv4Addr::new(10, 77, 0, 2), "{len} bytes from {from}");
        came += 1;
    }
    ensure!(came > 0, "nothing came");
    Ok(())
}

/// At least so long things take at a limit, whatever the machine does; and nothing is lost.
#[test]
fn limits_hold_things_up_both_ways() -> Result<()> {
    const PPS: u64 = 1000;
    const COUNT: u64 = 100;
    let (_ns, vnicd, mut nic) =
        start(&["--max-tx-pps=1k", "--max-rx-pps=1k", "--limit-burst-ms=20", "--mode=interrupt"])?;
    // What may come at once, and as much time as the rest takes.
    let least = Duration::from_millis((COUNT - 21) * 1000 / PPS);
    let begun = Instant::now();
    for n in 0..COUNT {
        nic.send(&n.to_be_bytes(), 1)?;
    }
    ensure!(begun.elapsed() >= least, "{COUNT} packets left in {:?}", begun.elapsed());
    ensure!(count(&vnicd, "tx_held")? > 0, "none was held");

    let begun = Instant::now();
    (0..COUNT).try_for_each(|n| nic.host_sends(&n.to_be_bytes()))?;
    for n in 0..COUNT {
        nic.expect(&n.to_be_bytes())?;
    }
    ensure!(begun.elapsed() >= least, "{COUNT} packets came in {:?}", begun.elapsed());
    ensure!(count(&vnicd, "rx_held")? > 0, "none was held");
    Ok(())
}

/// A worker with packets that it may not move sleeps, in whatever mode.
#[test]
fn a_worker_sleeps_until_it_may_move_on() -> Result<()> {
    for mode in ["interrupt", "auto"] {
        let (_ns, vnicd, mut nic) = start(&["--max-tx-bps=8k", "--limit-burst-ms=10000", &format!("--mode={mode}")])?;
        // Ten seconds' worth at once, and more than a second's behind that.
        for _ in 0..10 {
            nic.send(&[1; 1200], 1)?;
        }
        let at = nic.client.memory.allocate(4096);
        let frame = [vec![0; 12], nic.frame(&[2; 1200])?].concat();
        nic.client.memory.map.write_slice(&frame, GuestAddress(at))?;
        nic.tx.add(&[(at, frame.len() as u32)], false).context("the ring is full")?;
        nic.tx.kick()?;
        let spent = vnicd.spends_in(Duration::from_secs(1))?;
        ensure!(spent.cpu <= Duration::from_millis(20), "{mode}: {spent:?} in a second of waiting");
        nic.tx.wait_used(Duration::from_secs(20))?;
        nic.host_receives(&[2; 1200])?;
    }
    Ok(())
}

/// Nor does it wait for a limit on behalf of a guest that has gone.
#[test]
fn a_worker_sleeps_when_what_was_held_is_gone() -> Result<()> {
    let (_ns, vnicd, mut nic) =
        start(&["--max-tx-bps=8k", "--max-rx-bps=8k", "--limit-burst-ms=1", "--mode=interrupt"])?;
    // A debt of half a second each way, and something behind it.
    nic.send(&[1; 500], 1)?;
    nic.host_sends(&[2; 500])?;
    nic.expect(&[2; 500])?;
    let at = nic.client.memory.allocate(4096);
    let frame = [vec![0; 12], nic.frame(&[3; 500])?].concat();
    nic.client.memory.map.write_slice(&frame, GuestAddress(at))?;
    nic.tx.add(&[(at, frame.len() as u32)], false).context("the ring is full")?;
    nic.tx.kick()?;
    nic.host_sends(&[4; 500])?;
    eventually("both ways are held", || Ok(count(&vnicd, "tx_held")? > 0 && count(&vnicd, "rx_held")? > 0))?;
    drop(nic);
    thread::sleep(Duration::from_secs(1));
    let spent = vnicd.spends_in(Duration::from_secs(1))?;
    ensure!(spent.cpu <= Duration::from_millis(20), "{spent:?} in a second without a guest");
    Ok(())
}
