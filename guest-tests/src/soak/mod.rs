//! Everything at once, for as long as one likes: guests and virtio-user clients with traffic that is checked to its last
//! byte, while daemons are killed, guests migrate, front ends come back, and memory, queues and modes change.
//!
//! | front end | its device | what is checked |
//! |--|--|--|
//! | guest `one`: QEMU, packed rings, 2 pairs | a TAP on the bridge | TCP, UDP and ping with the host and with the other guest |
//! | guest `two`: QEMU, split rings, 4 pairs | a TAP on the bridge | the same |
//! | two scripted virtio-user clients, all ring formats in turn | `loopback` | every frame comes back as it was sent, in order |
//! | DPDK's testpmd, virtio-user, which swaps addresses | a TAP of its own | datagrams come back to the host's socket |
//!
//! There are two daemons. `a` is killed and ended all the time; `b` lives as long as the run, and must not grow. Guests
//! move between them, as long as they have no plugged memory where QEMU cannot take that along. One thing happens after the other, drawn from a seed, and after each all traffic must move again;
//! modes change beside that. The first fault ends the run.

mod client;
mod daemon;
mod echo;
mod end;
mod event;
mod finish;
mod growth;
mod line;
mod modes;
mod report;
mod rig;
mod vm;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use event::{Event, Kind};
pub use report::Report;
use rig::Rig;

/// How long all traffic may take to move again after an event.
const PATIENCE: Duration = Duration::from_secs(180);

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long. Each kind of event happens once, however short it is.
    pub time: Duration,
    /// What the events are drawn from.
    pub seed: u64,
    /// How often to tell of the progress.
    pub progress: Duration,
}

/// Runs. A fault is in the report; an error is one of the harness's own, before anything moved.
///
/// # Errors
/// When guests and daemons cannot be started.
pub fn run(options: &Options) -> Result<Report> {
    let begun = Instant::now();
    let mut report = Report::new(options.seed);
    let mut rig = Rig::start(options, &mut report).context("the soak cannot begin")?;
    let (start, mut told) = (Instant::now(), Instant::now());
    println!("soak: seed {}, all traffic moves after {:.1?}", options.seed, begun.elapsed());
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut due = event::each_once(&mut random);
    let done = loop {
        let Some(kind) = due.pop().or_else(|| (start.elapsed() < options.time).then(|| event::any(&mut random))) else {
            break Ok(());
        };
        std::thread::sleep(Duration::from_millis(random.u64(100..1500)));
        let event = rig.draw(kind, start.elapsed() > options.time / 2, &mut random);
        report.begins(start.elapsed(), &event);
        if let Err(error) = rig.perform(event, &mut random, &mut report).and_then(|()| rig.settle(&mut report)) {
            break Err(error.context(format!("after \"{event}\"")));
        }
        if told.elapsed() >= options.progress {
            told = Instant::now();
            println!("soak: {}", report.progress(start.elapsed(), &rig.moved()));
        }
    };
    report.lasted = start.elapsed();
    if let Err(error) = done {
        report.fault(format!("{error:#}\n{}", rig.describe()));
    }
    rig.finish(&mut report);
    Ok(report)
}
