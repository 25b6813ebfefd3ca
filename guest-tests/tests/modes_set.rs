//! Modes that are set, and what stands over them: nothing is polled in vain.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, PACKED, VERSION_1};
use guest_tests::driver::{Client, Going, Numbered, NumberedPair, Posting, ScriptedNic};
use guest_tests::lab::{beside, eventually};
use guest_tests::{NetNs, Vnicd, Watch};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

const PATIENCE: Duration = Duration::from_secs(20);
const FEATURES: u64 = VERSION_1 | EVENT_IDX;
/// As good as nothing in a second, of which a worker that spins spends all that the machine gives it.
const NOTHING: Duration = Duration::from_millis(20);

fn spends_nothing(vnicd: &Vnicd, when: &str) -> Result<()> {
    // What was under way is over.
    thread::sleep(Duration::from_millis(100));
    let spent = vnicd.spends_in(Duration::from_secs(1))?;
    ensure!(spent.cpu <= NOTHING, "vnicd spent {spent:?} in a second, {when}");
    Ok(())
}

/// Frames go round as fast as they can until so many have, while `looks` is called again and again.
fn under_load(pair: &mut NumberedPair, frames: u64, mut looks: impl FnMut() -> Result<()>) -> Result<()> {
    let going = Going::default();
    beside(
        |stop| pair.keep_going(200, &going, stop),
        || {
            eventually("many frames", || {
                looks()?;
                Ok(going.frames.load(std::sync::atomic::Ordering::Relaxed) >= frames)
            })
        },
    )?;
    pair.exchange(1, u64::MAX, PATIENCE)
}

/// A mode that is entered at initialisation stays (rows 8 and 14 of the map): interrupt mode under any load.
#[test]
fn interrupt_mode_holds_under_load() -> Result<()> {
    let ns = NetNs::new()?;
    let options = ["--mode=interrupt", "--enter-pps=2", "--leave-pps=1"];
    let vnicd = Vnicd::builder(&ns).uplink("loopback").args(options).control().start()?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
    let mut watch = vnicd.watch()?;
    under_load(&mut driver.pairs[0], 100_000, || {
        let lane = watch.lane("nic0/0")?;
        ensure!(lane.mode() == "interrupt" && lane.reason() == "initial" && lane.switches() == 0, "{lane:?}");
        ensure!(lane.count("polls_full") + lane.count("polls_empty") == 0, "{lane:?}");
        Ok(())
    })?;
    spends_nothing(&vnicd, "in interrupt mode after a load")
}

/// A mode that is entered at initialisation stays (rows 8 and 14 of the map): polling mode with no load at all, which takes
/// CPU time and no wake-ups.
#[test]
fn polling_mode_holds_without_load() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").arg("--mode=polling").control().start()?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
    let pair = &mut driver.pairs[0];
    pair.exchange(10, 1, PATIENCE)?;
    let mut watch = vnicd.watch()?;
    let before = watch.lane("nic0/0")?;
    eventually("a thousand rounds that find nothing", || {
        let lane = watch.lane("nic0/0")?;
        ensure!(lane.mode() == "polling" && lane.switches() == 0, "{lane:?}");
        Ok(lane.count("polls_empty") >= before.count("polls_empty") + 1000)
    })?;
    under_load(pair, 20_000, || {
        let lane = watch.lane("nic0/0")?;
        ensure!(lane.mode() == "polling" && lane.switches() == 0, "{lane:?}");
        ensure!(lane.count("wakeups") == before.count("wakeups"), "woken in polling mode: {before:?}, then {lane:?}");
        Ok(())
    })
}

