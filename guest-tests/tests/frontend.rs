//! Front ends in every order and disorder of messages, played by a script.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Calls, Client, Posting, ScriptedNic, is_signalled};
use guest_tests::{NetNs, Vnicd};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const PATIENCE: Duration = Duration::from_secs(10);
const POSTING: Posting = Posting { count: 32, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;

// Requests (vhost-user, "Front-end message types") and header flags.
const SET_FEATURES: u32 = 2;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_ENABLE: u32 = 18;
const NET_SET_MTU: u32 = 20;
const IOTLB_MSG: u32 = 22;
const SET_STATUS: u32 = 39;
const GET_STATUS: u32 = 40;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

fn host() -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").start()?;
    Ok((ns, vnicd))
}

/// Proves that the daemon serves: a front end connects, and packets go both ways.
fn serves(ns: &NetNs, vnicd: &Vnicd) -> Result<()> {
    let mut nic = ScriptedNic::start(ns, vnicd, FEATURES, 256, POSTING)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in").map(drop)
}

fn state(index: u32, num: u32) -> Vec<u8> {
    [index.to_le_bytes(), num.to_le_bytes()].concat()
}

#[test]
fn an_enable_before_set_features_is_answered_and_remembered() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut client = Client::connect(vnicd.socket())?;
    client.front.set_owner()?;
    let offered = client.front.get_features()?;
    let protocol = client.front.get_protocol_features()?;
    client.front.set_protocol_features(protocol)?;
    for index in 0..2 {
        client.send(SET_VRING_ENABLE, VERSION | NEED_REPLY, &state(index, 1), &[])?;
        let reply = client.reply()?.context("the connection was closed")?;
        ensure!(
            (reply.request, reply.flags, reply.value()) == (SET_VRING_ENABLE, VERSION | REPLY, Some(0)),
            "{reply:?}"
        );
    }
    // The second pair's, without asking for an answer: nothing comes before the answer to the next message.
    client.send(SET_VRING_ENABLE, VERSION, &state(2, 0), &[])?;
    client.front.set_features(offered & (FEATURES | 1 << 30))?;
    client.share_memory()?;
    let (rx, tx) = (client.queue(0, 256)?, client.queue(1, 256)?);
    client.start_queue(&rx)?;
    client.start_queue(&tx)?;
    // Neither ring is enabled again. Their drivers think of EVENT_IDX as not negotiated, which is only more kicks.
    let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, POSTING)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in").map(drop)
}

#[test]
fn what_came_before_a_ring_was_enabled_or_started_is_not_lost() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut client = Client::start(vnicd.socket(), FEATURES)?;
    let (rx, tx) = (client.queue(0, 256)?, client.queue(1, 256)?);
    // Receive buffers are posted and kicked before anything else.
    client.start_queue(&rx)?;
    let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, POSTING)?;
    nic.client.front.set_vring_enable(0, true)?;
    nic.exchange(b"into buffers posted before")?;
    // A packet waits in the transmit ring, and its kick in the eventfd, before the ring is started; enabled is first.
    nic.client.front.set_vring_enable(1, true)?;
    let frame = nic.frame(b"kicked before")?;
    let at = nic.client.memory.allocate(4096);
    vm_memory::Bytes::write_slice(
        &nic.client.memory.map,
        &[&[0; 12][..], &frame].concat(),
        vm_memory::GuestAddress(at),
    )?;
    nic.tx.add(&[(at, frame.len() as u32 + 12)], false);
    nic.tx.kick.write(1)?;
    let (client, tx) = (&mut nic.client, &nic.tx);
    client.start_queue(tx)?;
    nic.host_receives(b"kicked before")
}

#[test]
fn packets_of_a_disabled_ring_are_discarded() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    nic.client.front.set_vring_enable(1, false)?;
    let frame = nic.frame(b"discarded")?;
    nic.send_raw(&[0; 12], &frame, 1)?;
    nic.client.front.set_vring_enable(1, true)?;
    nic.send(b"sent", 1)
}

#[test]
fn a_ring_without_a_kick_fd_is_looked_at() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut client = Client::start(vnicd.socket(), FEATURES)?;
    let rx = client.running_queue(0, 256)?;
    let tx = client.queue(1, 256)?;
    client.describe_queue(&tx)?;
    client.send(SET_VRING_KICK, VERSION | NEED_REPLY, &(1u64 | 0x100).to_le_bytes(), &[])?;
    ensure!(client.reply()?.and_then(|r| r.value()) == Some(0));
    client.front.set_vring_enable(1, true)?;
    let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, POSTING)?;
    nic.send(b"nobody kicked", 1)?;
    nic.exchange(b"in").map(drop)
}

