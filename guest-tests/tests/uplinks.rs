//! Uplinks other than a TAP by name, and the options of one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::packets::{Flow, Kind, Tap, expect};
use guest_tests::spawn::pass_fd;
use guest_tests::{NetNs, Process, Vnicd, vnicd};

const PATIENCE: Duration = Duration::from_secs(10);
const POSTING: Posting = Posting { count: 32, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;

fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// A driver alone: rings that run on whatever uplink the daemon has.
struct Driver {
    client: Client,
    rx: guest_tests::driver::Queue,
    tx: guest_tests::driver::Queue,
}

impl Driver {
    fn start(vnicd: &Vnicd) -> Result<Self> {
        let mut client = Client::start(vnicd.socket(), FEATURES)?;
        let rx = client.running_queue(0, 256)?;
        let tx = client.running_queue(1, 256)?;
        Ok(Self { client, rx, tx })
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        let at = self.client.memory.allocate(4096);
        let bytes = [&[0; 12][..], frame].concat();
        vm_memory::Bytes::write_slice(&self.client.memory.map, &bytes, vm_memory::GuestAddress(at))?;
        self.tx.add(&[(at, bytes.len() as u32)], false).context("the ring is full")?;
        self.tx.kick()?;
        self.tx.wait_used(PATIENCE).map(drop)
    }

    fn post(&mut self, at: u64) -> Result<()> {
        self.rx.add(&[(at, 2048)], true).context("the ring is full")?;
        self.rx.kick().map(drop)
    }
}

#[test]
fn loopback_returns_every_frame_with_its_addresses_swapped() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").start()?;
    let mut driver = Driver::start(&vnicd)?;
    let at = driver.client.memory.allocate(2048);
    for n in 0..300usize {
        let frame: Vec<u8> = (0..14 + n * 4).map(|i| (i + n) as u8).collect();
        driver.send(&frame)?;
        // The buffer comes after the frame: it waits.
        driver.post(at)?;
        let (_, len) = driver.rx.wait_used(PATIENCE)?;
        let mut got = vec![0; len as usize];
        vm_memory::Bytes::read_slice(&driver.client.memory.map, &mut got, vm_memory::GuestAddress(at))?;
        let swapped = [&frame[6..12], &frame[..6], &frame[12..]].concat();
        ensure!(got[12..] == swapped, "frame {n} came back otherwise");
    }
    Ok(())
}

#[test]
fn loopback_gives_no_frame_to_the_next_driver() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").start()?;
    let mut driver = Driver::start(&vnicd)?;
    for _ in 0..10 {
        driver.send(&[1; 60])?;
    }
    drop(driver);
    vnicd.wait_for_line("front end gone", PATIENCE)?;
    let mut driver = Driver::start(&vnicd)?;
    let at = driver.client.memory.allocate(2048);
    driver.post(at)?;
    driver.send(&[2; 80])?;
    let (_, len) = driver.rx.wait_used(PATIENCE)?;
    ensure!(len == 92, "a frame of {} bytes of another driver", len - 12);
    Ok(())
}

#[test]
fn discard_takes_everything_and_gives_nothing() -> Result<()> {
    let ns = namespace()?;
    let control = tempfile::tempdir()?;
    let path = control.path().join("control");
    let vnicd = Vnicd::builder(&ns).uplink("discard").arg("--control").arg(&path).start()?;
    let mut driver = Driver::start(&vnicd)?;
    for n in 0..100 {
        driver.send(&vec![7; 60 + n])?;
    }
    let vnicctl = vnicd::binary()?.with_file_name("vnicctl");
    let output = std::process::Command::new(vnicctl).arg("--control").arg(&path).args(["status", "--json"]).output()?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let counters = &status["devices"][0]["pairs"][0]["counters"];
    let bytes: usize = (0..100).map(|n| 60 + n).sum();
    ensure!(
        counters["tx_packets"] == 100 && counters["tx_bytes"] == bytes && counters["rx_packets"] == 0,
        "{counters}"
    );
    Ok(())
}

/// Number of the first file descriptor passed: above all that this program has open, or one would overwrite another.
const FIRST_FD: i32 = 900;

