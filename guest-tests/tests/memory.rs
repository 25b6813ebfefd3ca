//! Memory and features that change, and rings that stop and start, while packets move. Played by a script.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::{NetNs, Usage, Vnicd};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

const POSTING: Posting = Posting { count: 16, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VIRTIO_NET_F_CSUM` and `VIRTIO_NET_F_GUEST_CSUM`.
const CHECKSUMS: u64 = 0b11;
/// Where memory is plugged in, for the driver and for its front end.
const PLUGGED: u64 = 0x4000_0000;
const PLUGGED_USER: u64 = 0x6000_0000_0000;
const PLUGGED_SIZE: u64 = 1 << 20;

fn lab() -> Result<(NetNs, Vnicd, ScriptedNic)> {
    lab_with(0)
}

fn lab_with(format: u64) -> Result<(NetNs, Vnicd, ScriptedNic)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").start()?;
    let nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, 256, POSTING)?;
    Ok((ns, vnicd, nic))
}

fn plugged(file: &File) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: PLUGGED,
        memory_size: PLUGGED_SIZE,
        userspace_addr: PLUGGED_USER,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }
}

fn payload(seed: usize) -> Vec<u8> {
    (0..64 + seed * 37 % 1300).map(|i| (i * 7 + seed) as u8).collect()
}

fn is_plugged(at: u64) -> bool {
    at >= PLUGGED
}

/// A few datagrams each way, those of the host all at once. Buffers of plugged memory are not posted again.
fn traffic(nic: &mut ScriptedNic, seed: usize) -> Result<()> {
    let burst = seed..seed + 8;
    for n in burst.clone() {
        nic.host_sends(&payload(n))?;
    }
    for n in burst {
        nic.send(&payload(n), 1 + n % 3)?;
        nic.expect_and_post(&payload(n), is_plugged)?;
    }
    Ok(())
}

/// Makes changes on a thread of its own while datagrams go both ways, none of which may be lost.
fn under_traffic(nic: &mut ScriptedNic, changes: usize, change: impl FnMut(usize) -> Result<()> + Send) -> Result<()> {
    let done = AtomicBool::new(false);
    let mut moved = 0;
    thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let mut change = change;
            let result = (0..changes).try_for_each(|n| {
                // Time for packets between two changes.
                thread::sleep(Duration::from_micros(500));
                change(n)
            });
            done.store(true, Ordering::Relaxed);
            result
        });
        let mut result = Ok(());
        while result.is_ok() && !done.load(Ordering::Relaxed) {
            result = traffic(nic, moved);
            moved += 8;
        }
        changer.join().expect("a change does not panic")?;
        result
    })?;
    eprintln!("{moved} datagrams each way during {changes} changes");
    ensure!(moved > 100, "only {moved} datagrams during {changes} changes");
    traffic(nic, 0)
}

/// As many descriptors and threads as before, and hardly more memory.
fn nothing_grew(vnicd: &Vnicd, before: &Usage) -> Result<()> {
    /// Room for what the allocator keeps.
    const SLACK: u64 = 512 << 10;
    let now = vnicd.usage()?;
    let counts = |usage: &Usage| (usage.fds, usage.threads.len());
    ensure!(counts(&now) == counts(before), "descriptors and threads: {:?}, then {:?}", counts(before), counts(&now));
    let (before, now) = (before.rss_private_bytes, now.rss_private_bytes);
    ensure!(now <= before + SLACK, "private memory has grown from {before} to {now} bytes");
    Ok(())
}

fn memory_is_let_go(vnicd: &Vnicd, name: &str) -> Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", vnicd.pid()))?;
    ensure!(!maps.contains(name), "{name} is still mapped:\n{maps}");
    Ok(())
}

/// Memory comes, packets lie in it and are received into it, and it goes.
#[test]
fn plugged_memory_is_used_and_let_go() -> Result<()> {
    let (_ns, vnicd, mut nic) = lab()?;
    traffic(&mut nic, 0)?;
    let before = vnicd.usage()?;
    for round in 0..100 {
        let file = nic.client.memory.plug(PLUGGED, PLUGGED_SIZE)?;
        let region = plugged(&file);
        nic.client.front.add_mem_region(&region)?;
        // Behind those that are posted in old memory.
        for n in 0..4 {
            nic.post(PLUGGED + n * 4096, 2048)?;
        }
        let sent = payload(round);
        let frame = nic.frame(&sent)?;
        nic.send_from(PLUGGED + PLUGGED_SIZE / 2, &[0; 12], &frame, 2)?;
        nic.host_receives(&sent)?;
        for n in 0..POSTING.count.into() {
            nic.host_sends(&payload(round + n))?;
            nic.expect_and_post(&payload(round + n), is_plugged)?;
        }
        for n in 0..4 {
            nic.host_sends(&payload(n))?;
            nic.expect_and_post(&payload(n), |at| {
                assert!(is_plugged(at), "a buffer of old memory was used for the buffers of new memory");
                true
            })?;
        }
        nic.client.front.remove_mem_region(&region)?;
        memory_is_let_go(&vnicd, "memfd:plugged")?;
        nic.client.memory.unplug(PLUGGED, PLUGGED_SIZE)?;
    }
    nothing_grew(&vnicd, &before)
}

#[test]
fn memory_comes_and_goes_under_traffic() -> Result<()> {
    let (_ns, vnicd, mut nic) = lab()?;
    traffic(&mut nic, 0)?;
    let before = vnicd.usage()?;
    let file = nic.client.memory.plug(PLUGGED, PLUGGED_SIZE)?;
    let (mut front, region) = (nic.client.front.clone(), plugged(&file));
    under_traffic(&mut nic, 1000, |n| {
        if n % 2 == 0 {
            front.add_mem_region(&region)?;
        } else {
            front.remove_mem_region(&region)?;
        }
        Ok(())
    })?;
    memory_is_let_go(&vnicd, "memfd:plugged")?;
    nothing_grew(&vnicd, &before)
}

/// The table is replaced as a whole: by itself, by one with more in it, by one that has the same memory in two pieces.
#[test]
fn the_memory_table_is_replaced_under_traffic() -> Result<()> {
    for (name, format) in FORMATS {
        let (_ns, vnicd, mut nic) = lab_with(format)?;
        traffic(&mut nic, 0)?;
        let before = vnicd.usage()?;
        let file = nic.client.memory.plug(PLUGGED, PLUGGED_SIZE)?;
        let (front, whole, more) = (nic.client.front.clone(), nic.client.region(), plugged(&file));
        let half = whole.memory_size / 2;
        let halves = |second: u64| VhostUserMemoryRegionInfo {
            guest_phys_addr: whole.guest_phys_addr + second * half,
            memory_size: half,
            userspace_addr: whole.userspace_addr + second * half,
            mmap_offset: second * half,
            mmap_handle: whole.mmap_handle,
        };
        let tables = [vec![whole], vec![whole, more], vec![halves(0), halves(1)], vec![whole]];
        let change = |n: usize| Ok(front.set_mem_table(&tables[n % tables.len()]).map(drop)?);
        under_traffic(&mut nic, 500, change).with_context(|| name.to_owned())?;
        memory_is_let_go(&vnicd, "memfd:plugged")?;
        nothing_grew(&vnicd, &before)?;
    }
    Ok(())
}

/// As a guest does that is stopped and goes on: the rings stay where they are.
#[test]
fn rings_stop_and_start_a_thousand_times() -> Result<()> {
    let (_ns, vnicd, mut nic) = lab()?;
    let mut before = None;
    for round in 0..1000 {
        let (rx, tx) = (nic.client.front.get_vring_base(0)?, nic.client.front.get_vring_base(1)?);
        let stood = (nic.rx.base(), nic.tx.base());
        ensure!((rx, tx) == stood, "rings stopped at {:?}, the driver's stand at {stood:?}", (rx, tx));
        nic.client.start_queue(&nic.rx)?;
        nic.client.start_queue(&nic.tx)?;
        nic.send(&payload(round), 1 + round % 2)?;
        nic.host_sends(&payload(round))?;
        nic.expect_and_post(&payload(round), is_plugged)?;
        // What the first rounds grow by is there for good.
        if round == 100 {
            before = Some(vnicd.usage()?);
        }
    }
    let stopped = vnicd.log().iter().filter(|line| line.contains("ring stopped")).count();
    ensure!(stopped == 2000, "{stopped} rings stopped");
    before.map_or(Ok(()), |before| nothing_grew(&vnicd, &before))
}

/// QEMU says the same features again for each pair that it has.
#[test]
fn the_same_features_again_disturb_nothing() -> Result<()> {
    let (_ns, vnicd, mut nic) = lab()?;
    let front = nic.client.front.clone();
    under_traffic(&mut nic, 500, |_| Ok(front.set_features(FEATURES | PROTOCOL_FEATURES)?))?;
    let said = vnicd.log().iter().filter(|line| line.contains("features: ")).count();
    ensure!(said == 1, "the same features were news {said} times");
    Ok(())
}

/// Whether the checksum of a UDP datagram over IPv4 is finished (RFC 768).
fn has_checksum(frame: &[u8]) -> bool {
    let len = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
    let words = frame[26..34].chunks(2).chain(frame[34..34 + len].chunks(2));
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]))).sum();
    let sum = sum + 17 + len as u32;
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Other features on running rings: what was under way may be lost, nothing after it.
#[test]
fn other_features_hold_for_the_next_frame() -> Result<()> {
    let (_ns, vnicd, mut nic) = lab()?;
    let before = vnicd.usage()?;
    for round in 0..200 {
        let checksums = if round % 2 == 0 { CHECKSUMS } else { 0 };
        nic.client.front.set_features(FEATURES | PROTOCOL_FEATURES | checksums)?;
        // The message itself is not waited for by the worker; that of a ring is.
        nic.client.front.set_vring_enable(0, true)?;
        traffic(&mut nic, round)?;
        nic.host_sends(b"with a checksum, or the start of one")?;
        let (frame, buffers) = nic.receive()?;
        (0..buffers).try_for_each(|_| nic.post_fresh(2048))?;
        ensure!(has_checksum(&frame) == (checksums == 0), "another frame in round {round}: {frame:x?}");
    }
    nothing_grew(&vnicd, &before)
}
