//! Front ends of every kind: those that listen themselves, those that read the configuration space, those that set
//! the MTU or announce a migrated guest. All played by a script.

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};

const PATIENCE: Duration = Duration::from_secs(10);
const POSTING: Posting = Posting { count: 32, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
/// `VIRTIO_NET_F_MTU`.
const MTU: u64 = 1 << 3;

const SEND_RARP: u32 = 19;
const NET_SET_MTU: u32 = 20;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_CONFIG: u32 = 24;
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// The next connection at a listener, within the patience.
fn accept(listener: &UnixListener) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            Err(e) => return Err(e).context("vnicd did not connect"),
        }
    }
}

/// Traffic both ways over a fresh NIC on this connection.
fn serves(ns: &NetNs, stream: UnixStream) -> Result<ScriptedNic> {
    let mut client = Client::from_stream(stream)?;
    client.negotiate(FEATURES)?;
    client.share_memory()?;
    let (rx, tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
    let mut nic = ScriptedNic::with_queues(ns, client, rx, tx, FEATURES, POSTING)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in")?;
    Ok(nic)
}

#[test]
fn a_front_end_that_listens_is_found_whenever_it_comes() -> Result<()> {
    let ns = namespace()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("front.sock");
    let vnicd = Vnicd::builder(&ns).socket_path(&path).client().start()?;
    vnicd.wait_for_line("no front end listens", PATIENCE)?;
    ensure!(!path.exists(), "vnicd made the front end's socket");
    for round in 0..3 {
        let listener = UnixListener::bind(&path)?;
        let nic = serves(&ns, accept(&listener)?)?;
        // While this one is served, no other connection is made.
        listener.set_nonblocking(true)?;
        ensure!(listener.accept().is_err(), "a second connection in round {round}");
        // A connection that ends is followed by another to the same listener.
        drop(nic);
        let nic = serves(&ns, accept(&listener)?)?;
        drop(listener);
        std::fs::remove_file(&path)?;
        drop(nic);
    }
    // One that hangs up at once is not tried in a tight loop.
    let listener = UnixListener::bind(&path)?;
    let begun = Instant::now();
    let mut connections = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        listener.set_nonblocking(true)?;
        match listener.accept() {
            Ok((stream, _)) => {
                connections += 1;
                stream.shutdown(Shutdown::Both)?;
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    ensure!((1..=12).contains(&connections), "{connections} connections within two seconds");
    ensure!(vnicd.terminate()?.success());
    ensure!(path.exists(), "vnicd removed the front end's socket");
    Ok(())
}

#[test]
fn a_client_ends_at_once_while_it_waits_or_serves() -> Result<()> {
    let ns = namespace()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("front.sock");
    let vnicd = Vnicd::builder(&ns).socket_path(&path).client().start()?;
    vnicd.wait_for_line("no front end listens", PATIENCE)?;
    ensure!(vnicd.terminate()?.success());

    let listener = UnixListener::bind(&path)?;
    let vnicd = Vnicd::builder(&ns).socket_path(&path).client().start()?;
    let nic = serves(&ns, accept(&listener)?)?;
    ensure!(vnicd.terminate()?.success());
    nic.client.wait_closed()
}

/// One that ends before it lets vnicd in is not there yet, and no error.
#[test]
fn a_front_end_that_ends_before_it_accepts_is_waited_for() -> Result<()> {
    let ns = namespace()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("front.sock");
    let vnicd = Vnicd::builder(&ns).socket_path(&path).client().start()?;
    drop((UnixListener::bind(&path)?, vnicd.wait_for_line("front end connected", PATIENCE)?));
    vnicd.wait_for_line("front end gone", PATIENCE)?;
    std::fs::remove_file(&path)?;
    drop(serves(&ns, accept(&UnixListener::bind(&path)?)?)?);
    ensure!(vnicd.log().iter().all(|line| !line.contains("ERROR")), "{:?}", vnicd.log());
    Ok(())
}

/// The configuration space as a front end that claims the device first may read it.
fn config(client: &mut Client) -> Result<Vec<u8>> {
    let (_, bytes) = client.front.get_config(0, 12, VhostUserConfigFlags::WRITABLE, &[0; 12])?;
    Ok(bytes)
}

#[test]
fn the_configuration_space_is_for_those_that_read_it() -> Result<()> {
    let ns = namespace()?;
    let vnicd =
        Vnicd::builder(&ns).args(["--mac", "52:54:00:00:00:77", "--mtu", "9000", "--queue-pairs", "3"]).start()?;
    ensure!(ns.sh("cat /sys/class/net/tap0/mtu")?.trim() == "9000");

    // As QEMU does: features before the claim.
    let mut qemu = Client::connect(vnicd.socket())?;
    qemu.front.get_features()?;
    let protocol = qemu.front.get_protocol_features()?;
    ensure!(!protocol.intersects(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::BACKEND_REQ));
    drop(qemu);
    vnicd.wait_for_line("front end gone", PATIENCE)?;

    // As cloud-hypervisor does.
    let mut client = Client::start(vnicd.socket(), FEATURES | MTU | 1 << 5)?;
    let up = [0x52, 0x54, 0, 0, 0, 0x77, 1, 0, 3, 0, 0x28, 0x23];
    ensure!(config(&mut client)? == up, "{:x?}", config(&mut client)?);
    // Past the end: an answer of no bytes says no.
    let past: Vec<u8> = [250u32, 12, 0].iter().flat_map(|word| word.to_le_bytes()).chain([0; 12]).collect();
    client.send(GET_CONFIG, VERSION, &past, &[])?;
    ensure!(client.reply()?.is_some_and(|r| r.body[4..8] == [0; 4]), "read past the end");

    let (ours, theirs) = UnixStream::pair()?;
    client.send(SET_BACKEND_REQ_FD, VERSION | NEED_REPLY, &[], &[theirs.as_fd()])?;
    ensure!(client.reply()?.and_then(|r| r.value()) == Some(0));
    drop(theirs);
    let mut told = ours;
    told.set_read_timeout(Some(PATIENCE))?;
    let change = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let mut message = [0; 12];
    ns.sh("ip link set tap0 down")?;
    told.read_exact(&mut message).context("the front end was not told that the link is down")?;
    ensure!(message == change && config(&mut client)?[6] == 0, "{message:?}");
    ns.sh("ip link set tap0 up")?;
    told.read_exact(&mut message).context("the front end was not told that the link is up")?;
    ensure!(message == change && config(&mut client)? == up);
    Ok(())
}

#[test]
fn an_mtu_is_checked_and_kept_to() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).start()?;
    let mut client = Client::connect(vnicd.socket())?;
    client.front.set_owner()?;
    let offered = client.front.get_features()?;
    let protocol = client.front.get_protocol_features()?;
    client.front.set_protocol_features(protocol)?;
    for bad in [0u64, 67, 65_536, u64::MAX] {
        client.send(NET_SET_MTU, VERSION | NEED_REPLY, &bad.to_le_bytes(), &[])?;
        ensure!(client.reply()?.and_then(|r| r.value()).is_some_and(|v| v != 0), "MTU {bad} was accepted");
    }
    client.send(NET_SET_MTU, VERSION | NEED_REPLY, &4000u64.to_le_bytes(), &[])?;
    ensure!(client.reply()?.and_then(|r| r.value()) == Some(0));
    ensure!(ns.sh("cat /sys/class/net/tap0/mtu")?.trim() == "4000");
    client.front.set_features(offered & (VERSION_1 | MRG_RXBUF | MTU | 1 << 30))?;
    client.share_memory()?;
    let (rx, tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
    let features = VERSION_1 | MRG_RXBUF;
    let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, features, POSTING)?;
    nic.exchange(&[1; 3900])?;
    // The host ignores what the guest was told.
    ns.sh("ip link set tap0 mtu 9000")?;
    nic.host_sends(&[2; 5000])?;
    ensure!(nic.exchange(b"the large one did not come")? == 1);
    Ok(())
}

#[test]
fn a_migrated_guest_is_announced() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).start()?;
    let nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    let before = ns.counters("tap0")?;
    let mac = [0x02, 0, 0, 0, 0, 0x77, 0, 0];
    nic.client.send(SEND_RARP, VERSION | NEED_REPLY, &mac, &[])?;
    ensure!(nic.client.reply()?.and_then(|r| r.value()) == Some(0));
    vnicd.wait_for_line("announced the guest by RARP", PATIENCE)?;
    let after = ns.counters("tap0")?;
    ensure!(
        (after.rx_packets, after.rx_bytes) == (before.rx_packets + 1, before.rx_bytes + 60),
        "{before:?} {after:?}"
    );
    Ok(())
}

