//! Modes that change all the time, by vnicctl.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use fastrand::Rng;

use super::daemon::Door;
use crate::process::Process;

/// How long vnicctl may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Queues of both daemons.
const TARGETS: [&str; 9] = ["all", "one", "one/0", "one/1", "two", "two/0", "two/3", "loop", "loop/0"];
/// What vnicctl says of a queue that has not been used since the daemon was started.
const NOT_USED: &str = "no worker";

/// A thread that gives orders.
#[derive(Debug)]
pub(super) struct Modes {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Modes {
    /// Begins.
    pub(super) fn start(doors: [Door; 2], seed: u64) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let told = stop.clone();
        Self { stop, thread: thread::spawn(move || give_orders(&doors, Rng::with_seed(seed), &told)) }
    }

    /// Whether it has failed.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it: how many orders were followed.
    pub(super) fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread that changes modes panicked"))?
    }
}

fn give_orders(doors: &[Door; 2], mut random: Rng, stop: &AtomicBool) -> Result<u64> {
    let mut followed = 0;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(random.u64(100..1500)));
        let (door, order) = (&doors[random.usize(0..2)], order(&mut random));
        let life = door.life();
        let mut command = Command::new(&door.vnicctl);
        command.arg("--control").arg(&door.control).arg("mode").args(&order);
        let output = Process::spawn(command)?.wait_output(PATIENCE)?;
        if output.status == 0 {
            followed += 1;
        } else if life.is_some() && door.life() == life && !output.stderr.contains(NOT_USED) {
            bail!("vnicctl mode {}: {output:?}", order.join(" "));
        }
    }
    Ok(followed)
}

/// An order. Polling for good ends soon: every other order gives the choice back, or takes it for a time.
fn order(random: &mut Rng) -> Vec<String> {
    let target = TARGETS[random.usize(0..TARGETS.len())];
    let time = format!("{}ms", random.u32(50..2000));
    let words: &[&str] = match random.u32(0..8) {
        0 => &["set", target, "interrupt"],
        1 => &["set", target, "polling"],
        2 => &["toggle", target],
        3 => &["set", target, "interrupt", "--for", &time],
        4 | 5 => &["set", target, "polling", "--for", &time],
        6 => &["auto", target],
        _ => &["auto", "all"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}
