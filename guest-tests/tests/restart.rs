//! Daemons that are killed, or end in order, and are started again under load: a scripted driver goes on with its rings,
//! and every frame is as it was sent.
//!
//! `RESTARTS` says how often in a row, `RECONNECTS` how often a front end comes back to a daemon that stays.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{FORMATS, PACKED};
use guest_tests::driver::rig::{FEATURES, Rig, Role};
use guest_tests::driver::{Going, NumberedPair, Posting, ScriptedNic};
use guest_tests::lab::{beside, eventually};
use vm_memory::{Bytes, GuestAddress};

const PATIENCE: Duration = Duration::from_secs(20);
/// Frames on their way at a time.
const AHEAD: u64 = 64;

fn times(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|times| times.parse().ok()).unwrap_or(otherwise)
}

/// Does `work` while frames go round on all pairs.
fn under_load(pairs: &mut [NumberedPair], work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (stop, going) = (AtomicBool::new(false), Going::default());
    let count = pairs.len() as u64;
    thread::scope(|scope| {
        let (stop, going) = (&stop, &going);
        let busy: Vec<_> = pairs.iter_mut().map(|pair| scope.spawn(|| pair.keep_going(AHEAD, going, stop))).collect();
        let done = eventually("frames that go round", || Ok(going.frames.load(Ordering::Relaxed) > 500 * count))
            .and_then(|()| work());
        stop.store(true, Ordering::Relaxed);
        let ends = busy.into_iter().map(|pair| pair.join().expect("a driver does not panic"));
        ends.collect::<Result<Vec<_>>>()?;
        done
    })
}

/// Kills and starts daemons under load; prints how long it took until all pairs carried traffic.
fn killed_again_and_again(role: Role, pairs: usize) -> Result<()> {
    for (name, format) in FORMATS {
        let rig = Rig::new(role, pairs, "loopback")?;
        let mut vnicd = rig.daemon(&[])?;
        let mut driver = rig.driver(format)?;
        let (mut back, mut missing) = (Vec::new(), 0);
        for round in 0..times("RESTARTS", 8) {
            under_load(&mut driver.pairs, || {
                // At another point of its work each time.
                thread::sleep(Duration::from_micros(37 * (round as u64 % 50)));
                vnicd.kill().map(drop)
            })?;
            let begun = Instant::now();
            vnicd = rig.daemon(&[])?;
            driver.reconnect(rig.connection()?)?;
            missing += driver.pairs.iter().map(NumberedPair::missing).sum::<u64>();
            for pair in &mut driver.pairs {
                let goes_on = pair.exchange(1, u64::MAX, PATIENCE);
                goes_on.with_context(|| format!("{name}, {pairs} pairs, {role:?}, round {round}"))?;
            }
            back.push(begun.elapsed());
            for pair in &mut driver.pairs {
                pair.exchange(500, AHEAD, PATIENCE).with_context(|| format!("{name}, round {round}, later"))?;
            }
        }
        back.sort();
        let sum = |count: fn(&NumberedPair) -> u64| driver.pairs.iter().map(count).sum::<u64>();
        let (lost, repeated) = (sum(|pair| pair.lost), sum(|pair| pair.repeated));
        println!(
            "{name}, {pairs} pairs, {role:?}: {} times back in traffic after {:?} (median), {:?} at most; of {missing} frames \
             under way {lost} were lost, and {repeated} came twice",
            back.len(),
            back[back.len() / 2],
            back[back.len() - 1],
        );
    }
    Ok(())
}

#[test]
fn a_server_is_killed_again_and_again() -> Result<()> {
    killed_again_and_again(Role::Server, 1)
}

#[test]
fn a_server_of_four_pairs_is_killed_again_and_again() -> Result<()> {
    killed_again_and_again(Role::Server, 4)
}

#[test]
fn a_client_is_killed_again_and_again() -> Result<()> {
    killed_again_and_again(Role::Client, 1)
}

#[test]
fn a_client_of_four_pairs_is_killed_again_and_again() -> Result<()> {
    killed_again_and_again(Role::Client, 4)
}

/// Datagrams that are sent while daemons end in order, and how many may be on their way to the host's socket.
const DATAGRAMS: u32 = 4000;
const BACKLOG: u32 = 64;