#[test]
fn only_an_address_that_the_guest_may_have_is_announced() -> Result<()> {
    let ns = namespace()?;
    let options = ["--allowed-macs=02:00:00:00:00:77", "--max-tx-pps=20"];
    let vnicd = Vnicd::builder(&ns).args(options).control().start()?;
    let nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    let before = ns.counters("tap0")?;
    let announce = |last: u8| -> Result<bool> {
        nic.client.send(SEND_RARP, VERSION | NEED_REPLY, &[0x02, 0, 0, 0, 0, last, 0, 0], &[])?;
        Ok(nic.client.reply()?.and_then(|reply| reply.value()) == Some(0))
    };
    ensure!(announce(0x78)?);
    vnicd.wait_for_line("not announced by RARP: its Ethernet address is not one of allowed-macs", PATIENCE)?;
    ensure!(vnicd.status()?["devices"][0]["pairs"][0]["counters"]["tx_dropped_mac"] == 1);
    ensure!(ns.counters("tap0")?.rx_packets == before.rx_packets, "it was announced");
    // Its own address no more often than it may send.
    for _ in 0..200 {
        ensure!(announce(0x77)?);
    }
    vnicd.wait_for_line("announced the guest by RARP", PATIENCE)?;
    vnicd.wait_for_line("not announced by RARP: the device's limit is reached", PATIENCE)?;
    // No address of several is anybody's.
    nic.client.send(SEND_RARP, VERSION, &[0x03, 0, 0, 0, 0, 0x77, 0, 0], &[])?;
    vnicd.wait_for_line("its connection ended", PATIENCE).map(drop)
}