/// The daemon on queues that this program opened.
fn on_passed_queues(ns: &NetNs, queues: Vec<OwnedFd>, user: Option<u32>) -> Result<(Vnicd, String)> {
    let list: Vec<_> = (0..queues.len()).map(|n| (FIRST_FD + n as i32).to_string()).collect();
    let mut builder = Vnicd::builder(ns).uplink(format!("tap-fd={}", list.join(":")));
    if let Some(user) = user {
        builder = builder.user(user);
    }
    for (n, queue) in queues.into_iter().enumerate() {
        builder = builder.pass_fd(queue, FIRST_FD + n as i32);
    }
    let vnicd = builder.start()?;
    let line = vnicd.wait_for_line("uplink opened", PATIENCE)?;
    Ok((vnicd, line))
}

fn open_tap(ns: &NetNs, name: &str, queues: u16) -> Result<Vec<OwnedFd>> {
    let request = vnicd_lib::opener::TapRequest {
        name: name.into(),
        bridge: None,
        queues,
        sndbuf: None,
        persist: false,
        mtu: None,
    };
    Ok(ns.run_in(|| vnicd_lib::opener::open_tap(&request))??.queues)
}

#[test]
fn passed_queues_need_no_rights() -> Result<()> {
    let ns = namespace()?;
    let (vnicd, line) = on_passed_queues(&ns, open_tap(&ns, "tap0", 3)?, Some(65_534))?;
    ensure!(line.contains("tap tap0") && line.contains("queue_pairs=3"), "{line}");
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in").map(drop)
}

#[test]
fn what_is_passed_must_be_a_tap() -> Result<()> {
    let ns = namespace()?;
    let null = std::fs::File::open("/dev/null")?;
    let mut command = ns.command(vnicd::binary()?);
    pass_fd(&mut command, null.into(), 10);
    let dir = tempfile::tempdir()?;
    command.arg("--socket-path").arg(dir.path().join("s")).args(["--uplink", "tap-fd=10"]);
    let output = Process::spawn(command)?.wait_output(PATIENCE)?;
    ensure!(output.status == 2 && output.stderr.lines().count() == 1, "{output:?}");
    ensure!(output.stderr.contains("file descriptor 10 is no TAP queue"), "{output:?}");
    Ok(())
}

#[test]
fn a_persistent_tap_outlives_the_daemon() -> Result<()> {
    let ns = namespace()?;
    for (spec, stays) in [("tap=tap0", false), ("tap=tap0,persist", true)] {
        let vnicd = Vnicd::builder(&ns).uplink(spec).start()?;
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
        nic.send(b"out", 1)?;
        ensure!(vnicd.terminate()?.success());
        ensure!(ns.sh("ip link show tap0").is_ok() == stays, "{spec}");
    }
    // And is opened again.
    let vnicd = Vnicd::builder(&ns).uplink("tap=tap0").start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    nic.exchange(b"in").map(drop)
}

/// A bridge floods frames for nobody it knows to a port of 2 Mbit/s, which end in `sink`. One that looked into multicast would
/// send a packet of its own there.
fn slow_way_on(ns: &NetNs) -> Result<()> {
    ns.sh("ip link add slow type veth peer name sink && ip link set slow up && ip link set sink up")?;
    ns.sh("tc qdisc add dev slow root tbf rate 2mbit burst 3000 limit 4000000")?;
    ns.sh("ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up")?;
    ns.sh("ip link set tap0 master br0 && ip link set slow master br0").map(drop)
}

/// With a bounded send buffer, a TAP whose frames nobody takes pushes back: the driver's packets wait, none is lost.
#[test]
fn a_bounded_send_buffer_pushes_back() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).uplink("tap=tap0,sndbuf=20000").start()?;
    slow_way_on(&ns)?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    let mut frame = nic.frame(&[9; 1400])?;
    frame[..6].copy_from_slice(&[2, 5, 5, 5, 5, 5]);
    // A protocol for experiments (IEEE 802): what the host knows, it may take off the TAP's account too early.
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    let at = nic.client.memory.allocate(4096);
    let bytes = [&[0; 12][..], &frame].concat();
    vm_memory::Bytes::write_slice(&nic.client.memory.map, &bytes, vm_memory::GuestAddress(at))?;
    const COUNT: u64 = 200;
    for _ in 0..COUNT {
        nic.tx.add(&[(at, bytes.len() as u32)], false).context("the ring is full")?;
    }
    nic.tx.kick()?;
    // 280 KB at 2 Mbit/s take over a second; a TAP that took them all at once would have used all chains by now.
    std::thread::sleep(Duration::from_millis(200));
    let used = nic.tx.split().device_idx();
    ensure!(u64::from(used) < COUNT / 2, "{used} of {COUNT} packets were taken at once");
    let cpu = vnicd.usage()?.cpu;
    std::thread::sleep(Duration::from_millis(300));
    let spent = vnicd.usage()?.cpu - cpu;
    ensure!(spent <= Duration::from_millis(50), "waiting for room took {spent:?} of CPU time");
    for _ in 0..COUNT {
        nic.tx.wait_used(PATIENCE)?;
    }
    let sent = ns.counters("tap0")?.rx_packets;
    ensure!(sent >= COUNT, "{sent} of {COUNT} packets left");
    Ok(())
}