/// Polling mode looks at what can change by itself, and at nothing else (row 14 of the map): no guest, rings that are
/// stopped, and rings that are blocked both ways take no CPU time.
#[test]
fn polling_mode_costs_nothing_where_nothing_can_come() -> Result<()> {
    let ns = NetNs::new()?;
    for (name, format) in FORMATS {
        let vnicd = Vnicd::builder(&ns).uplink("loopback").arg("--mode=polling").control().start()?;
        spends_nothing(&vnicd, "without a guest")?;
        let mut client = Client::start(vnicd.socket(), FEATURES | format)?;
        // More frames than a wire holds wait for receive buffers of which there are none.
        let (mut rx, mut tx) = (client.running_queue(0, 256)?, client.running_queue(1, 2048)?);
        let at = client.memory.allocate(4096);
        for _ in 0..1500 {
            tx.add(&[(at, 100)], false).context("the transmit ring is full")?;
        }
        tx.kick()?;
        eventually("as many frames as the wire holds", || {
            while tx.take_used().is_some() {}
            Ok(vnicd.counters("tx_packets")?[0] >= 1024)
        })?;
        spends_nothing(&vnicd, &format!("blocked both ways ({name})"))?;
        let came = |rx: &mut guest_tests::driver::Queue| std::iter::from_fn(|| rx.take_used()).count();
        let sent = vnicd.counters("tx_packets")?[0];
        ensure!((1024..1500).contains(&sent) && came(&mut rx) == 0, "{sent} frames left, with no room for them");

        // A buffer is asked for, and then the rest comes.
        let mut frames = 0;
        let (start, mut posted) = (Instant::now(), 0);
        while frames < 1500 {
            if posted - frames < 200 {
                rx.add(&[(at, 2048)], true).context("the receive ring is full")?;
                rx.kick()?;
                posted += 1;
            }
            frames += came(&mut rx);
            if start.elapsed() > PATIENCE {
                bail!("{frames} frames came, {posted} buffers were posted ({name}): {:?}", vnicd.watch()?.lanes()?);
            }
        }
        for ring in [&rx, &tx] {
            client.front.get_vring_base(ring.index)?;
        }
        spends_nothing(&vnicd, &format!("with stopped rings ({name})"))?;
        drop(client);
        vnicd.wait_for_line("front end gone", PATIENCE)?;
        spends_nothing(&vnicd, &format!("after the guest has gone ({name})"))?;
    }
    Ok(())
}

/// An uplink that fails or loses carrier puts the pair into interrupt mode whatever was set, so that it never spins on a
/// dead device; when it carries frames again, what was set counts again (row 14 of the map).
#[test]
fn an_uplink_that_is_down_is_not_polled() -> Result<()> {
    const DOWN_UP: [(&str, &str); 2] = [
        ("ip link set tap0 down", "ip link set tap0 up"),
        ("ip link set tap0 carrier off", "ip link set tap0 carrier on"),
    ];
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--mode=polling").control().start()?;
    ns.sh("ip link set tap0 up")?;
    for (name, format) in FORMATS {
        let size = if format & PACKED != 0 { 65 } else { 64 };
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, size, Posting { count: 32, len: 2048 })?;
        let mut watch = vnicd.watch()?;
        for (down, up) in DOWN_UP {
            watch.wait_for("nic0/0", "polling")?;
            nic.send(b"before", 1)?;
            nic.exchange(b"before")?;
            ns.sh(down)?;
            let lane = watch.wait_for("nic0/0", "interrupt").with_context(|| down.to_owned())?;
            ensure!(lane.reason() == "uplink_down", "{down}: {lane:?}");
            spends_nothing(&vnicd, &format!("after {down} ({name})"))?;
            // A guest that goes on sending is served, and its frames are dropped.
            let mut frame = nic.frame(b"in vain")?;
            // Of a protocol for experiments (IEEE 802): without carrier the host takes it all the same, and drops it.
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            for _ in 0..100 {
                nic.send_raw(&[0; 12], &frame, 1)?;
            }
            spends_nothing(&vnicd, &format!("after {down} and frames ({name})"))?;
            ns.sh(up)?;
            let lane = watch.wait_for("nic0/0", "polling").with_context(|| up.to_owned())?;
            ensure!(lane.reason() == "uplink_up", "{up}: {lane:?}");
            ns.sh("ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
            for n in 0..10u8 {
                nic.send(&[n; 60], 1)?;
                nic.exchange(&[n; 60])?;
            }
        }
    }
    Ok(())
}