#[test]
fn a_call_fd_is_replaced_on_a_running_ring() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    nic.exchange(b"by the first")?;
    let fresh = EventFd::new(EFD_NONBLOCK)?;
    nic.client.front.set_vring_call(0, &fresh)?;
    nic.rx.set_calls(Calls::After(0));
    let old = std::mem::replace(&mut nic.rx.call, fresh);
    let _ = old.read();
    nic.exchange(b"by the second")?;
    ensure!(old.read().is_err(), "the replaced call fd was written");
    Ok(())
}

#[test]
fn status_is_kept() -> Result<()> {
    let (_ns, vnicd) = host()?;
    let mut client = Client::connect(vnicd.socket())?;
    client.negotiate(FEATURES)?;
    client.send(SET_STATUS, VERSION | NEED_REPLY, &0xfu64.to_le_bytes(), &[])?;
    ensure!(client.reply()?.and_then(|r| r.value()) == Some(0));
    client.send(GET_STATUS, VERSION, &[], &[])?;
    ensure!(client.reply()?.and_then(|r| r.value()) == Some(0xf));
    Ok(())
}

#[test]
fn what_is_not_offered_is_refused() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut client = Client::connect(vnicd.socket())?;
    client.negotiate(FEATURES)?;
    let protocol = client.front.get_protocol_features()?.bits();
    ensure!(protocol & (1 << 14) == 0, "in-band notifications are offered");
    // MQ, LOG_SHMFD, RARP, REPLY_ACK, MTU, BACKEND_REQ, CONFIG, CONFIGURE_MEM_SLOTS, STATUS.
    ensure!(protocol & 0x1_823f == protocol, "offered {protocol:#x}, which the tests do not know");
    // Unknown to this device, answered when that is asked for, and the connection lives.
    for request in [IOTLB_MSG, 60, 0x7fff_ffff] {
        client.send(request, VERSION | NEED_REPLY, &1500u64.to_le_bytes(), &[])?;
        let reply = client.reply()?.context("the connection was closed")?;
        ensure!(reply.request == request && reply.value().is_some_and(|v| v != 0), "{reply:?}");
    }
    client.send(SET_FEATURES, VERSION | NEED_REPLY, &(1u64 << 40).to_le_bytes(), &[])?;
    ensure!(client.reply()?.and_then(|r| r.value()).is_some_and(|v| v != 0), "a reset of single rings was accepted");
    client.wait_closed()?;
    vnicd.wait_for_line("were acknowledged but not offered", PATIENCE)?;
    serves(&ns, &vnicd)
}

#[test]
fn malformed_messages_end_their_connection_and_leave_nothing_behind() -> Result<()> {
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let before = vnicd.idle_fds(1)?;
    let body = [0; 8];
    let bad: Vec<(u32, u32, &[u8])> = vec![
        (SET_FEATURES, VERSION, &body[..4]),
        (SET_FEATURES, VERSION, &[0; 16]),
        (SET_FEATURES, VERSION | REPLY, &body),
        (SET_FEATURES, 2, &body),
        (SET_STATUS, VERSION, &body[..3]),
        (SET_STATUS, 3, &body),
        (GET_STATUS, VERSION, &body),
        (SET_VRING_ENABLE, VERSION, &body[..7]),
        (SET_VRING_ENABLE, VERSION, &[0, 0, 0, 0, 2, 0, 0, 0]),
        (SET_VRING_ENABLE, VERSION, &[4, 0, 0, 0, 1, 0, 0, 0]),
        (SET_VRING_ENABLE, VERSION, &[0, 0, 1, 0, 1, 0, 0, 0]),
        (8, VERSION, &[0, 1, 0, 0, 0, 1, 0, 0]),
        (9, VERSION, &[0xff; 40]),
        (11, VERSION, &[0, 0, 1, 0, 0, 0, 0, 0]),
        (5, VERSION, &[0xff; 8]),
        (37, VERSION, &[0; 40]),
        (NET_SET_MTU, VERSION, &body),
        (IOTLB_MSG, VERSION, &body),
        (99, VERSION, &body),
        (0, VERSION, &[]),
    ];
    for (request, flags, body) in &bad {
        let client = Client::connect(vnicd.socket())?;
        client.send(*request, *flags, body, &[])?;
        client.wait_closed().with_context(|| format!("request {request}, flags {flags:#x}, {} bytes", body.len()))?;
    }
    let null = std::fs::File::open("/dev/null")?;
    // Torn: half a header, a header without its body, a body of 1 MiB that never comes.
    let torn: [&[u8]; 3] =
        [&[2, 0, 0, 0, 1], &[2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0], &[2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0]];
    let (mut connections, mut after) = (1 + bad.len(), before);
    for bytes in torn {
        // Descriptors that come with them, more than any message may have among them, go with the connection.
        for fds in [&[][..], &[null.as_fd()], &[null.as_fd(); 64]] {
            Client::connect(vnicd.socket())?.send_bytes(bytes, fds)?;
            connections += 1;
            // One that has gone before its turn is not served.
            after = vnicd.idle_fds(connections)?;
        }
    }
    ensure!(after == before, "{before} file descriptors before, {after} after");
    serves(&ns, &vnicd)
}

