//! When a queue pair sleeps and when it polls: driven by load, seen through the control socket and the driver's own eyes.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, VERSION_1};
use guest_tests::driver::{Going, Numbered, NumberedPair};
use guest_tests::lab::{beside, eventually};
use guest_tests::{Configured, Lane, NetNs, Vnicd, Watch};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a worker must not have done anything to count as asleep.
const ASLEEP: Duration = Duration::from_secs(2);
/// A rate that a driver reaches on any machine.
const BY_RATE: [&str; 2] = ["--enter-pps=2000", "--leave-pps=1000"];
/// One that none reaches.
const BY_BACKLOG_ONLY: [&str; 2] = ["--enter-pps=4000000000", "--leave-pps=3999999999"];
/// Polling does not end for a driver that does not run for a while, or because others want the CPU.
const PERSISTENT: [&str; 3] = ["--min-idle-spin-us=200000", "--max-idle-spin-us=200000", "--preempted-backoff-ms=1"];

/// Does something on a pair of each format, without and with EVENT_IDX.
fn in_each_format(options: &[&str], test: impl Fn(&mut NumberedPair, &mut Watch) -> Result<()>) -> Result<()> {
    let ns = NetNs::new()?;
    for (name, format) in FORMATS {
        for event_idx in [0, EVENT_IDX] {
            let vnicd = Vnicd::builder(&ns).uplink("loopback").args(options).control().start()?;
            let mut driver = Numbered::start(vnicd.socket(), VERSION_1 | format | event_idx, 1, 256)?;
            let mut watch = vnicd.watch()?;
            test(&mut driver.pairs[0], &mut watch).with_context(|| format!("{name}, EVENT_IDX {}", event_idx != 0))?;
        }
    }
    Ok(())
}

/// Waits for a time in which the lane polled all along, and checks that it was not woken in it, while the driver was asked
/// for no kick that counts: with EVENT_IDX the place that was asked for last is passed now and then.
fn polls_without_being_woken(watch: &mut Watch, id: &str, going: &Going) -> Result<()> {
    let driver = || (going.frames.load(Ordering::Relaxed), going.kicks.load(Ordering::Relaxed));
    let mut last = None;
    let result = eventually("a while of nothing but polling", || {
        let before = watch.lane(id)?;
        let (frames, kicks) = driver();
        thread::sleep(Duration::from_millis(5));
        let (frames, kicks) = (driver().0 - frames, driver().1 - kicks);
        let (after, later) = (watch.lane(id)?, watch.lane(id)?);
        if before.mode() != "polling" || before.switches() != later.switches() || frames < 100 {
            last = Some((frames, before, later));
            return Ok(false);
        }
        ensure!(after.count("wakeups") == before.count("wakeups"), "woken while it polled: {before:?}, then {after:?}");
        ensure!(after.count("rounds") > before.count("rounds"), "no round in 5 ms of polling");
        ensure!(kicks <= 2 + frames / 50, "asked for {kicks} kicks for {frames} frames while it polled");
        Ok(true)
    });
    result.with_context(|| format!("{last:?}"))
}

/// Interrupt mode again, and nothing more is done.
fn sleeps_again(watch: &mut Watch, id: &str) -> Result<()> {
    watch.wait_for(id, "interrupt")?;
    // The work of the last frames, and of rounds that found nothing.
    eventually("asleep", || watch.sleeps(id, Duration::from_millis(100)).map_or(Ok(false), |()| Ok(true)))?;
    watch.sleeps(id, ASLEEP)?;
    ensure!(watch.lane(id)?.mode() == "interrupt", "no load, and the mode is no longer interrupt");
    Ok(())
}

