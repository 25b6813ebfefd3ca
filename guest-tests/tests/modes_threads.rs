//! Which threads move a device's packets: one for each CPU, one for each direction, or two in a row.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Going, Numbered, Posting, ScriptedNic};
use guest_tests::lab::{beside, eventually};
use guest_tests::{Configured, NetNs, Usage, Vnicd, Watch};
use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend;

const PATIENCE: Duration = Duration::from_secs(20);
const KINDS: [&[&str]; 4] = [
    &["--threads=per-cpu", "--cpus=0"],
    &["--threads=per-direction"],
    &["--threads=pipeline"],
    &["--threads=pipeline", "--mode=interrupt"],
];
const FEATURES: u64 = VERSION_1 | EVENT_IDX;
/// Where memory is plugged in, for the driver and for its front end.
const PLUGGED: u64 = 0x4000_0000;
const PLUGGED_USER: u64 = 0x6000_0000_0000;
const PLUGGED_SIZE: u64 = 1 << 20;

fn in_each_kind_and_format(test: impl Fn(&[&str], u64) -> Result<()>) -> Result<()> {
    for kind in KINDS {
        for (name, format) in FORMATS {
            test(kind, format).with_context(|| format!("{kind:?}, {name}"))?;
        }
    }
    Ok(())
}

/// The names of threads that move packets.
fn movers(pid: u32) -> Result<Vec<String>> {
    let usage = Usage::of(pid)?;
    let moves = |name: &&str| ["nic0/", "a/", "b/", "cpu"].iter().any(|prefix| name.starts_with(prefix));
    let mut names: Vec<String> =
        usage.threads.iter().map(|t| t.name.as_str()).filter(moves).map(String::from).collect();
    names.sort();
    Ok(names)
}

/// Worker threads may be dedicated to a CPU, for all its packets (row 10 of the map): one serves two pairs of each of two
/// devices, and each pair has a mode of its own.
#[test]
fn a_cpu_has_one_worker_for_all_its_pairs() -> Result<()> {
    const FILE: &str = r#"
control = "DIR/control"
[[device]]
name = "a"
socket-path = "DIR/a.sock"
uplink = "loopback"
threads = "per-cpu"
cpus = "0"
governor = { enter-pps = 2000, leave-pps = 1000 }
[[device]]
name = "b"
socket-path = "DIR/b.sock"
uplink = "loopback"
threads = "per-cpu"
cpus = "0"
mode = "interrupt"
"#;
    let ns = NetNs::new()?;
    let vnicd = Configured::start(&ns, FILE, &["a.sock", "b.sock"])?;
    let start = |socket: &str| Numbered::start(&vnicd.path(socket), FEATURES, 2, 256);
    let mut devices = [start("a.sock")?, start("b.sock")?];
    ensure!(movers(vnicd.process().pid())? == ["cpu0"], "{:?}", movers(vnicd.process().pid())?);
    let mut watch = Watch::connect(&vnicd.path("control"))?;
    let lanes = watch.lanes()?;
    ensure!(lanes.len() == 4 && lanes.iter().all(|l| l.worker() == "cpu0" && l.cpu() == Some(0)), "{lanes:?}");

    // All at once, each with its own frames.
    thread::scope(|scope| {
        let pairs = devices.iter_mut().flat_map(|device| &mut device.pairs);
        let loads: Vec<_> = pairs.map(|pair| scope.spawn(|| pair.exchange(20_000, 100, PATIENCE))).collect();
        loads.into_iter().try_for_each(|load| load.join().expect("an exchange does not panic"))
    })?;
    let [a, _] = &mut devices;
    let (first, second) = a.pairs.split_at_mut(1);
    let going = Going::default();
    beside(
        |stop| first[0].keep_going(32, &going, stop),
        || {
            eventually("one of the worker's pairs polls", || {
                second[0].exchange(1, 1, PATIENCE)?;
                let [a0, a1, b0, b1] = ["a/0", "a/1", "b/0", "b/1"].map(|id| watch.lane(id));
                let polls = a0?.mode() == "polling";
                for other in [b0?, b1?] {
                    ensure!(other.switches() == 0 && other.mode() == "interrupt", "{other:?}");
                }
                // What the exchange before had it do is over.
                Ok(polls && a1?.mode() == "interrupt")
            })
        },
    )?;
    // One device goes, and the other stays.
    drop(devices);
    eventually("nothing is served", || {
        Ok(watch.lanes()?.iter().all(|lane| lane.mode() == "interrupt") && watch.sleeps("a/0", PAUSE).is_ok())
    })
}

