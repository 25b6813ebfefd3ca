//! What happened between two looks at the daemon.

use std::time::Instant;

use serde::Deserialize;

use vnicd::control::{ModeStatus, PairStatus, Status};

/// The daemon at a moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) status: Status,
}

impl Snapshot {
    pub(super) fn take(status: impl Fn() -> Result<Status, String>) -> Result<Self, String> {
        let status = status()?;
        Ok(Self { at: Instant::now(), status })
    }

    fn lane(&self, id: &str) -> Option<&PairStatus> {
        self.status.devices.iter().flat_map(|device| &device.pairs).find(|lane| lane.id == id)
    }
}

/// What happened on a lane, each second unless something else is said. What is not known is no number.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) rx_packets: f64,
    pub(super) rx_bits: f64,
    pub(super) tx_packets: f64,
    pub(super) tx_bits: f64,
    pub(super) kicks: f64,
    pub(super) kicks_suppressed: f64,
    pub(super) calls: f64,
    pub(super) calls_suppressed: f64,
    pub(super) drops: f64,
    bursts: f64,
    service_ns: Vec<f64>,
    /// Shares of the time.
    pub(super) waiting: f64,
    pub(super) draining: f64,
    pub(super) polling: f64,
}

/// Those of a lane's counters that are looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    kicks: u64,
    kicks_suppressed: u64,
    calls: u64,
    calls_suppressed: u64,
    rx_dropped_offload: u64,
    rx_dropped_too_large: u64,
    tx_dropped_header: u64,
    tx_dropped_mac: u64,
    tx_dropped_ip: u64,
    tx_dropped_vlan: u64,
    tx_dropped_down: u64,
    tx_dropped_refused: u64,
    tx_dropped_disabled: u64,
    burst_packets: Vec<u64>,
    service_ns: Vec<u64>,
}

impl Counts {
    fn of(lane: &PairStatus) -> Self {
        Self::deserialize(&lane.counters).unwrap_or_default()
    }

    fn drops(&self) -> u64 {
        [
            self.rx_dropped_offload,
            self.rx_dropped_too_large,
            self.tx_dropped_header,
            self.tx_dropped_mac,
            self.tx_dropped_ip,
            self.tx_dropped_vlan,
            self.tx_dropped_down,
            self.tx_dropped_refused,
            self.tx_dropped_disabled,
        ]
        .iter()
        .sum()
    }
}

/// Lanes with what happened on each.
pub(super) fn lanes<'a>(before: Option<&Snapshot>, now: &'a Snapshot) -> Vec<(&'a PairStatus, Rates)> {
    // Another process counts from nothing.
    let before = before.filter(|before| before.status.pid == now.status.pid);
    let seconds = before.map_or(f64::NAN, |before| now.at.duration_since(before.at).as_secs_f64());
    let lanes = now.status.devices.iter().flat_map(|device| &device.pairs);
    lanes.map(|lane| (lane, Rates::between(before.and_then(|before| before.lane(&lane.id)), lane, seconds))).collect()
}

impl Rates {
    /// A lane that was not there before began at nothing.
    fn between(before: Option<&PairStatus>, now: &PairStatus, seconds: f64) -> Self {
        let (old, new) = (before.map(Counts::of).unwrap_or_default(), Counts::of(now));
        let rate = |count: fn(&Counts) -> u64| count(&new).saturating_sub(count(&old)) as f64 / seconds;
        let old_at = |counts: &[u64], n: usize| counts.get(n).copied().unwrap_or(0);
        let spent = |time: fn(&ModeStatus) -> f64| (time(&now.mode) - before.map_or(0.0, |b| time(&b.mode))).max(0.0);
        let [waiting, draining, polling] = [spent(|m| m.waiting_s), spent(|m| m.draining_s), spent(|m| m.polling_s)];
        // The daemon's own clock says how long it was: shares add up to one.
        let known = if seconds.is_nan() { f64::NAN } else { waiting + draining + polling };
        Self {
            rx_packets: rate(|c| c.rx_packets),
            rx_bits: rate(|c| c.rx_bytes) * 8.0,
            tx_packets: rate(|c| c.tx_packets),
            tx_bits: rate(|c| c.tx_bytes) * 8.0,
            kicks: rate(|c| c.kicks),
            kicks_suppressed: rate(|c| c.kicks_suppressed),
            calls: rate(|c| c.calls),
            calls_suppressed: rate(|c| c.calls_suppressed),
            drops: rate(Counts::drops),
            bursts: rate(|c| c.burst_packets.iter().sum()),
            service_ns: (0..new.service_ns.len())
                .map(|n| old_at(&new.service_ns, n).saturating_sub(old_at(&old.service_ns, n)) as f64 / seconds)
                .collect(),
            waiting: waiting / known,
            draining: draining / known,
            polling: polling / known,
        }
    }

    /// Of all lanes together; of shares the mean.
    pub(super) fn total<'a>(lanes: impl ExactSizeIterator<Item = &'a Self>) -> Self {
        let count = lanes.len() as f64;
        let mut total = Self::default();
        for lane in lanes {
            total.rx_packets += lane.rx_packets;
            total.rx_bits += lane.rx_bits;
            total.tx_packets += lane.tx_packets;
            total.tx_bits += lane.tx_bits;
            total.kicks += lane.kicks;
            total.kicks_suppressed += lane.kicks_suppressed;
            total.calls += lane.calls;
            total.calls_suppressed += lane.calls_suppressed;
            total.drops += lane.drops;
            total.bursts += lane.bursts;
            total.service_ns.resize(total.service_ns.len().max(lane.service_ns.len()), 0.0);
            for (total, lane) in total.service_ns.iter_mut().zip(&lane.service_ns) {
                *total += lane;
            }
            total.waiting += lane.waiting / count;
            total.draining += lane.draining / count;
            total.polling += lane.polling / count;
        }
        total
    }

    /// Packets a second, both ways.
    pub(super) fn packets(&self) -> f64 {
        self.rx_packets + self.tx_packets
    }

    /// Bits a second, both ways.
    pub(super) fn bits(&self) -> f64 {
        self.rx_bits + self.tx_bits
    }

    /// Packets in a burst, in the mean.
    pub(super) fn mean_burst(&self) -> f64 {
        self.packets() / self.bursts
    }

    /// The service time in seconds that a share of all do not exceed: between a bucket's bounds, by rule of three.
    pub(super) fn service_s(&self, share: f64) -> f64 {
        let rank = self.service_ns.iter().sum::<f64>() * share;
        let mut below = 0.0;
        for (n, count) in (0..).zip(&self.service_ns) {
            if *count > 0.0 && below + count >= rank {
                let (from, to) = if n == 0 { (0.0, 0.0) } else { (2f64.powi(n - 1), 2f64.powi(n)) };
                return (from + (to - from) * (rank - below) / count) / 1e9;
            }
            below += count;
        }
        f64::NAN
    }
}
