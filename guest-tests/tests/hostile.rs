//! What a hostile or broken guest or front end must not achieve: to stop a device for good, to make the daemon die, grow
//! or spin, or to see another guest's packets.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, GUEST_BASE, Posting, ScriptedNic, SharedMemory, is_signalled};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};
use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

const PATIENCE: Duration = Duration::from_secs(10);
const SET_VRING_ENABLE: u32 = 18;
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const NONE: Posting = Posting { count: 0, len: 2048 };
const SOME: Posting = Posting { count: 32, len: 2048 };

fn host(pairs: u16) -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg(format!("--queue-pairs={pairs}")).start()?;
    Ok((ns, vnicd))
}

fn serves(ns: &NetNs, vnicd: &Vnicd) -> Result<()> {
    let mut nic = ScriptedNic::start(ns, vnicd, FEATURES, 256, SOME)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in").map(drop)
}

/// Driver posts chains of two descriptors; its table is used up when half the ring's entries are.
#[test]
fn a_jumbo_that_a_full_descriptor_table_cannot_hold_is_dropped() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 16, NONE)?;
    ns.sh("ip link set tap0 mtu 9000")?;
    for _ in 0..8 {
        let at = nic.client.memory.allocate(1024);
        nic.rx.add(&[(at, 12), (at + 12, 500)], true).context("full")?;
    }
    nic.rx.kick()?;
    ensure!(nic.rx.add(&[(GUEST_BASE, 16)], true).is_none(), "the table is not used up");
    nic.host_sends(&[1; 6000])?;
    nic.host_sends(b"small")?;
    // The jumbo can never be held; the small one fits.
    nic.rx.wait_used(Duration::from_secs(3)).map(drop)
}

/// The same with free entries left: a driver that keeps only four buffers posted.
#[test]
fn a_jumbo_that_the_posted_buffers_cannot_hold_does_not_stop_receiving_for_ever() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, Posting { count: 4, len: 1024 })?;
    ns.sh("ip link set tap0 mtu 9000")?;
    nic.host_sends(&[1; 6000])?;
    nic.host_sends(b"small")?;
    nic.rx.wait_used(Duration::from_secs(3)).map(drop)
}

/// QEMU with CONFIGURE_MEM_SLOTS changes a region by removing and adding it while rings run.
#[test]
fn a_ring_whose_region_is_replaced_goes_on() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, SOME)?;
    nic.send(b"before", 1)?;
    nic.exchange(b"before")?;
    let region = nic.client.region();
    nic.client.front.remove_mem_region(&region)?;
    nic.client.front.add_mem_region(&region)?;
    nic.send(b"after", 1)?;
    nic.exchange(b"after").map(drop)
}

#[test]
fn the_base_of_a_ring_in_removed_memory_is_known() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, SOME)?;
    nic.send(b"one", 1)?;
    nic.send(b"two", 1)?;
    let region = nic.client.region();
    nic.client.front.remove_mem_region(&region)?;
    let base = nic.client.front.get_vring_base(1)?;
    ensure!(base == 2, "base {base} after two packets");
    Ok(())
}

#[test]
fn a_memory_file_that_is_cut_breaks_the_device_only() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, SOME)?;
    nic.send(b"before", 1)?;
    nic.client.memory.file.set_len(0)?;
    nic.tx.kick.write(1)?;
    ensure!(is_signalled(&nic.tx.err, PATIENCE) && is_signalled(&nic.rx.err, PATIENCE), "the err fds were not written");
    vnicd.wait_for_line("truncated", PATIENCE)?;
    // This program's own mapping is cut as well: it must not touch it any more, not even to let go of it tidily.
    let ScriptedNic { client, .. } = nic;
    drop(client);
    serves(&ns, &vnicd)
}

#[test]
fn hugetlb_regions_of_odd_size_do_not_stay_mapped() -> Result<()> {
    let (_ns, vnicd) = host(1)?;
    let file = std::fs::File::from(memfd_create("leak", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB)?);
    file.set_len(4 << 20)?;
    for _ in 0..20 {
        let mut client = Client::connect(vnicd.socket())?;
        client.negotiate(FEATURES)?;
        let _ = client.front.add_mem_region(&VhostUserMemoryRegionInfo {
            guest_phys_addr: 0x4000_0000,
            memory_size: (2 << 20) + 4096,
            userspace_addr: 0x6000_0000_0000,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        });
        drop(client);
        std::thread::sleep(Duration::from_millis(30));
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", vnicd.pid()))?;
    let left = maps.lines().filter(|line| line.contains("leak")).count();
    ensure!(left == 0, "{left} mappings stay");
    Ok(())
}

#[test]
fn no_frame_of_before_reaches_the_next_front_end() -> Result<()> {
    for pairs in [2, 1] {
        let (ns, vnicd) = host(pairs)?;
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, SOME)?;
        nic.exchange(b"for the first")?;
        drop(nic);
        while !vnicd.log().iter().any(|l| l.contains("front end gone")) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // What a host sends meanwhile.
        let client = Client::start(vnicd.socket(), FEATURES)?;
        let socket = ns.run_in(|| std::net::UdpSocket::bind("10.77.0.1:0"))??;
        for n in 0..20u8 {
            socket.send_to(&[n; 32], "10.77.0.2:9000")?;
        }
        let mut client = client;
        let rx = client.running_queue(0, 256)?;
        let tx = client.running_queue(1, 256)?;
        let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, SOME)?;
        nic.exchange(b"for the second").with_context(|| format!("{pairs} pairs: a stale frame"))?;
    }
    Ok(())
}