/// Polling is periodic: the NIC is asked from time to time (row 21 of the map), without being kicked, and the worker sleeps
/// between.
#[test]
fn polling_at_intervals_costs_little() -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(2);
    let ns = NetNs::new()?;
    let options = ["--mode=polling", "--poll-interval-us=2000"];
    for (name, format) in FORMATS {
        for event_idx in [0, EVENT_IDX] {
            let vnicd = Vnicd::builder(&ns).uplink("loopback").args(options).control().start()?;
            let mut driver = Numbered::start(vnicd.socket(), VERSION_1 | format | event_idx, 1, 256)?;
            let pair = &mut driver.pairs[0];
            let mut watch = vnicd.watch()?;
            let going = Going::default();
            // With EVENT_IDX the place that a ring starts with is passed once.
            pair.exchange(1, 1, PATIENCE)?;
            for _ in 0..100 {
                let kicked = pair.offer()?.context("the ring is full")?;
                going.kicks.fetch_add(kicked.into(), std::sync::atomic::Ordering::Relaxed);
                eventually("the frame comes back", || Ok(pair.receive()? == 1))?;
            }
            let kicks = going.kicks.into_inner();
            ensure!(kicks == 0, "{name}: asked for {kicks} kicks for 100 frames");

            let (start, cpu, before) = (Instant::now(), vnicd.usage()?.cpu, watch.lane("nic0/0")?);
            thread::sleep(Duration::from_secs(1));
            let after = watch.lane("nic0/0")?;
            let (took, cpu) = (start.elapsed(), vnicd.usage()?.cpu - cpu);
            let rounds = after.count("rounds") - before.count("rounds");
            let most = (took.as_micros() / INTERVAL.as_micros()) as u64;
            ensure!(after.mode() == "polling" && after.switches() == 0, "{after:?}");
            ensure!((10..=most + 2).contains(&rounds), "{name}: {rounds} rounds in {took:?}, every {INTERVAL:?}");
            ensure!(cpu < took / 4, "{name}: {cpu:?} of CPU time in {took:?}");
        }
    }
    Ok(())
}

/// SET_VRING_KICK, and its bit for "invalid file descriptor".
fn start_without_kick_fd(client: &mut Client, index: usize) -> Result<()> {
    const SET_VRING_KICK: u32 = 12;
    const NOFD: u64 = 1 << 8;
    const VERSION_NEED_REPLY: u32 = 1 | 1 << 3;
    client.send(SET_VRING_KICK, VERSION_NEED_REPLY, &(index as u64 | NOFD).to_le_bytes(), &[])?;
    let reply = client.reply()?.context("the connection was closed")?;
    ensure!(reply.value() == Some(0), "{reply:?}");
    Ok(())
}

/// A ring that has no kick fd is asked from time to time, whatever mode is set (row 21 of the map).
#[test]
fn rings_without_kick_fd_are_served_in_every_mode() -> Result<()> {
    let ns = NetNs::new()?;
    let modes: [(&[&str], &str); 4] = [
        (&["--mode=auto"], "no_kick_fd"),
        (&["--mode=interrupt"], "no_kick_fd"),
        (&["--mode=polling"], "initial"),
        (&["--mode=auto", "--poll-interval-us=5000"], "no_kick_fd"),
    ];
    for (options, reason) in modes {
        let vnicd = Vnicd::builder(&ns).uplink("loopback").args(options).control().start()?;
        let mut watch = vnicd.watch()?;
        for (name, format) in FORMATS {
            // One of the rings, or both.
            for without in [&[0][..], &[1], &[0, 1]] {
                let mut client = Client::start(vnicd.socket(), VERSION_1 | format)?;
                let rings = [client.queue(0, 256)?, client.queue(1, 256)?];
                for ring in &rings {
                    client.describe_queue(ring)?;
                    if without.contains(&ring.index) {
                        start_without_kick_fd(&mut client, ring.index)?;
                    } else {
                        client.front.set_vring_kick(ring.index, &ring.kick)?;
                    }
                    client.front.set_vring_enable(ring.index, true)?;
                }
                let [rx, tx] = rings;
                let mut pair = NumberedPair::with_queues(&mut client, rx, tx, 128)?;
                is_served(&mut pair, &mut watch, reason)
                    .with_context(|| format!("{options:?}, {name}, {without:?}"))?;
                if !options.contains(&"--mode=polling") {
                    let spent = vnicd.spends_in(Duration::from_millis(500))?;
                    ensure!(spent.cpu < Duration::from_millis(150), "{options:?}, {name}, {without:?}: {spent:?}");
                }
            }
        }
    }
    Ok(())
}

fn is_served(pair: &mut NumberedPair, watch: &mut Watch, reason: &str) -> Result<()> {
    let has_reason = |lane: &guest_tests::Lane| lane.mode() == "polling" && lane.reason() == reason;
    watch.wait_until("nic0/0", &format!("polling, {reason}"), has_reason)?;
    pair.exchange(50, 1, PATIENCE)?;
    pair.exchange(1000, 100, PATIENCE)
}