/// Hears numbered datagrams, each of which must be the next one; `heard` says how many.
fn hear(host: &UdpSocket, heard: &AtomicU32) -> Result<()> {
    host.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = [0; 4];
    for expected in 0..DATAGRAMS {
        host.recv(&mut bytes).with_context(|| format!("datagram {expected} does not come"))?;
        let number = u32::from_le_bytes(bytes);
        ensure!(number == expected, "datagram {number} came, {expected} was to come next");
        heard.store(expected + 1, Ordering::Relaxed);
    }
    Ok(())
}

/// A daemon that is told to end: what it took from a ring is sent, and is told to be. Each datagram comes to the host once.
fn ends_in_order(threads: &str) -> Result<()> {
    const ROUNDS: u32 = 4;
    const SLOTS: u64 = 32;
    let option = format!("--threads={threads}");
    for (name, format) in FORMATS {
        let rig = Rig::new(Role::Server, 1, "tap=tap0")?;
        rig.ns.add_tap("tap0", 1)?;
        rig.ns.sh("ip link set tap0 up")?;
        let mut vnicd = rig.daemon(&[&option])?;
        let mut nic = ScriptedNic::start(&rig.ns, &vnicd, FEATURES | format, 64, Posting { count: 0, len: 0 })?;
        let (host, heard) = (nic.host().try_clone()?, AtomicU32::new(0));
        let at = nic.client.memory.allocate(SLOTS * 256);
        let mut free: Vec<_> = (0..SLOTS).map(|slot| at + 256 * slot).collect();
        let mut sent = HashMap::new();
        let sends = |stop: &AtomicBool| {
            let (mut next, mut round) = (0, 1);
            while !stop.load(Ordering::Relaxed) {
                while let Some((id, _)) = nic.tx.take_used() {
                    free.push(sent.remove(&id).context("a chain came back that was not offered")?);
                }
                while next < DATAGRAMS.min(heard.load(Ordering::Relaxed) + BACKLOG)
                    && let Some(at) = free.pop()
                {
                    let bytes = [&[0; 12][..], &nic.frame(&next.to_le_bytes())?].concat();
                    nic.client.memory.map.write_slice(&bytes, GuestAddress(at))?;
                    let id = nic.tx.add(&[(at, bytes.len() as u32)], false).context("the ring is full")?;
                    sent.insert(id, at);
                    nic.tx.kick()?;
                    next += 1;
                }
                if round <= ROUNDS && next >= round * DATAGRAMS / (ROUNDS + 1) {
                    ensure!(vnicd.terminate()?.success());
                    vnicd = rig.daemon(&[&option])?;
                    nic.client.reconnect(rig.connection()?)?;
                    nic.client.resume_queue(&nic.tx)?;
                    round += 1;
                }
                thread::yield_now();
            }
            Ok(())
        };
        beside(sends, || hear(&host, &heard)).with_context(|| format!("{name}, {threads}"))?;
    }
    Ok(())
}

#[test]
fn an_orderly_end_loses_and_repeats_nothing() -> Result<()> {
    ends_in_order("per-pair")
}

#[test]
fn an_orderly_end_of_a_pipeline_loses_and_repeats_nothing() -> Result<()> {
    ends_in_order("pipeline")
}

/// The front end loses its connection under load and comes back, over and over: nothing grows.
fn comes_back(role: Role, format: u64, pairs: usize) -> Result<()> {
    /// Room for what the allocator keeps.
    const SLACK: u64 = 1 << 20;
    let rig = Rig::new(role, pairs, "loopback")?;
    let vnicd = rig.daemon(&[])?;
    let mut driver = rig.driver(format)?;
    let mut first = None;
    let reconnects = times("RECONNECTS", 100);
    for round in 0..reconnects {
        for pair in &mut driver.pairs {
            pair.exchange(100, AHEAD, PATIENCE)?;
            for _ in 0..AHEAD {
                pair.offer()?;
            }
        }
        driver.client.hang_up();
        driver.reconnect(rig.connection()?).with_context(|| format!("round {round}"))?;
        for pair in &mut driver.pairs {
            pair.exchange(1, u64::MAX, PATIENCE).with_context(|| format!("round {round}"))?;
        }
        if round == reconnects / 5 {
            vnicd.settled_fds()?;
            first = Some(vnicd.usage()?);
        }
    }
    let (first, last) = (first.context("no round")?, vnicd.usage()?);
    eventually("as many threads and file descriptors as before", || {
        let now = vnicd.usage()?;
        Ok(now.fds == first.fds && now.threads.len() == first.threads.len())
    })
    .with_context(|| format!("{first:?}, now {:?}", vnicd.usage()))?;
    let (before, after) = (first.rss_private_bytes, last.rss_private_bytes);
    println!(
        "{reconnects} reconnects, {pairs} pairs, {role:?}: {} fds, {} threads, {before} and {after} bytes of private memory",
        last.fds,
        last.threads.len()
    );
    ensure!(after <= before + SLACK, "private memory has grown from {before} to {after} bytes");
    ensure!(!vnicd.log().iter().any(|line| line.contains("ERROR")), "{}", vnicd.log().join("\n"));
    Ok(())
}