/// CVE-2019-14818: most of these messages are bad in themselves.
#[test]
fn cve_2019_14818_file_descriptors_on_any_message_are_closed() -> Result<()> {
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let before = vnicd.idle_fds(1)?;
    let null = std::fs::File::open("/dev/null")?;
    let many: Vec<BorrowedFd<'_>> = (0..64).map(|_| null.as_fd()).collect();
    let (mut connections, mut after) = (1, before);
    for request in 1..=45 {
        for fds in (1..=8).chain([64]).map(|count| &many[..count]) {
            let client = Client::connect(vnicd.socket())?;
            client.send(request, VERSION, &[0; 8], fds)?;
            // Whatever it made of that, this ends the connection.
            client.send(99, VERSION, &[], fds)?;
            drop(client);
            connections += 1;
            // One that has gone before its turn is not served.
            after = vnicd.idle_fds(connections)?;
        }
    }
    ensure!(after == before, "{before} file descriptors before, {after} after");
    serves(&ns, &vnicd)
}

#[test]
fn memory_that_would_be_a_sigbus_is_refused() -> Result<()> {
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let before = vnicd.idle_fds(1)?;
    type Change = fn(&mut VhostUserMemoryRegionInfo);
    let changes: [Change; 5] = [
        |r| r.memory_size += 4096,
        |r| r.mmap_offset = 4096,
        |r| r.mmap_offset = u64::MAX - 4095,
        |r| r.guest_phys_addr = u64::MAX - 4095,
        |r| r.memory_size = u64::MAX - 4095,
    ];
    for (n, change) in changes.iter().enumerate() {
        for slots in [false, true] {
            let mut client = Client::connect(vnicd.socket())?;
            client.negotiate(FEATURES)?;
            let mut region = client.region();
            change(&mut region);
            let refused = if slots {
                client.front.add_mem_region(&region).is_err()
            } else {
                client.front.set_mem_table(&[region]).is_err()
            };
            ensure!(refused, "region {n} was accepted");
        }
    }
    let after = vnicd.idle_fds(1 + changes.len() * 2)?;
    ensure!(after == before, "{before} file descriptors before, {after} after");
    serves(&ns, &vnicd)
}

#[test]
fn rings_that_lie_wrong_are_refused_before_they_do_harm() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut connections = 0;
    for outside in [0u64, u64::MAX - 4095] {
        let mut client = Client::start(vnicd.socket(), FEATURES)?;
        let mut queue = client.queue(1, 256)?;
        queue.layout.used = outside.wrapping_add(guest_tests::driver::GUEST_BASE);
        if outside == 0 {
            // The used ring at the very end: its index is inside, its entries are not.
            queue.layout.used = guest_tests::driver::GUEST_BASE + client.memory.size - 8;
            client.start_queue(&queue)?;
            ensure!(is_signalled(&queue.err, PATIENCE), "the err eventfd was not written");
        } else {
            queue.layout.used = guest_tests::driver::GUEST_BASE + client.memory.size;
            ensure!(client.start_queue(&queue).is_err(), "a ring outside the shared memory was accepted");
        }
        drop(client);
        connections += 1;
        vnicd.idle_fds(connections)?;
    }
    let mut client = Client::start(vnicd.socket(), FEATURES)?;
    let queue = client.queue(1, 256)?;
    ensure!(client.front.set_vring_kick(1, &queue.kick).is_err(), "a ring without addresses was started");
    drop(client);
    serves(&ns, &vnicd)
}

#[test]
fn a_second_front_end_is_turned_away_without_harm_to_the_first() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    for n in 0..20u8 {
        let second = Client::connect(vnicd.socket())?;
        second.wait_closed()?;
        nic.send(&[n; 100], 1)?;
        nic.exchange(&[n; 100])?;
        nic.post_fresh(2048)?;
    }
    drop(nic);
    serves(&ns, &vnicd)
}

#[test]
fn a_thousand_front_ends_leave_nothing_behind() -> Result<()> {
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let (before, threads) = (vnicd.idle_fds(1)?, vnicd.usage()?.threads.len());
    for _ in 0..1000 {
        let mut client = Client::start(vnicd.socket(), FEATURES)?;
        client.running_queue(0, 256)?;
        client.running_queue(1, 256)?;
    }
    let after = vnicd.idle_fds(1001)?;
    let usage = vnicd.usage()?;
    ensure!((after, usage.threads.len()) == (before, threads), "{before} fds and {threads} threads before: {usage:?}");
    serves(&ns, &vnicd)
}
