//! Packets over rings whose every descriptor the test decides on.

use anyhow::{Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Calls, Posting, ScriptedNic};
use guest_tests::{NetNs, Vnicd};

const PLENTY: Posting = Posting { count: 64, len: 2048 };

fn host() -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").start()?;
    Ok((ns, vnicd))
}

fn start(features: u64, size: u16, posting: Posting) -> Result<(NetNs, Vnicd, ScriptedNic)> {
    let (ns, vnicd) = host()?;
    let nic = ScriptedNic::start(&ns, &vnicd, features, size, posting)?;
    Ok((ns, vnicd, nic))
}

fn payload(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed * 13) as u8).collect()
}

#[test]
fn frames_arrive_as_they_were_whatever_was_negotiated() -> Result<()> {
    let (ns, vnicd) = host()?;
    for features in
        [VERSION_1 | MRG_RXBUF | EVENT_IDX, VERSION_1 | MRG_RXBUF, VERSION_1 | EVENT_IDX, VERSION_1, MRG_RXBUF, 0]
    {
        for size in [64, 256, 4096] {
            let mut nic = ScriptedNic::start(&ns, &vnicd, features, size, PLENTY)?;
            for n in 0..150 {
                let bytes = payload(1 + n * 9, n);
                nic.send(&bytes, 1 + n % 5)?;
                ensure!(nic.exchange(&bytes)? == 1, "one buffer was enough");
                nic.post_fresh(2048)?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_largest_ring_serves() -> Result<()> {
    let (_ns, _vnicd, mut nic) = start(VERSION_1 | EVENT_IDX, 32_768, PLENTY)?;
    nic.send(&payload(1000, 1), 1)?;
    nic.exchange(&payload(1000, 2)).map(drop)
}

#[test]
fn a_frame_in_more_pieces_than_the_kernel_takes_is_gathered() -> Result<()> {
    let (ns, _vnicd, mut nic) = start(VERSION_1, 4096, PLENTY)?;
    ns.sh("ip link set tap0 mtu 9000")?;
    for pieces in [1023, 1024, 1025, 3000] {
        nic.send(&payload(6000, pieces), pieces)?;
    }
    Ok(())
}

#[test]
fn a_frame_larger_than_the_posted_buffers_waits_for_more_of_them() -> Result<()> {
    let (ns, _vnicd, mut nic) = start(VERSION_1 | MRG_RXBUF, 256, Posting { count: 3, len: 1024 })?;
    ns.sh("ip link set tap0 mtu 9000")?;
    nic.host_sends(&payload(8000, 1))?;
    nic.host_sends(&payload(500, 2))?;
    // The frame lies partly in three buffers now; six more hold the rest.
    for _ in 0..6 {
        nic.post_fresh(1024)?;
    }
    ensure!(nic.expect(&payload(8000, 1))? == 8, "8000 + 42 + 12 bytes are eight buffers");
    nic.expect(&payload(500, 2))?;
    Ok(())
}

#[test]
fn a_frame_that_no_buffer_can_hold_is_dropped_alone() -> Result<()> {
    // Without mergeable buffers, one buffer must hold it.
    let (ns, _vnicd, mut nic) = start(VERSION_1, 256, Posting { count: 8, len: 1600 })?;
    ns.sh("ip link set tap0 mtu 9000")?;
    nic.host_sends(&payload(5000, 1))?;
    ensure!(nic.exchange(&payload(700, 2))? == 1);

    // With them, the whole ring must.
    let (ns, _vnicd, mut nic) = start(VERSION_1 | MRG_RXBUF, 4, Posting { count: 4, len: 512 })?;
    ns.sh("ip link set tap0 mtu 9000")?;
    nic.host_sends(&payload(5000, 1))?;
    nic.exchange(&payload(300, 2)).map(drop)
}

#[test]
fn frames_that_the_kernel_or_the_header_rules_refuse_are_dropped_alone() -> Result<()> {
    let (_ns, _vnicd, mut nic) = start(VERSION_1 | EVENT_IDX, 256, PLENTY)?;
    let zero = [0; 12];
    for len in [0, 1, 13] {
        nic.send_raw(&zero, &vec![0xff; len], 1)?;
    }
    let frame = nic.frame(b"never arrives")?;
    let mut needs_csum_unasked = zero;
    needs_csum_unasked[0] = 1;
    let mut gso_unasked = zero;
    gso_unasked[1] = 1;
    for header in [needs_csum_unasked, gso_unasked] {
        nic.send_raw(&header, &frame, 1)?;
    }
    nic.send_raw(&zero, &vec![0; 70_000], 1)?;
    nic.send(b"arrives", 1)
}

#[test]
fn a_driver_that_polls_is_not_called() -> Result<()> {
    let (_ns, vnicd, mut nic) = start(VERSION_1, 256, PLENTY)?;
    // The first call after a ring started always comes.
    nic.send(b"first", 1)?;
    nic.tx.set_calls(Calls::Never);
    let _ = nic.tx.call.read();
    let frame = nic.frame(b"second")?;
    let at = nic.client.memory.allocate(4096);
    let bytes = [&[0; 12][..], &frame].concat();
    vm_memory::Bytes::write_slice(&nic.client.memory.map, &bytes, vm_memory::GuestAddress(at))?;
    nic.tx.add(&[(at, bytes.len() as u32)], false);
    nic.tx.kick()?;
    nic.host_receives(b"second")?;
    while nic.tx.take_used().is_none() {
        std::thread::yield_now();
    }
    // A ring stop is answered after everything before it is done: no call can still be on its way.
    vhost::VhostBackend::get_vring_base(&nic.client.front, 1)?;
    ensure!(nic.tx.call.read().is_err(), "the driver was called although it asked not to be");
    drop(vnicd);
    Ok(())
}