/// Packets that were joined are sent before some that stand between them. They are not sent again when the driver's chains are
/// taken anew, from other memory, and what is dropped of those that wait is counted once.
#[test]
fn what_waits_for_room_is_dealt_with_once() -> Result<()> {
    let ns = namespace()?;
    let macs = "--allowed-macs=02:00:00:00:00:00,02:00:00:00:00:01";
    let vnicd = Vnicd::builder(&ns).uplink("tap=tap0,sndbuf=20000").arg(macs).control().start()?;
    slow_way_on(&ns)?;
    let mut sink = Tap::open(&ns, "sink")?;
    let mut driver = Driver::start(&vnicd)?;
    let mut flows = [0, 1, 2].map(|number| Flow::new(Kind::Tcp4, number));
    // The first flow fills the send buffer when it is joined. The third one may not be sent.
    let mut frames: Vec<_> = (0..40).map(|n| flows[n % 2].packet(&[n as u8; 1200], false)).collect();
    frames.push(flows[2].packet(&[0; 1200], false));
    for (_, frame) in &frames {
        let at = driver.client.memory.allocate(4096);
        let bytes = [&[0; 12][..], frame].concat();
        vm_memory::Bytes::write_slice(&driver.client.memory.map, &bytes, vm_memory::GuestAddress(at))?;
        driver.tx.add(&[(at, bytes.len() as u32)], false).context("the ring is full")?;
    }
    driver.tx.kick()?;
    eventually("the first flow is sent", || Ok(ns.counters("tap0")?.rx_packets > 0))?;
    driver.client.share_memory()?;
    frames.iter().try_for_each(|_| driver.tx.wait_used(PATIENCE).map(drop))?;
    expect(&frames[..40], |patience| sink.receive(patience))?;
    let counters = &vnicd.status()?["devices"][0]["pairs"][0]["counters"];
    ensure!(counters["tx_dropped_mac"] == 1 && counters["tx_packets"] == 40, "{counters}");
    Ok(())
}

#[test]
fn a_macvtap_carries_frames_and_tells_of_a_wrong_address() -> Result<()> {
    let ns = namespace()?;
    ns.sh("ip link add up0 type veth peer name far0 && ip link set up0 up && ip link set far0 up")?;
    // The scripted host is where tap0 is: the far end gets that name.
    ns.sh("ip link set far0 down && ip link set far0 name tap0 && ip link set tap0 up")?;
    ns.sh("ip link add link up0 name mv0 address 02:00:00:00:00:77 type macvtap mode bridge")?;
    let vnicd = Vnicd::builder(&ns).uplink("macvtap=mv0").arg("--queue-pairs=2").start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    for n in 0..20u8 {
        nic.send(&[n; 300], 1)?;
        nic.exchange(&[n; 300])?;
    }
    ensure!(!vnicd.log().iter().any(|line| line.contains("delivers only to")), "the address was right");
    let mut frame = nic.frame(b"from another address")?;
    frame[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    nic.send_raw(&[0; 12], &frame, 1)?;
    let line = vnicd.wait_for_line("delivers only to", PATIENCE)?;
    ensure!(line.contains("02:09:09:09:09:09") && line.contains("02:00:00:00:00:77"), "{line}");

    let refused = |uplink: &str, words: &[&str]| -> Result<()> {
        let mut command = ns.command(vnicd::binary()?);
        let dir = tempfile::tempdir()?;
        command.arg("--socket-path").arg(dir.path().join("s")).args(["--uplink", uplink]);
        let output = Process::spawn(command)?.wait_output(PATIENCE)?;
        ensure!(output.status == 2 && output.stderr.lines().count() == 1, "{output:?}");
        ensure!(words.iter().all(|word| output.stderr.contains(word)), "{output:?}");
        Ok(())
    };
    refused("macvtap=up0", &["'up0' is not a macvtap"])?;
    refused("macvtap=nowhere", &["'nowhere' does not exist"])
}