/// The queue pair has an interrupt mode, in which it starts, and a polling mode, which it enters at or above a predefined
/// packet rate and leaves below (rows 1, 2, 7 and 8 of the map): kicks are off while it polls, and on again when none of
/// the packets is left.
#[test]
fn a_pair_polls_at_a_high_rate_and_sleeps_afterwards() -> Result<()> {
    let options = [&BY_RATE[..], &PERSISTENT].concat();
    in_each_format(&options, |pair, watch| {
        let start = watch.lane("nic0/0")?;
        ensure!((start.mode().as_str(), start.reason().as_str()) == ("interrupt", "initial"), "{start:?}");
        pair.exchange(10, 1, PATIENCE)?;
        ensure!(watch.lane("nic0/0")?.switches() == 0, "polling because of ten frames");

        let going = Going::default();
        beside(
            |stop| pair.keep_going(32, &going, stop),
            || {
                let lane = watch.wait_until("nic0/0", "polling by its rate", |lane| lane.switches_by("rate") > 0)?;
                // Less than a burst is on its way: never a backlog.
                ensure!(lane.switches_by("backlog") == 0, "{lane:?}");
                polls_without_being_woken(watch, "nic0/0", &going)
            },
        )?;
        pair.exchange(1, u64::MAX, PATIENCE)?;
        sleeps_again(watch, "nic0/0")?;
        // And is woken as ever.
        pair.exchange(10, 1, PATIENCE)
    })
}

/// If packets are being processed and more are queued, polling begins whatever the rate, and ends with the backlog (rows 3
/// and 7 of the map).
#[test]
fn a_backlog_is_polled_at_any_rate() -> Result<()> {
    let options = [&BY_BACKLOG_ONLY[..], &PERSISTENT].concat();
    in_each_format(&options, |pair, watch| {
        let going = Going::default();
        beside(
            |stop| pair.keep_going(250, &going, stop),
            || watch.wait_until("nic0/0", "polling", |lane| lane.switches_by("backlog") > 0).map(drop),
        )?;
        pair.exchange(1, u64::MAX, PATIENCE)?;
        sleeps_again(watch, "nic0/0")?;
        pair.exchange(10, 1, PATIENCE)
    })
}

/// A NIC may interrupt one CPU and not another, and there may be many NICs (rows 4 and 19 of the map): of two devices with
/// two pairs each, just the loaded pair polls.
#[test]
fn only_the_loaded_pair_polls() -> Result<()> {
    const FILE: &str = r#"
control = "DIR/control"
[[device]]
name = "a"
socket-path = "DIR/a.sock"
uplink = "loopback"
governor = { enter-pps = 2000, leave-pps = 1000 }
[[device]]
name = "b"
socket-path = "DIR/b.sock"
uplink = "loopback"
governor = { enter-pps = 2000, leave-pps = 1000 }
"#;
    let ns = NetNs::new()?;
    let vnicd = Configured::start(&ns, FILE, &["a.sock", "b.sock"])?;
    let start = |socket: &str| Numbered::start(&vnicd.path(socket), VERSION_1 | EVENT_IDX, 2, 256);
    let mut devices = [start("a.sock")?, start("b.sock")?];
    let mut watch = Watch::connect(&vnicd.path("control"))?;
    for (device, pair, loaded) in [(0, 0, "a/0"), (0, 1, "a/1"), (1, 0, "b/0")] {
        let going = Going::default();
        let (load, others) = {
            let mut pairs: Vec<_> = devices.iter_mut().flat_map(|device| &mut device.pairs).collect();
            (pairs.remove(device * 2 + pair), pairs)
        };
        beside(
            |stop| load.keep_going(32, &going, stop),
            || {
                // A frame now and then is no load.
                for other in others {
                    other.exchange(3, 1, PATIENCE)?;
                }
                let polls = |lane: &Lane| lane.mode() == "polling";
                eventually("the loaded pair polls", || {
                    let lanes = watch.lanes()?;
                    ensure!(lanes.len() == 4, "{lanes:?}");
                    let others = lanes.iter().filter(|lane| lane.id() != loaded);
                    ensure!(!others.clone().any(polls), "a pair without load polls: {lanes:?}");
                    Ok(lanes.iter().any(polls))
                })
            },
        )
        .with_context(|| loaded.to_owned())?;
        load.exchange(1, u64::MAX, PATIENCE)?;
        watch.wait_for(loaded, "interrupt")?;
        // Until its rate window of 50 ms is past, a frame more would have it poll again.
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}
