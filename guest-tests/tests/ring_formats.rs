//! Packets over split and packed rings, used in order or not: the same for a guest, whatever its rings look like.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, INDIRECT_DESC, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vm_memory::{Bytes, GuestAddress};

const PATIENCE: Duration = Duration::from_secs(10);
const NO_POSTING: Posting = Posting { count: 0, len: 0 };

fn host() -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    Ok((ns, vnicd))
}

fn payload(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed * 13) as u8).collect()
}

/// Rings stop; the device says that they stand where the driver knows them to stand.
fn stop(nic: &ScriptedNic) -> Result<()> {
    let front = &nic.client.front;
    let stopped = (front.get_vring_base(0)?, front.get_vring_base(1)?);
    let stand = (nic.rx.base(), nic.tx.base());
    ensure!(stopped == stand, "rings stopped at {stopped:#x?}, the driver's stand at {stand:#x?}");
    Ok(())
}

/// Datagrams each way, one after another, into buffers that are posted again.
fn traffic(nic: &mut ScriptedNic, count: usize) -> Result<()> {
    for n in 0..count {
        let sent = payload(1 + n * 11 % 1400, n);
        let pieces = 1 + n % usize::from(nic.tx.size).min(4);
        nic.send(&sent, pieces).with_context(|| format!("datagram {n} to the host"))?;
        nic.host_sends(&sent)?;
        nic.expect_and_post(&sent, |_| false).with_context(|| format!("datagram {n} to the guest"))?;
    }
    Ok(())
}

#[test]
fn frames_go_both_ways_in_rings_of_any_size() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        let sizes = if format & PACKED != 0 { [1, 3, 100, 255] } else { [1, 2, 8, 256] };
        for size in sizes {
            for features in [MRG_RXBUF | EVENT_IDX, MRG_RXBUF, EVENT_IDX, 0] {
                let posting = Posting { count: size.min(64), len: 2048 };
                let mut nic = ScriptedNic::start(&ns, &vnicd, VERSION_1 | features | format, size, posting)?;
                let moved = traffic(&mut nic, 100 + usize::from(size) * 2).and_then(|()| stop(&nic));
                moved.with_context(|| format!("{name}, {size} entries, features {features:#x}"))?;
            }
        }
    }
    Ok(())
}

/// Neither VERSION_1 nor MRG_RXBUF: the header has no count of buffers.
#[test]
fn a_legacy_guest_has_a_header_of_ten_bytes() -> Result<()> {
    let (ns, vnicd) = host()?;
    for features in [0, EVENT_IDX, INDIRECT_DESC] {
        let mut nic = ScriptedNic::start(&ns, &vnicd, features, 64, Posting { count: 32, len: 1600 })?;
        ensure!(nic.header_len == 10);
        nic.indirect = features & INDIRECT_DESC != 0;
        traffic(&mut nic, 300)?;
        stop(&nic)?;
    }
    Ok(())
}

/// Buffers in pieces of odd lengths, as chains and in indirect tables, both ways. The header may be cut, too.
#[test]
fn buffers_in_pieces_are_gathered_and_filled() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        for indirect in [false, true] {
            let size = if format & PACKED != 0 { 61 } else { 64 };
            let features = VERSION_1 | MRG_RXBUF | EVENT_IDX | INDIRECT_DESC | format;
            let mut nic = ScriptedNic::start(&ns, &vnicd, features, size, NO_POSTING)?;
            nic.indirect = indirect;
            let at = nic.client.memory.allocate(2 * 2048);
            for n in 0..200usize {
                nic.post_chain(&[(at, 1 + n as u32 % 29), (at + 64, 100), (at + 2048, 5), (at + 256, 1700)])?;
                let sent = payload(1 + n * 7, n);
                let moved = nic.send(&sent, 1 + n % 17).and_then(|()| nic.exchange(&sent));
                let buffers = moved.with_context(|| format!("{name}, indirect {indirect}, datagram {n}"))?;
                ensure!(buffers == 1, "one buffer was enough");
            }
            stop(&nic)?;
        }
    }
    Ok(())
}

#[test]
fn a_frame_lies_over_as_many_mergeable_buffers_as_it_needs() -> Result<()> {
    const BUFFER: usize = 256;
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        let size = if format & PACKED != 0 { 67 } else { 64 };
        let features = VERSION_1 | MRG_RXBUF | EVENT_IDX | format;
        let posting = Posting { count: 60, len: BUFFER as u32 };
        let mut nic = ScriptedNic::start(&ns, &vnicd, features, size, posting)?;
        ns.sh("ip link set tap0 mtu 9000")?;
        for n in 0..200usize {
            let sent = payload(1 + n * 331 % 8500, n);
            nic.host_sends(&sent)?;
            let buffers = nic.expect_and_post(&sent, |_| false).with_context(|| format!("{name}, datagram {n}"))?;
            let needed = (12 + 42 + sent.len()).div_ceil(BUFFER);
            ensure!(usize::from(buffers) == needed, "{name}: {buffers} buffers, {needed} hold the frame");
        }
        stop(&nic)?;
    }
    Ok(())
}

