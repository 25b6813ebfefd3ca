//! Many devices in one daemon, each with a driver that sends whenever its ring has room: how much they move together, how
//! evenly, and what memory they take.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest_tests::usage::Usage;
use guest_tests::{Configured, NetNs};

use crate::loadgen::frame::{Frames, NET_HEADER};
use crate::loadgen::session::Queue;
use crate::loadgen::{Session, SessionConfig};
use crate::machine;

/// Bytes of a frame. Its type is none that the host knows: the TAP's other side drops it.
const FRAME: usize = 60;
/// The CPU of the driver, and that of the workers.
const DRIVER: usize = 0;
const WORKERS: usize = 1;
/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// What a run found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Packets a second that the daemon took from all drivers together.
    pub pps: f64,
    /// What the device that moved least moved, as a share of what each would have moved had they shared evenly.
    pub least: f64,
    /// The same of the device that moved most.
    pub most: f64,
    /// Private memory of the daemon while all devices run, in bytes.
    pub memory: u64,
}

/// Has so many devices send for a time, each with a TAP of its own that nobody listens at. Their workers are on one CPU:
/// one thread for all (`threads` is `per-cpu`), or one each (`per-pair`).
///
/// # Errors
/// When the daemon does not start, breaks a rule or ends.
pub fn run(ns: &NetNs, devices: usize, threads: &str, time: Duration) -> Result<Found> {
    let mut file = String::new();
    for n in 0..devices {
        write!(
            file,
            "[[device]]\nname = 'd{n}'\nsocket-path = 'DIR/d{n}'\nuplink = 'tap=t{n}'\nqueue-pairs = 1\n\
             threads = '{threads}'\ncpus = '{WORKERS}'\n"
        )?;
    }
    let last = format!("d{}", devices - 1);
    let daemon = Configured::start(ns, &file, &[&last])?;
    let mut drivers = (0..devices).map(|n| {
        let session = Session::start(&SessionConfig::new(daemon.path(&format!("d{n}"))));
        Driver::new(session.with_context(|| format!("device d{n}"))?)
    });
    let mut drivers = drivers.by_ref().collect::<Result<Vec<_>>>()?;
    machine::pin(None, DRIVER)?;
    send(&mut drivers, WARM_UP)?;
    drivers.iter_mut().for_each(|driver| driver.taken = 0);
    let spent = send(&mut drivers, time)?.as_secs_f64();
    let memory = Usage::of(daemon.process().pid())?.rss_private_bytes;
    let taken = || drivers.iter().map(|driver| driver.taken as f64);
    let even = taken().sum::<f64>() / devices as f64;
    let (least, most) = taken().fold((f64::MAX, 0f64), |(least, most), taken| (least.min(taken), most.max(taken)));
    Ok(Found { pps: taken().sum::<f64>() / spent, least: least / even, most: most / even, memory })
}

/// Has all send in turn until the time is over; says how long it was.
fn send(drivers: &mut [Driver], time: Duration) -> Result<Duration> {
    let start = Instant::now();
    while start.elapsed() < time {
        drivers.iter_mut().try_for_each(Driver::refill)?;
    }
    Ok(start.elapsed())
}

/// A driver that sends the same frames again and again.
struct Driver {
    session: Session,
    /// Frames that came back from the daemon.
    taken: u64,
}

impl Driver {
    fn new(session: Session) -> Result<Self> {
        let mut driver = Self { session, taken: 0 };
        let ring = &mut driver.tx()?.ring;
        ring.suppress_calls();
        let frames = Frames::default();
        for slot in 0..ring.config().size {
            frames.lay_out(ring.buffers(), ring.at(slot), slot, FRAME);
        }
        Ok(driver)
    }

    fn tx(&mut self) -> Result<&mut Queue> {
        self.session.pairs.first_mut().map(|pair| &mut pair.tx).context("a session without a pair")
    }

    /// Takes back what was sent and sends as much again.
    fn refill(&mut self) -> Result<()> {
        let queue = self.tx()?;
        let ring = &mut queue.ring;
        let taken = u64::from(ring.look()?);
        while ring.take()?.is_some() {}
        while ring.room() > 0 {
            ring.offer((NET_HEADER + FRAME) as u32);
        }
        if ring.publish() == Some(true) {
            queue.kick()?;
        }
        self.taken += taken;
        Ok(())
    }
}