/// Cloud-hypervisor's order: features, memory, sizes of all rings, then for each ring addresses, base and kick, at last
/// ENABLE for all, twice. Its base is the driver's index of that moment: taken literally it would skip what is posted.
#[test]
fn a_driver_that_posts_before_it_is_ready_loses_nothing() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).start()?;
    let mut client = Client::start(vnicd.socket(), FEATURES)?;
    let (rx, tx) = (client.queue(0, 256)?, client.queue(1, 256)?);
    let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, POSTING)?;
    let frame = nic.frame(b"posted before the rings started")?;
    let at = nic.client.memory.allocate(4096);
    let bytes = [&[0; 12][..], &frame].concat();
    vm_memory::Bytes::write_slice(&nic.client.memory.map, &bytes, vm_memory::GuestAddress(at))?;
    for _ in 0..64 {
        nic.tx.add(&[(at, bytes.len() as u32)], false).context("the ring is full")?;
    }
    let stand = [nic.rx.split().avail_idx, nic.tx.split().avail_idx];
    let (client, rx, tx) = (&mut nic.client, &nic.rx, &nic.tx);
    for queue in [rx, tx] {
        client.describe_queue(queue)?;
        client.front.set_vring_base(queue.index, stand[queue.index])?;
        client.front.set_vring_kick(queue.index, &queue.kick)?;
    }
    for _ in 0..2 {
        for queue in [rx, tx] {
            client.front.set_vring_enable(queue.index, true)?;
        }
    }
    for _ in 0..64 {
        nic.host_receives(b"posted before the rings started")?;
        nic.tx.wait_used(PATIENCE)?;
    }
    for n in 0..32u8 {
        nic.exchange(&[n; 200])?;
    }
    nic.send(b"and on", 1)
}
