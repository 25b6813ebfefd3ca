//! What is measured.

use super::SECOND;
use crate::mode::{Reason, Switch};

/// Latencies are kept to this many leading bits, besides the first.
const FINE: u32 = 7;

/// What came of a run, since the last [`super::Sim::forget`].
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) elapsed: u64,
    pub(super) cpu: u64,
    pub(super) delivered: [u64; 2],
    pub(super) kicks: u64,
    pub(super) sleeps: u64,
    pub(super) switches: Vec<Switch>,
    /// How many frames had which latency.
    latencies: Vec<u64>,
    /// The longest time from a frame's arrival to the round that takes it, for frames that came when the worker slept
    /// and when it did not; those that had to wait for others in their ring are left out.
    pub(super) seen_late: [u64; 2],
    /// The longest time over empty rounds in a row.
    pub(super) longest_spin: u64,
    /// Empty rounds in polling mode, some in a row as one: when they ended, and how long they took.
    pub(super) empty_rounds: Vec<(u64, u64)>,
}

impl Outcome {
    pub(super) fn add_latency(&mut self, ns: u64) {
        let exponent = (ns | 1 << FINE).ilog2() - FINE;
        let slot = ((exponent as usize) << FINE) + (ns >> exponent) as usize;
        self.latencies.resize(self.latencies.len().max(slot + 1), 0);
        self.latencies[slot] += 1;
    }

    /// The latency that 99 % of the frames do not exceed, to 1 %.
    pub(super) fn p99(&self) -> u64 {
        let total: u64 = self.latencies.iter().sum();
        let mut left = total - total / 100;
        for (slot, count) in self.latencies.iter().enumerate() {
            if left <= *count {
                let exponent = (slot >> FINE).saturating_sub(1);
                return ((slot - (exponent << FINE)) as u64) << exponent;
            }
            left -= count;
        }
        0
    }

    /// Share of the time that the worker used its CPU.
    pub(super) fn cpu_share(&self) -> f64 {
        self.cpu as f64 / self.elapsed as f64
    }

    /// Most switches within a second.
    pub(super) fn switches_a_second(&self) -> usize {
        let at: Vec<u64> = self.switches.iter().map(|s| s.at.as_nanos()).collect();
        let within = |n: usize| at[n..].iter().take_while(|t| **t < at[n] + SECOND).count();
        (0..at.len()).map(within).max().unwrap_or(0)
    }

    /// The largest share of any time of this length that empty rounds took.
    pub(super) fn burnt(&self, window: u64) -> f64 {
        let (mut from, mut sum, mut most) = (0, 0, 0);
        for (end, ns) in &self.empty_rounds {
            sum += ns;
            while self.empty_rounds[from].0 + window <= *end {
                sum -= self.empty_rounds[from].1;
                from += 1;
            }
            most = most.max(sum);
        }
        most as f64 / window as f64
    }

    pub(super) fn count(&self, reason: Reason) -> usize {
        self.switches.iter().filter(|s| s.reason == reason).count()
    }
}
