//! A run: one connection, a driver and a thread for each queue pair, and what device and drivers used meanwhile.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::set_current_timer_slack;

use super::config::{DriverConfig, Way};
use super::driver::Driver;
use super::outcome::{Found, Outcome};
use super::peer::Peer;
use super::schedule::Rate;
use super::session::{QueuePair, Session, SessionConfig};
use crate::machine;
use crate::stats::Summary;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The connection.
    pub session: SessionConfig,
    /// What all drivers do together: each has its part of the rate.
    pub driver: DriverConfig,
    /// CPUs to pin the drivers to, in turn; none: wherever the kernel likes.
    pub cpus: Vec<usize>,
}

/// Runs it.
///
/// # Errors
/// When the device cannot be reached, breaks the rules, or dies.
pub fn run(config: &RunConfig) -> Result<Outcome> {
    let mut session = Session::start(&config.session)?;
    let pairs = std::mem::take(&mut session.pairs);
    let each = DriverConfig { rate: share(config.driver.rate, pairs.len()), ..config.driver };
    let barrier = Barrier::new(pairs.len() + 1);
    let device = || Peer::of(session.peer());
    let (before, found, after) = thread::scope(|scope| {
        let drive = |(index, pair): (usize, QueuePair)| {
            let (barrier, cpu) = (&barrier, config.cpus.get(index % config.cpus.len().max(1)).copied());
            scope.spawn(move || {
                let driver = prepare(pair, each, index, cpu);
                barrier.wait();
                barrier.wait();
                driver?.run()
            })
        };
        let threads: Vec<_> = pairs.into_iter().enumerate().map(drive).collect();
        // All are warm now and wait.
        barrier.wait();
        let before = device();
        barrier.wait();
        let found: Result<Vec<Found>> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a driver's thread panicked"))?)
            .collect();
        (before, found, device())
    });
    let (before, after) = (before?, after.context("the device ended during the run")?);
    let mut all = Found::default();
    for found in found? {
        all.counts += found.counts;
        all.cpu += found.cpu;
        all.lateness.add(found.lateness);
        all.taken.add(found.taken);
        all.returned.add(found.returned);
        all.slice_p99s.extend(found.slice_p99s);
    }
    Ok(outcome(config, all, before, after))
}

fn share(rate: Rate, drivers: usize) -> Rate {
    match rate {
        Rate::Pps(pps) => Rate::Pps(pps / drivers as f64),
        Rate::Max => Rate::Max,
    }
}

fn prepare(pair: QueuePair, config: DriverConfig, index: usize, cpu: Option<usize>) -> Result<Driver> {
    if let Some(cpu) = cpu {
        machine::pin(None, cpu)?;
    }
    // Sleeps end when a packet is due, not when it suits the kernel.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let mut driver = Driver::new(pair, config, index)?;
    driver.warm_up()?;
    Ok(driver)
}

fn outcome(config: &RunConfig, found: Found, before: Peer, after: Peer) -> Outcome {
    let RunConfig { session, driver, .. } = config;
    let seconds = driver.duration.as_secs_f64();
    let counts = found.counts;
    let (done, bytes) = match driver.way {
        Way::Tx => (counts.taken, counts.taken_bytes),
        Way::Rx | Way::Both => (counts.received, counts.received_bytes),
    };
    let DriverConfig { mode, way, size, rate, pattern, .. } = driver;
    let flags =
        [(!session.event_idx, ", flags"), (session.indirect, ", indirect"), (session.huge_pages, ", huge pages")];
    let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let title = format!(
        "{mode:?} {way:?}: {rate} packets/s {pattern}, {size} bytes, {} x {}{flags}, {seconds} s",
        session.queues, session.queue_size
    );
    Outcome {
        title,
        seconds,
        counts,
        pps: done as f64 / seconds,
        mbits: bytes as f64 * 8.0 / seconds / 1e6,
        lost: counts.sent.saturating_sub(done),
        slice_p99_us: Summary::of(&found.slice_p99s).map(|p99s| p99s.median),
        lateness: found.lateness.latency(),
        taken: found.taken.latency(),
        returned: found.returned.latency(),
        driver_cpu_s: found.cpu.as_secs_f64(),
        device_cpu_s: after.cpu.saturating_sub(before.cpu).as_secs_f64(),
        device_switches: after.switches.saturating_sub(before.switches),
        device_seconds: (after.at - before.at).as_secs_f64(),
    }
}
