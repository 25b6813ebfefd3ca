//! A device beside another one that is as busy, and whose driver kicks without end or does not.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use guest_tests::{Configured, NetNs};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::loadgen::{Driver, DriverConfig, Mode, QueuePair, Rate, Session, SessionConfig, Size, Way};
use crate::machine;

/// Entries of a ring, bytes of a frame.
const RING: u16 = 1024;
const FRAME: usize = 60;
/// The CPU of the drivers, and that of the workers.
const DRIVERS: usize = 0;
const WORKERS: usize = 1;
/// So much earlier does the neighbour begin, and so much later does it end.
const MARGIN: Duration = Duration::from_millis(100);
/// Writes between two looks at whether to stop.
const BATCH: u32 = 64;

/// What a thread beside the neighbour's driver writes to, as fast as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicks {
    /// The kick fd of the neighbour's transmit ring.
    Flood,
    /// An eventfd of its own: as much work for the machine, and no kick.
    Honest,
}

/// What a run found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Packets a second that the daemon took from the driver that is measured.
    pub pps: f64,
    /// The same of its neighbour.
    pub neighbour_pps: f64,
    /// Writes a second of the thread beside.
    pub writes_per_s: f64,
}

/// A daemon with two devices.
#[derive(Debug)]
pub struct Neighbours(Configured);

impl Neighbours {
    /// Starts it with so many threads for both (`per-cpu`: one; `per-pair`: one each), all on one CPU, which sleep whenever
    /// they find nothing. Each device has a TAP of its own that nobody listens at, or drops what it reads.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(ns: &NetNs, threads: &str, with_taps: bool) -> Result<Self> {
        let names = ["measured", "neighbour"];
        let device = |name: &str| {
            let uplink = if with_taps { format!("tap={}-{threads}", &name[..4]) } else { "discard".into() };
            format!(
                "[[device]]\nname = {name:?}\nsocket-path = \"DIR/{name}\"\nuplink = {uplink:?}\nqueue-pairs = 1\n\
                 mode = \"interrupt\"\nthreads = {threads:?}\ncpus = \"{WORKERS}\"\n"
            )
        };
        let daemon = Configured::start(ns, &names.map(device).concat(), &names)?;
        if with_taps {
            for name in names {
                ns.sh(&format!("ip link set {}-{threads} up", &name[..4]))?;
            }
        }
        Ok(Self(daemon))
    }

    /// Has both drivers send as fast as they can for a time.
    ///
    /// # Errors
    /// When the daemon breaks a rule or ends.
    pub fn run(&self, time: Duration, kicks: Kicks) -> Result<Found> {
        let (mut measured, mut neighbour) =
            (Session::start(&config(&self.0.path("measured")))?, Session::start(&config(&self.0.path("neighbour")))?);
        let take = |session: &mut Session| session.pairs.pop().context("a session without a pair");
        let (pair, neighbour_pair) = (take(&mut measured)?, take(&mut neighbour)?);
        let to = match kicks {
            Kicks::Flood => neighbour_pair.tx.kick_fd().try_clone()?,
            Kicks::Honest => EventFd::new(EFD_NONBLOCK)?,
        };
        let (stop, ready) = (AtomicBool::new(false), Barrier::new(2));
        let around = time + 2 * MARGIN;
        thread::scope(|scope| {
            let beside = scope.spawn(|| {
                machine::pin(None, DRIVERS)?;
                let mut writes = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    // One that nobody reads is full after some centuries.
                    (0..BATCH).try_for_each(|_| to.write(1))?;
                    writes += u64::from(BATCH);
                }
                anyhow::Ok(writes)
            });
            let ready = &ready;
            let drive = |pair, time, after| {
                scope.spawn(move || {
                    let driver = prepared(pair, time);
                    ready.wait();
                    thread::sleep(after);
                    anyhow::Ok(driver?.run()?.counts.taken)
                })
            };
            let (neighbour, one) = (drive(neighbour_pair, around, Duration::ZERO), drive(pair, time, MARGIN));
            let panicked = |_| anyhow!("a thread panicked");
            let (taken, by_neighbour) = (one.join().map_err(panicked), neighbour.join().map_err(panicked));
            stop.store(true, Ordering::Relaxed);
            let writes = beside.join().map_err(panicked)??;
            Ok(Found {
                pps: taken?? as f64 / time.as_secs_f64(),
                neighbour_pps: by_neighbour?? as f64 / around.as_secs_f64(),
                writes_per_s: writes as f64 / around.as_secs_f64(),
            })
        })
    }
}

fn config(socket: &Path) -> SessionConfig {
    SessionConfig { queue_size: RING, ..SessionConfig::new(socket) }
}

fn prepared(pair: QueuePair, duration: Duration) -> Result<Driver> {
    machine::pin(None, DRIVERS)?;
    let (mode, way, size, rate) = (Mode::Napi, Way::Tx, Size::Fixed(FRAME), Rate::Max);
    let mut driver = Driver::new(pair, DriverConfig { mode, way, size, rate, duration, ..DriverConfig::default() }, 0)?;
    driver.warm_up()?;
    Ok(driver)
}
