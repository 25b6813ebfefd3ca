//! A driver that breaks a ring stops that ring and nothing else: one log line, the err eventfd, and a restart mends it.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Desc, GUEST_BASE, Posting, Queue, ScriptedNic, is_signalled};
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

const PATIENCE: Duration = Duration::from_secs(10);
const STOPPED: &str = "ring stopped until the driver resets it";

/// Breaks the ring that it is given; says what the log line must hold.
type Break = fn(&mut Queue) -> &'static str;

const WRITE: u16 = 2;
const NEXT: u16 = 1;
const INDIRECT: u16 = 4;

fn desc(address: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { address, len, flags, next }
}

fn offer(queue: &mut Queue, first: Desc) {
    queue.write_desc(200, first);
    queue.split().offer(200);
}

const TX_BREAKS: [Break; 10] = [
    |q| {
        let jumped = q.split().avail_idx.wrapping_add(1000);
        q.split().set_avail_idx(jumped);
        "the available index jumped"
    },
    |q| {
        q.split().offer(999);
        "descriptor 999 in a table of 256"
    },
    |q| {
        offer(q, desc(GUEST_BASE, 64, NEXT, 200));
        "a loop?"
    },
    |q| {
        offer(q, desc(0xdead_0000_0000, 64, 0, 0));
        "guest address 0xdead00000000 + 0x40 lies outside"
    },
    |q| {
        offer(q, desc(GUEST_BASE + (16 << 20) - 10, 64, 0, 0));
        "guest address 0x1010000 + 0x36 lies outside"
    },
    |q| {
        offer(q, desc(GUEST_BASE, 11, 0, 0));
        "fewer than the 12 of the header"
    },
    |q| {
        offer(q, desc(GUEST_BASE, 64, WRITE, 0));
        "for the other direction"
    },
    |q| {
        offer(q, desc(GUEST_BASE, 16 * 257, INDIRECT, 0));
        "indirect table of 4112 bytes"
    },
    |q| {
        offer(q, desc(GUEST_BASE, 24, INDIRECT, 0));
        "indirect table of 24 bytes"
    },
    |q| {
        offer(q, desc(GUEST_BASE, 32, INDIRECT | NEXT, 1));
        "indirect table that is not allowed"
    },
];

#[test]
fn a_broken_ring_stops_alone_and_a_restart_mends_it() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    // With INDIRECT_DESC, so that the tables are judged for what they are.
    let features = VERSION_1 | MRG_RXBUF | EVENT_IDX | 1 << 28;
    let posting = Posting { count: 64, len: 2048 };
    let mut nic = ScriptedNic::start(&ns, &vnicd, features, 256, posting)?;
    for (n, break_ring) in TX_BREAKS.iter().enumerate() {
        nic.send(b"before", 1)?;
        let why = break_ring(&mut nic.tx);
        nic.tx.kick.write(1)?;
        ensure!(is_signalled(&nic.tx.err, PATIENCE), "{why}: the err eventfd was not written");
        vnicd.wait_for_line(why, PATIENCE)?;
        let lines: Vec<_> = vnicd.log().into_iter().filter(|line| line.contains(STOPPED)).collect();
        ensure!(lines.len() == n + 1, "{why}: {} lines for {} broken rings", lines.len(), n + 1);
        ensure!(lines[n].contains(why) && lines[n].contains("nic0/0/tx"), "{why:?} is not in: {}", lines[n]);
        // More kicks change nothing, and the other ring goes on.
        nic.tx.kick.write(1)?;
        nic.exchange(b"the receive ring lives")?;
        // What a driver reset comes to.
        nic.client.front.get_vring_base(1)?;
        nic.tx = nic.client.running_queue(1, 256)?;
    }
    nic.send(b"after", 1)
}

#[test]
fn a_broken_receive_ring_leaves_the_transmit_ring_alone() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, VERSION_1, 256, Posting { count: 1, len: 2048 })?;
    offer(&mut nic.rx, desc(GUEST_BASE, 2048, 0, 0));
    nic.exchange(b"the buffer before it is still good")?;
    nic.host_sends(b"a reason to look at the ring")?;
    nic.rx.kick.write(1)?;
    ensure!(is_signalled(&nic.rx.err, PATIENCE), "the err eventfd was not written");
    nic.send(b"the transmit ring lives", 1)?;
    let line = vnicd.wait_for_line(STOPPED, PATIENCE)?;
    ensure!(line.contains("nic0/0/rx"), "{line}");
    Ok(())
}

#[test]
fn a_buffer_in_removed_memory_breaks_the_ring_only() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, VERSION_1, 256, Posting { count: 8, len: 2048 })?;
    let extra = guest_tests::driver::SharedMemory::new(1 << 20)?;
    let mut region = nic.client.region();
    region.guest_phys_addr = 0x4000_0000;
    region.userspace_addr = 0x6000_0000_0000;
    region.memory_size = extra.size;
    region.mmap_handle = std::os::fd::AsRawFd::as_raw_fd(&extra.file);
    nic.client.front.add_mem_region(&region)?;
    // The same region again, as QEMU does for its second pair, changes nothing.
    nic.client.front.add_mem_region(&region)?;
    nic.send(b"rings survive a change of memory", 1)?;
    nic.exchange(b"both of them")?;
    nic.tx.add(&[(region.guest_phys_addr, 64)], false);
    nic.tx.kick()?;
    nic.tx.wait_used(PATIENCE)?;

    nic.client.front.remove_mem_region(&region)?;
    nic.client.front.remove_mem_region(&region)?;
    nic.send(b"and its removal", 1)?;
    nic.tx.add(&[(region.guest_phys_addr, 64)], false);
    nic.tx.kick()?;
    ensure!(is_signalled(&nic.tx.err, PATIENCE), "the err eventfd was not written");
    ensure!(vnicd.wait_for_line(STOPPED, PATIENCE)?.contains("0x40000000"));
    nic.exchange(b"the receive ring lives").map(drop)
}