/// How long nothing is done by who sleeps.
const PAUSE: Duration = Duration::from_millis(300);

/// A worker each way has a mode of its own (row 11 of the map and its further reading): a flood to the uplink is polled,
/// and the direction in which nothing comes is not.
#[test]
fn each_direction_has_a_worker_and_a_mode() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let options = ["--threads=per-direction", "--enter-pps=2000", "--leave-pps=1000"];
    let vnicd = Vnicd::builder(&ns).args(options).control().start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, Posting { count: 32, len: 2048 })?;
    let names = movers(vnicd.pid())?;
    ensure!(names == ["nic0/0/rx", "nic0/0/tx"], "{names:?}");
    nic.send(b"out", 1)?;
    nic.exchange(b"in")?;
    let mut watch = vnicd.watch()?;
    let mut frame = nic.frame(b"one of many")?;
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    eventually("the direction that is used polls", || {
        for _ in 0..200 {
            nic.send_raw(&[0; 12], &frame, 1)?;
        }
        let (tx, rx) = (watch.lane("nic0/0/tx")?, watch.lane("nic0/0/rx")?);
        ensure!(rx.mode() == "interrupt" && rx.switches() == 0, "{rx:?}");
        Ok(tx.switches() > 0)
    })?;
    let (tx, rx) = (watch.lane("nic0/0/tx")?, watch.lane("nic0/0/rx")?);
    ensure!(tx.count("tx_packets") > 100 && tx.count("rx_packets") == 0, "{tx:?}");
    ensure!(rx.count("tx_packets") == 0 && rx.count("rx_packets") == 1, "{rx:?}");
    Ok(())
}

/// Another embodiment: a second worker moves packets from ring to queue, the first processes them (row 11 of the map).
#[test]
fn a_pipeline_has_two_threads() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").arg("--threads=pipeline").control().start()?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 2, 256)?;
    let names = movers(vnicd.pid())?;
    ensure!(names == ["nic0/0", "nic0/0/uplink", "nic0/1", "nic0/1/uplink"], "{names:?}");
    for pair in &mut driver.pairs {
        pair.exchange(50_000, 200, PATIENCE)?;
    }
    Ok(())
}

/// No frame is lost, changed or overtaken by another, however threads share the work (rows 10 and 11 of the map): one by
/// one, some, and as many as there is room for; and then nothing is done.
#[test]
fn frames_keep_their_order_over_loopback() -> Result<()> {
    let ns = NetNs::new()?;
    in_each_kind_and_format(|kind, format| {
        let vnicd = Vnicd::builder(&ns).uplink("loopback").args(kind).control().start()?;
        for event_idx in [0, EVENT_IDX] {
            let mut driver = Numbered::start(vnicd.socket(), VERSION_1 | format | event_idx, 2, 256)?;
            for pair in &mut driver.pairs {
                pair.exchange(200, 1, PATIENCE)?;
                pair.exchange(5_000, 30, PATIENCE)?;
                pair.exchange(20_000, 250, PATIENCE)?;
            }
            sleeps(&vnicd)?;
        }
        Ok(())
    })
}

/// No thread that moves packets does anything.
fn sleeps(vnicd: &Vnicd) -> Result<()> {
    thread::sleep(PAUSE);
    let spent = vnicd.spends_in(PAUSE)?;
    // Two of the kernel's ticks.
    ensure!(spent.cpu <= Duration::from_millis(20), "{spent:?} with nothing to do");
    Ok(())
}

/// Rings stop and start while frames move: some of those under way may be lost, none comes twice, late or changed.
#[test]
fn rings_stop_and_start_under_load() -> Result<()> {
    let ns = NetNs::new()?;
    in_each_kind_and_format(|kind, format| {
        let vnicd = Vnicd::builder(&ns).uplink("loopback").args(kind).start()?;
        let mut driver = Numbered::start(vnicd.socket(), FEATURES | format, 1, 256)?;
        for _ in 0..100 {
            for _ in 0..200 {
                let _ = driver.pairs[0].offer()?;
            }
            driver.pairs[0].receive()?;
            driver.restart(0)?;
        }
        driver.pairs[0].settle(PATIENCE)?;
        driver.pairs[0].exchange(5_000, 100, PATIENCE)
    })
}

