//! Both directions of a pair have the same share of its worker, and a trickle one way is served beside a flood.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, VERSION_1};
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::testpmd::{DataPath, Rig, each_moves, since, total};
use guest_tests::{NetNs, Vnicd};
use vm_memory::{Bytes, GuestAddress};

const FEATURES: u64 = VERSION_1 | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(20);
const POLLING: &str = "--mode=polling";

/// Inbound and outbound packets have equal priority (row 12 of the map): with both ways saturated, each has half of what
/// the worker moves.
fn shares_are_equal(path: &DataPath) -> Result<()> {
    let rig = Rig::with_options("generate,len=64", &[POLLING])?;
    let mut testpmd = rig.testpmd().path(path).start()?;
    rig.takes(path, &testpmd)?;
    // Sends without end, and takes all that comes.
    testpmd.run_all(&["set txpkts 64", "set fwd flowgen", "start"])?;
    let before = rig.moved(1)?;
    each_moves(&before, || rig.moved(1), |queue| queue.rx_packets.min(queue.tx_packets))?;
    let before = rig.moved(1)?;
    thread::sleep(Duration::from_secs(2));
    let moved = total(&since(&before, &rig.moved(1)?));
    testpmd.run("stop")?;
    let share = moved.rx_packets as f64 / (moved.rx_packets + moved.tx_packets) as f64;
    eprintln!("{:.1} % of {moved:?} to the guest", share * 100.0);
    ensure!((0.45..=0.55).contains(&share), "{:.1} % of what moved went to the guest: {moved:?}", share * 100.0);
    testpmd.quit()
}

#[test]
fn shares_are_equal_on_split_rings() -> Result<()> {
    shares_are_equal(&DataPath::SPLIT_MERGEABLE)
}

#[test]
fn shares_are_equal_on_packed_rings() -> Result<()> {
    shares_are_equal(&DataPath::PACKED_MERGEABLE)
}

/// A flood in one direction never starves the other (row 12 of the map): of a guest that is flooded, each frame leaves.
#[test]
fn a_trickle_from_a_flooded_guest_is_served() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("generate,len=64").args([POLLING]).control().start()?;
    for (name, format) in FORMATS {
        let mut client = Client::start(vnicd.socket(), FEATURES | format)?;
        let (mut rx, mut tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        let at = client.memory.allocate(4096);
        let post =
            |rx: &mut guest_tests::driver::Queue| rx.add(&[(at, 2048)], true).context("the ring is full").map(drop);
        (0..256).try_for_each(|_| post(&mut rx))?;
        rx.kick()?;
        let (mut came, mut sent, mut waits) = (0u64, 0, Instant::now());
        tx.add(&[(at + 2048, 100)], false).context("the ring is full")?;
        while sent < 1000 || came < 100_000 {
            // A ring's worth at most: the flood may never end.
            for _ in 0..256 {
                if rx.take_used().is_none() {
                    break;
                }
                post(&mut rx)?;
                came += 1;
            }
            rx.kick()?;
            if tx.take_used().is_some() {
                (sent, waits) = (sent + 1, Instant::now());
                tx.add(&[(at + 2048, 100)], false).context("the ring is full")?;
            }
            tx.kick()?;
            ensure!(waits.elapsed() < PATIENCE, "frame {sent} does not leave, {came} have come ({name})");
        }
        drop(client);
    }
    Ok(())
}

/// The same the other way (row 12 of the map): a guest that floods its uplink gets each frame that comes.
#[test]
fn a_trickle_to_a_flooding_guest_is_served() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args([POLLING]).control().start()?;
    ns.sh("ip link set tap0 up")?;
    for (name, format) in FORMATS {
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, 256, Posting { count: 128, len: 2048 })?;
        let at = nic.client.memory.allocate(4096);
        // Of a protocol for experiments (IEEE 802), which the host drops.
        nic.client.memory.map.write_slice(&[0x88, 0xb5], GuestAddress(at + 24))?;
        let (mut flood, mut trickle) = (0u64, 0u32);
        while trickle < 100 || flood < 50_000 {
            while nic.tx.take_used().is_some() {}
            while nic.tx.add(&[(at, 100)], false).is_some() {
                flood += 1;
            }
            nic.tx.kick()?;
            let payload = [trickle as u8; 60];
            nic.host_sends(&payload)?;
            nic.expect_and_post(&payload, |_| false)
                .with_context(|| format!("frame {trickle} to the guest ({name})"))?;
            trickle += 1;
        }
    }
    Ok(())
}