/// A queue of a macvtap keeps what came to it, even while it is detached.
#[test]
fn no_frame_of_before_reaches_the_next_front_end_over_a_macvtap() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    ns.sh("ip link add up0 type veth peer name tap0 && ip link set tap0 up && ip link set up0 up")?;
    ns.sh("ip link add link up0 name mv0 address 02:00:00:00:00:77 type macvtap mode bridge")?;
    let vnicd = Vnicd::builder(&ns).uplink("macvtap=mv0").arg("--queue-pairs=1").start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, Posting { count: 1, len: 2048 })?;
    nic.exchange(b"for the first")?;
    // It has no more buffers.
    let before = ns.counters("mv0")?.rx_packets;
    for n in 0..20u8 {
        nic.host_sends(&[n; 32])?;
    }
    eventually("all of them are queued", || Ok(ns.counters("mv0")?.rx_packets >= before + 20))?;
    drop(nic);
    vnicd.wait_for_line("front end gone", PATIENCE)?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, SOME)?;
    nic.exchange(b"for the second").context("a stale frame").map(drop)
}

#[test]
fn more_regions_than_offered_are_refused() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    let mut client = Client::connect(vnicd.socket())?;
    client.negotiate(FEATURES)?;
    let memory = SharedMemory::new(4096)?;
    let mut added = 0;
    for n in 0..2000u64 {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0x4000_0000 + n * 8192,
            memory_size: 4096,
            userspace_addr: 0x6000_0000_0000 + n * 8192,
            mmap_offset: 0,
            mmap_handle: memory.file.as_raw_fd(),
        };
        if client.front.add_mem_region(&region).is_err() {
            break;
        }
        added += 1;
    }
    drop(client);
    serves(&ns, &vnicd)?;
    ensure!(added <= 509, "{added} regions were taken, 509 offered");
    Ok(())
}

#[test]
fn a_flood_of_connections_does_not_hold_the_control_thread() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    let _nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, SOME)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for _ in 0..4 {
        let (stop, path) = (stop.clone(), vnicd.socket().to_owned());
        threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                drop(UnixStream::connect(&path));
            }
        }));
    }
    std::thread::sleep(Duration::from_millis(300));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(vnicd.pid() as i32).context("pid")?,
        rustix::process::Signal::TERM,
    )?;
    let start = Instant::now();
    while vnicd.process().try_status()?.is_none() && start.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    ensure!(took < Duration::from_secs(2), "SIGTERM took {took:?}");
    Ok(())
}

/// A second front end that never says SET_FEATURES: which header does it get?
#[test]
fn features_of_the_front_end_before_are_forgotten() -> Result<()> {
    let (ns, vnicd) = host(1)?;
    serves(&ns, &vnicd)?;
    let mut client = Client::connect(vnicd.socket())?;
    client.front.set_owner()?;
    client.share_memory()?;
    let mut tx = client.queue(1, 256)?;
    client.send(SET_VRING_ENABLE, 1, &[1, 0, 0, 0, 1, 0, 0, 0], &[])?;
    client.start_queue(&tx)?;
    let at = client.memory.allocate(4096);
    // A header of ten bytes, then a frame of 60 whose first bytes would be cut by a header of twelve.
    tx.add(&[(at, 10 + 60)], false);
    tx.kick.write(1)?;
    tx.wait_used(PATIENCE)?;
    let before = ns.counters("tap0")?.rx_bytes;
    tx.add(&[(at, 10 + 60)], false);
    tx.kick.write(1)?;
    tx.wait_used(PATIENCE)?;
    let sent = ns.counters("tap0")?.rx_bytes - before;
    ensure!(sent == 60, "{sent} bytes sent of a frame of 60");
    Ok(())
}

/// The guest names the same 15 MiB many times in one chain: 3.7 GiB.
#[test]
fn a_huge_frame_costs_the_test_uplinks_no_memory() -> Result<()> {
    for uplink in ["discard", "loopback"] {
        let ns = NetNs::new()?;
        let vnicd = Vnicd::builder(&ns).uplink(uplink).start()?;
        let mut client = Client::start(vnicd.socket(), FEATURES)?;
        let mut tx = client.running_queue(1, 256)?;
        let before = vnicd.usage()?.rss_private_bytes;
        tx.add(&[(GUEST_BASE, 15 << 20); 64], false);
        tx.kick.write(1)?;
        tx.wait_used(PATIENCE)?;
        let grown = vnicd.usage()?.rss_private_bytes.saturating_sub(before);
        ensure!(grown < 16 << 20, "{uplink}: {} MiB more", grown >> 20);
    }
    Ok(())
}