/// A front end that leaves under load is followed by another, which gets its own frames and none of those before it.
#[test]
fn front_ends_come_and_go_under_load() -> Result<()> {
    let ns = NetNs::new()?;
    in_each_kind_and_format(|kind, format| {
        let vnicd = Vnicd::builder(&ns).uplink("loopback").args(kind).start()?;
        let mut threads = None;
        for round in 1..=10 {
            let mut driver = Numbered::start(vnicd.socket(), FEATURES | format, 1, 256)?;
            let pair = &mut driver.pairs[0];
            // A frame of the one before would have another number.
            pair.exchange(100 * round, 50, PATIENCE)?;
            for _ in 0..250 {
                let _ = pair.offer()?;
            }
            drop(driver);
            let gone = || vnicd.log().iter().filter(|line| line.contains("front end gone")).count();
            eventually("the front end is let go", || Ok(gone() as u64 == round))?;
            let names = movers(vnicd.pid())?;
            let first = threads.get_or_insert_with(|| names.clone());
            ensure!(*first == names, "{first:?}, then {names:?}");
        }
        sleeps(&vnicd)
    })
}

/// Memory comes and goes while frames move, of which none is lost.
#[test]
fn memory_changes_under_load() -> Result<()> {
    let ns = NetNs::new()?;
    in_each_kind_and_format(|kind, format| {
        let vnicd = Vnicd::builder(&ns).uplink("loopback").args(kind).start()?;
        let mut driver = Numbered::start(vnicd.socket(), FEATURES | format, 1, 256)?;
        let file = driver.client.memory.plug(PLUGGED, PLUGGED_SIZE)?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: PLUGGED,
            memory_size: PLUGGED_SIZE,
            userspace_addr: PLUGGED_USER,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        let Numbered { client, pairs } = &mut driver;
        let going = Going::default();
        beside(
            |stop| pairs[0].keep_going(100, &going, stop),
            || {
                for _ in 0..100 {
                    client.front.add_mem_region(&region)?;
                    client.front.remove_mem_region(&region)?;
                    let frames = going.frames.load(Ordering::Relaxed);
                    eventually("frames move", || Ok(going.frames.load(Ordering::Relaxed) > frames + 200))?;
                }
                Ok(())
            },
        )?;
        pairs[0].exchange(5_000, 100, PATIENCE)
    })
}

/// Datagrams between the guest and the host cross a TAP both ways as they were, and again after its carrier was lost; then
/// nothing is done.
#[test]
fn datagrams_cross_a_tap() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    in_each_kind_and_format(|kind, format| {
        let vnicd = Vnicd::builder(&ns).args(kind).control().start()?;
        ns.sh("ip link set tap0 up")?;
        let features = FEATURES | MRG_RXBUF | format;
        let mut nic = ScriptedNic::start(&ns, &vnicd, features, 256, Posting { count: 64, len: 2048 })?;
        for round in 0..3u8 {
            for n in 0..60 {
                let data: Vec<u8> = (0..60 + usize::from(n) * 23).map(|at| at as u8 ^ n ^ round).collect();
                nic.send(&data, 1 + usize::from(n) % 3)?;
                for _ in 0..8 {
                    nic.host_sends(&data)?;
                }
                for _ in 0..8 {
                    nic.expect_and_post(&data, |_| false)?;
                }
            }
            sleeps(&vnicd)?;
            ns.sh("ip link set tap0 down")?;
            let mut watch = vnicd.watch()?;
            let down = |watch: &mut Watch| -> Result<bool> {
                Ok(watch.lanes()?.iter().all(|lane| lane.reason() == "uplink_down"))
            };
            eventually("the workers know that the uplink is down", || down(&mut watch))?;
            let frame = nic.frame(b"in vain")?;
            nic.send_raw(&[0; 12], &frame, 1)?;
            sleeps(&vnicd)?;
            ns.sh("ip link set tap0 up && ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
            eventually("and that it is up again", || Ok(!down(&mut watch)?))?;
        }
        Ok(())
    })
}