/// Many chains for one kick. What is used comes back in the order in which it was offered, each chain once, also if the
/// device names the last one only.
#[test]
fn bursts_come_back_whole() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        for (size, burst) in if format & PACKED != 0 { [(3, 3), (100, 97)] } else { [(4, 4), (128, 100)] } {
            let features = VERSION_1 | EVENT_IDX | format;
            let mut nic = ScriptedNic::start(&ns, &vnicd, features, size, Posting { count: 1, len: 2048 })?;
            let at = nic.client.memory.allocate(burst * 256);
            for round in 0..20u8 {
                // Chains of one and two descriptors, as many as the ring holds.
                let (mut heads, mut left): (Vec<u16>, u64) = (Vec::new(), burst);
                while left > 0 {
                    let n = heads.len() as u64;
                    let bytes = [&[0; 12][..], &nic.frame(&[round, n as u8])?].concat();
                    nic.client.memory.map.write_slice(&bytes, GuestAddress(at + n * 256))?;
                    let (all, cut) = ((at + n * 256, bytes.len() as u32), 1 + n as u32 % 50);
                    let pieces = [(all.0, cut), (all.0 + u64::from(cut), all.1 - cut)];
                    let whole = left == 1 || n.is_multiple_of(3);
                    let head = nic.tx.add(if whole { std::slice::from_ref(&all) } else { &pieces }, false);
                    heads.push(head.context("the ring is full")?);
                    left -= if whole { 1 } else { 2 };
                }
                nic.tx.kick()?;
                for (n, head) in heads.iter().enumerate() {
                    nic.host_receives(&[round, n as u8]).with_context(|| format!("{name}: {n} of round {round}"))?;
                    let used = nic.tx.wait_used(PATIENCE)?;
                    ensure!(used == (*head, 0), "{name}: chain {head} was next, {used:?} came back");
                }
                ensure!(nic.tx.take_used().is_none(), "{name}: more came back than was offered");
            }
            stop(&nic)?;
        }
    }
    Ok(())
}

#[test]
fn rings_go_on_where_they_stopped() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        let size = if format & PACKED != 0 { 7 } else { 8 };
        let features = VERSION_1 | MRG_RXBUF | EVENT_IDX | format;
        let mut nic = ScriptedNic::start(&ns, &vnicd, features, size, Posting { count: size, len: 2048 })?;
        for round in 0..60 {
            stop(&nic).with_context(|| format!("{name}, round {round}"))?;
            nic.client.start_queue(&nic.rx)?;
            nic.client.start_queue(&nic.tx)?;
            traffic(&mut nic, round % 5).with_context(|| format!("{name}, round {round}"))?;
        }
        // Chains that were offered while the ring was stopped.
        stop(&nic)?;
        let frame = nic.frame(b"offered while it was stopped")?;
        let at = nic.client.memory.allocate(4096);
        nic.client.memory.map.write_slice(&[&[0; 12][..], &frame].concat(), GuestAddress(at))?;
        nic.tx.add(&[(at, 12 + frame.len() as u32)], false).context("the ring is full")?;
        nic.client.start_queue(&nic.tx)?;
        nic.host_receives(b"offered while it was stopped").with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// As rings are that another back end served before.
#[test]
fn rings_start_at_any_place() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        let places: &[u32] = if format & PACKED != 0 {
            &[0x8000_8000, 0, 0x8004_8004, 0x0004_0004, 0x8002_8002, 0x0003_0003]
        } else {
            &[0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff]
        };
        for place in places {
            let features = VERSION_1 | MRG_RXBUF | EVENT_IDX | format;
            let mut client = Client::start(vnicd.socket(), features)?;
            let size = if format & PACKED != 0 { 5 } else { 4 };
            let (mut rx, mut tx) = (client.queue(0, size)?, client.queue(1, size)?);
            for (index, queue) in [&mut rx, &mut tx].into_iter().enumerate() {
                queue.start_at(*place);
                client.start_queue(queue)?;
                client.front.set_vring_enable(index, true)?;
            }
            let posting = Posting { count: 4, len: 2048 };
            let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, features, posting)?;
            let moved = traffic(&mut nic, 30).and_then(|()| stop(&nic));
            moved.with_context(|| format!("{name} from {place:#x} on"))?;
        }
    }
    Ok(())
}
