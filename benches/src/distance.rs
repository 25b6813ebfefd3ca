//! How far two CPUs are from each other: the time a cache line takes to the other and back.
//!
//! A virtual machine's CPUs are moved about by its host, now to neighbours that share a cache, now apart. Rings cost three
//! times as much then, whoever serves them, so figures are worth comparing only at the same distance.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::machine;

/// Round trips of one measurement, and measurements of which the shortest counts.
const ROUND_TRIPS: u32 = 20_000;
const MEASUREMENTS: usize = 3;
/// So many times the shortest way is far: more than from a thread of the same core to a neighbour that shares a cache, less
/// than to one that does not.
const FAR: f64 = 3.0;
/// How long the CPUs may take to come near, and how often what was measured is thrown away.
const PATIENCE: Duration = Duration::from_secs(10);
const TRIES: u32 = 4;

/// Two CPUs.
#[derive(Debug)]
pub struct Distance {
    cpus: [usize; 2],
    /// The shortest way that was seen, in nanoseconds there and back.
    nearest: f64,
    /// The longest.
    farthest: f64,
    /// What was measured while the CPUs were moved apart and measured again.
    thrown_away: u32,
    /// What counted though they were.
    kept: u32,
}

impl Distance {
    /// Looks at two CPUs, which nobody may use meanwhile.
    pub fn between(cpus: [usize; 2]) -> Result<Self> {
        let mut this = Self { cpus, nearest: f64::INFINITY, farthest: 0.0, thrown_away: 0, kept: 0 };
        for _ in 0..MEASUREMENTS {
            this.is_far()?;
        }
        Ok(this)
    }

    /// Measures while the CPUs are near each other, before and after: again if they were not, and some time after all as
    /// they are.
    pub fn near<T>(&mut self, mut measure: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..TRIES {
            let start = Instant::now();
            while self.is_far()? && start.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(200));
            }
            let measured = measure()?;
            if !self.is_far()? {
                return Ok(measured);
            }
            self.thrown_away += 1;
        }
        self.kept += 1;
        measure()
    }

    /// What was seen, for a report.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { nearest, farthest, thrown_away, kept, .. } = self;
        format!(
            "{nearest:.0} to {farthest:.0} ns there and back; {thrown_away} measurements made again because the CPUs \
             moved apart, {kept} kept in spite of that"
        )
    }

    fn is_far(&mut self) -> Result<bool> {
        let mut shortest = f64::INFINITY;
        for _ in 0..MEASUREMENTS {
            shortest = shortest.min(round_trip_ns(self.cpus)?);
        }
        self.nearest = self.nearest.min(shortest);
        self.farthest = self.farthest.max(shortest);
        Ok(shortest > FAR * self.nearest)
    }
}

/// A line on its own.
#[repr(align(128))]
struct Line(AtomicU32);

/// Two threads add to a number in turn.
fn round_trip_ns(cpus: [usize; 2]) -> Result<f64> {
    let line = Line(AtomicU32::new(0));
    let play = |cpu: usize, turn: u32| -> Result<Duration> {
        machine::pin(None, cpu)?;
        let start = Instant::now();
        for round in 0..ROUND_TRIPS {
            let mine = 2 * round + turn;
            while line.0.load(Ordering::Acquire) != mine {
                std::hint::spin_loop();
            }
            line.0.store(mine + 1, Ordering::Release);
        }
        Ok(start.elapsed())
    };
    let times = thread::scope(|scope| {
        let players = [(cpus[0], 0), (cpus[1], 1)].map(|(cpu, turn)| scope.spawn(move || play(cpu, turn)));
        players.map(|player| player.join().ok().context("a thread panicked")?)
    });
    let [first, second] = times;
    Ok(first?.min(second?).as_nanos() as f64 / f64::from(ROUND_TRIPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_travels_and_what_is_measured_comes_back() {
        let mut distance = Distance::between([0, 1]).unwrap();
        assert!(distance.nearest > 1.0 && distance.nearest <= distance.farthest, "{distance:?}");
        // However far they are: the longest way that was seen is allowed.
        distance.nearest = f64::MAX;
        distance.farthest = 0.0;
        assert_eq!(distance.near(|| Ok(7)).unwrap(), 7);
    }
}