/// In each format with one pair, and with four in those formats that lie otherwise in memory.
fn comes_back_in_each_format(role: Role) -> Result<()> {
    let one = FORMATS.into_iter().map(|(name, format)| (name, format, 1));
    let four = [("split", 0, 4), ("packed", PACKED, 4)];
    one.chain(four).try_for_each(|(name, format, pairs)| {
        comes_back(role, format, pairs).with_context(|| format!("{name}, {pairs} pairs, {role:?}"))
    })
}

#[test]
fn a_front_end_that_comes_back_finds_its_rings_and_nothing_grows() -> Result<()> {
    comes_back_in_each_format(Role::Server)
}

#[test]
fn a_front_end_that_is_connected_to_again_finds_its_rings_and_nothing_grows() -> Result<()> {
    comes_back_in_each_format(Role::Client)
}

/// A file is for one daemon, and a directory for its user; each error says what to do.
#[test]
fn a_state_directory_is_checked() -> Result<()> {
    let rig = Rig::new(Role::Server, 1, "discard")?;
    let _vnicd = rig.daemon(&[])?;
    let start = |dir: &str| {
        let args = ["--socket-path", "other.sock", "--uplink", "discard", "--state-dir", dir];
        let mut command = rig.ns.command(guest_tests::vnicd::binary()?);
        command.current_dir(rig.dir.path()).args(args);
        guest_tests::Process::spawn(command)?.wait_output(PATIENCE)
    };
    for (dir, said) in [(".", "in use by another vnicd"), ("none", "does not exist: make it"), ("/tmp", "chmod go-w")] {
        let output = start(dir)?;
        ensure!(output.status == 2 && output.stderr.contains(said), "{dir}: {output:?}");
        ensure!(output.stderr.contains(&format!("'{dir}")), "{output:?}");
    }
    Ok(())
}

/// Seconds since midnight, UTC, that a log line begins with.
fn second_of_day(line: &str) -> Option<f64> {
    let (_, time) = line.split_once('T')?;
    let mut parts = time.split_once('Z')?.0.split(':').map(|part| part.parse::<f64>().ok());
    Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
}

/// QEMU works on a guest's rings itself as soon as it has lost their device: they are at rest by then.
#[test]
fn a_front_end_learns_of_an_orderly_end_when_its_rings_have_stopped() -> Result<()> {
    for role in [Role::Server, Role::Client] {
        let rig = Rig::new(role, 8, "loopback")?;
        let vnicd = rig.daemon(&[])?;
        let mut driver = rig.driver(0)?;
        for pair in &mut driver.pairs {
            pair.exchange(1, AHEAD, PATIENCE)?;
        }
        let pid = rustix::process::Pid::from_raw(vnicd.pid().cast_signed()).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        driver.client.wait_closed()?;
        let closed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() % 86_400.0;
        ensure!(vnicd.terminate()?.success());
        let log = vnicd.log();
        let stopped: Vec<_> = log.iter().filter(|line| line.contains("ring stopped")).collect();
        ensure!(stopped.len() == 16, "{role:?}: {}", log.join("\n"));
        // Midnight may come in between.
        let late =
            stopped.iter().filter_map(|line| second_of_day(line)).filter(|at| (0.0..80_000.0).contains(&(at - closed)));
        ensure!(late.clone().count() == 0, "{role:?}: {} rings were stopped when it had learnt", late.count());
    }
    Ok(())
}
