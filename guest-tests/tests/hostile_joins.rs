//! A guest that changes the headers of its packets while they are joined: what goes out was judged, or does not go out.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::driver::nic::VERSION_1;
use guest_tests::driver::target::while_changing;
use guest_tests::driver::{BurstNic, Posting};
use guest_tests::packets::{Flow, Frame, Kind, Tap, cut, expect};
use guest_tests::{NetNs, Vnicd};
use vm_memory::{Bytes, GuestAddress};

/// CSUM, HOST_TSO4, HOST_TSO6, HOST_USO.
const OFFLOADS: u64 = 1 | 1 << 11 | 1 << 12 | 1 << 56;
const POSTING: Posting = Posting { count: 8, len: 2048 };
const ROUNDS: u32 = 150;
/// Behind the virtio-net header: the headers of Ethernet, IP and TCP or UDP, and some of what follows.
const BYTES: std::ops::Range<u32> = 12..96;

/// Packets of two flows in turns, whose checksums are left to the device or are not.
fn burst(kind: Kind, left: bool) -> Vec<Frame> {
    let mut flows = [Flow::new(kind, 0), Flow::new(kind, 1)];
    let packet = |n: usize| {
        let (flow, payload) = (&mut flows[n / 2 % 2], [n as u8; 300]);
        if left { flow.unfinished(&payload, false) } else { flow.packet(&payload, false) }
    };
    (0..48).map(packet).collect()
}

#[test]
fn headers_that_change_while_packets_are_joined() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(["--queue-pairs=1", "--mode=interrupt"]).start()?;
    ns.sh("ip link set tap0 up")?;
    let mut tap = Tap::open(&ns, "tap0")?;
    for kind in [Kind::Tcp4, Kind::Tcp6, Kind::Udp4, Kind::Udp6, Kind::Vlan] {
        let mut nic = BurstNic::start(vnicd.socket(), VERSION_1 | OFFLOADS, POSTING)?;
        let memory = nic.client.memory.map.clone();
        let places: Vec<GuestAddress> = (0..48).map(|at| nic.place(at)).collect();
        let (random, at_work) = (AtomicU32::new(1), AtomicBool::new(false));
        // Turns a bit of headers over and back again.
        let change = |_| {
            if !at_work.load(Ordering::Acquire) {
                return std::hint::spin_loop();
            }
            let n = random.load(Ordering::Relaxed).wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.store(n, Ordering::Relaxed);
            let offset = u64::from(BYTES.start + (n >> 16) % BYTES.len() as u32);
            // In some of the packets, so that they are changed for longer than the daemon needs to look at one.
            for _ in 0..2 {
                for place in places.iter().skip((n >> 8) as usize % 8).step_by(1 + (n >> 11) as usize % 8) {
                    let at = GuestAddress(place.0 + offset);
                    let byte: u8 = memory.read_obj(at).expect("it is shared");
                    memory.write_obj(byte ^ 1 << (n >> 29), at).expect("it is shared");
                }
            }
        };
        let (mut joined, mut came) = (0, 0);
        while_changing(change, || {
            for round in 0..ROUNDS {
                let lens = nic.write(&burst(kind, round % 2 == 0))?;
                at_work.store(true, Ordering::Release);
                nic.offer(&lens)?;
                at_work.store(false, Ordering::Release);
                while let Some((header, frame)) = tap.receive(Duration::ZERO)? {
                    came += 1;
                    if header.is_segmented() {
                        // Looks at all lengths and checksums of it.
                        joined += 1;
                        cut(&header, &frame)?;
                    }
                }
            }
            Ok(())
        })?;
        // A daemon of a machine that does one thing at a time may see few of the changes, and must join then.
        eprintln!("{kind:?}: {came} frames came, {joined} of them joined");
        ensure!(joined > 0, "nothing was joined");
        // A change may have been under way when the burst was over: the last one is as it should be.
        let sent = burst(kind, true);
        nic.send(&sent)?;
        expect(&sent, |patience| tap.receive(patience))?;
    }
    ensure!(vnicd.log().iter().all(|line| !line.contains("ERROR")), "{:#?}", vnicd.log());
    Ok(())
}
