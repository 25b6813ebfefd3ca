//! What a run found: counts and latencies, as a table and as JSON.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::ops::AddAssign;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in nanoseconds; what takes longer counts as this.
const LONGEST: u64 = 60_000_000_000;
/// Of a latency, two digits are right (three for most).
const DIGITS: u8 = 3;

/// What a driver counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets given to the device.
    pub sent: u64,
    /// Packets that were due and found no room until the end.
    pub unsent: u64,
    /// Packets that the device took: their buffers came back.
    pub taken: u64,
    /// Packets that came back.
    pub received: u64,
    /// Frames that came back changed, or were not ours.
    pub corrupt: u64,
    /// Packets that came back after a later one, or twice.
    pub out_of_order: u64,
    /// Bytes of the frames that were taken.
    pub taken_bytes: u64,
    /// Bytes of the frames that came back.
    pub received_bytes: u64,
    /// Kicks, of the transmit and the receive queue.
    pub kicks: u64,
    /// Batches of which the device did not want to be told.
    pub kicks_suppressed: u64,
    /// Calls of both queues.
    pub calls: u64,
    /// Times the driver slept.
    pub sleeps: u64,
    /// Times the driver had no CPU for a while; what was due then is not clocked.
    pub stalls: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.taken += other.taken;
        self.received += other.received;
        self.corrupt += other.corrupt;
        self.out_of_order += other.out_of_order;
        self.taken_bytes += other.taken_bytes;
        self.received_bytes += other.received_bytes;
        self.kicks += other.kicks;
        self.kicks_suppressed += other.kicks_suppressed;
        self.calls += other.calls;
        self.sleeps += other.sleeps;
        self.stalls += other.stalls;
    }
}

/// A latency clock: times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Clock {
    histogram: Histogram<u64>,
    /// Packets of the same latency, not yet in the histogram: those of one batch.
    run: (u64, u64),
}

impl Default for Clock {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("constant bounds are good");
        Self { histogram, run: (0, 0) }
    }
}

impl Clock {
    /// Notes a packet.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        if ns != self.run.0 {
            self.flush();
            self.run.0 = ns;
        }
        self.run.1 += 1;
    }

    fn flush(&mut self) {
        let (ns, count) = std::mem::take(&mut self.run);
        if count > 0 {
            // It fails for values out of bounds only.
            let _ = self.histogram.record_n(ns.clamp(1, LONGEST), count);
        }
    }

    /// Adds what another clock noted.
    pub fn add(&mut self, mut other: Self) {
        self.flush();
        other.flush();
        // It fails for histograms of other bounds only.
        let _ = self.histogram.add(&other.histogram);
    }

    /// The figures; none if no packet was noted.
    #[must_use]
    pub fn latency(mut self) -> Option<Latency> {
        self.flush();
        let us = |ns: u64| ns as f64 / 1000.0;
        let quantile = |q: f64| us(self.histogram.value_at_quantile(q));
        (!self.histogram.is_empty()).then(|| Latency {
            packets: self.histogram.len(),
            mean_us: self.histogram.mean() / 1000.0,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p99_9_us: quantile(0.999),
            max_us: us(self.histogram.max()),
        })
    }
}

/// Least packets in a slice of which the 99th percentile says something.
const SLICE_PACKETS: u64 = 1000;

/// What a driver found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What it counted.
    pub counts: Counts,
    /// From due to given to the device.
    pub lateness: Clock,
    /// From due until the device took the packet.
    pub taken: Clock,
    /// From due until it came back.
    pub returned: Clock,
    /// The same since the last slice was closed.
    pub slice: Clock,
    /// The 99th percentile of each slice that was closed, in microseconds.
    pub slice_p99s: Vec<f64>,
    /// The thread's time on a CPU.
    pub cpu: Duration,
}

impl Found {
    /// Forgets what the clocks showed, not what was counted.
    pub fn forget_clocks(&mut self) {
        (self.lateness, self.taken, self.returned, self.slice, self.slice_p99s) = <_>::default();
    }

    /// Ends a slice of the run.
    pub fn close_slice(&mut self) {
        let slice = std::mem::take(&mut self.slice);
        if let Some(latency) = slice.clone().latency().filter(|latency| latency.packets >= SLICE_PACKETS) {
            self.slice_p99s.push(latency.p99_us);
        }
        self.returned.add(slice);
    }
}

/// A distribution of latencies, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Packets noted.
    pub packets: u64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p99_9_us: f64,
    /// Longest.
    pub max_us: f64,
}

/// What one run found.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was run: the driver's options.
    pub title: String,
    /// Time in which packets were due, in seconds.
    pub seconds: f64,
    /// What was counted.
    pub counts: Counts,
    /// Packets that went the whole way: back if they are to come back, else taken; a second.
    pub pps: f64,
    /// The same in bits of frames a second, in millions.
    pub mbits: f64,
    /// Packets sent that did not go the whole way.
    pub lost: u64,
    /// The 99th percentile of the slice in the middle, of slices of the run by it: what it is while the machine does nothing
    /// else. None if too few packets came for it.
    pub slice_p99_us: Option<f64>,
    /// From due to given to the device: the driver's own lateness, part of both of the following.
    pub lateness: Option<Latency>,
    /// From due until the device took the packet.
    pub taken: Option<Latency>,
    /// From due until it came back.
    pub returned: Option<Latency>,
    /// CPU time of the driver's threads, in seconds.
    pub driver_cpu_s: f64,
    /// CPU time of the device's process, in seconds.
    pub device_cpu_s: f64,
    /// How often the device's threads slept.
    pub device_switches: u64,
    /// The time over which the device was looked at, in seconds: a little more than packets were due.
    pub device_seconds: f64,
}

impl Outcome {
    /// CPU time that the device spent on a packet, in nanoseconds.
    #[must_use]
    pub fn device_ns_per_packet(&self) -> f64 {
        self.device_cpu_s * 1e9 / (self.pps * self.seconds).max(1.0)
    }

    /// The device's share of a CPU.
    #[must_use]
    pub fn device_share(&self) -> f64 {
        self.device_cpu_s / self.device_seconds
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let Counts {
            sent,
            unsent,
            taken,
            received,
            corrupt,
            out_of_order,
            kicks,
            kicks_suppressed,
            calls,
            sleeps,
            stalls,
            ..
        } = self.counts;
        let mut text = format!("{}\n", self.title);
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<10} {value}");
        };
        row("packets", format!("{sent} sent, {taken} taken, {received} back, {} lost, {unsent} never sent", self.lost));
        row("faults", format!("{corrupt} corrupt, {out_of_order} out of order"));
        row("rate", format!("{:.0} packets/s, {:.0} Mbit/s", self.pps, self.mbits));
        row(
            "told",
            format!(
                "{kicks} kicks, {kicks_suppressed} suppressed by the device, {calls} calls, {sleeps} sleeps, {stalls} stalls"
            ),
        );
        row("driver", format!("{:.1} % of a CPU", 100.0 * self.driver_cpu_s / self.seconds));
        row(
            "device",
            format!(
                "{:.1} % of a CPU, {:.0} ns a packet, {} voluntary switches",
                100.0 * self.device_share(),
                self.device_ns_per_packet(),
                self.device_switches
            ),
        );
        let _ = writeln!(
            text,
            "  {:<24}{:>10}{:>10}{:>10}{:>10}{:>12}",
            "us from due", "p50", "p90", "p99", "p99.9", "max"
        );
        let rows =
            [("to given to the device", self.lateness), ("to taken by it", self.taken), ("to returned", self.returned)];
        for (name, latency) in rows {
            if let Some(l) = latency {
                let [p50, p90, p99, p99_9] = [l.p50_us, l.p90_us, l.p99_us, l.p99_9_us];
                let _ = writeln!(text, "  {name:<24}{p50:>10.1}{p90:>10.1}{p99:>10.1}{p99_9:>10.1}{:>12.1}", l.max_us);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_equal_latencies_are_noted_one_by_one_all_the_same() {
        let mut clock = Clock::default();
        for ns in [5000, 5000, 5000, 9000, 5000, u64::MAX, 0] {
            clock.record(ns);
        }
        let mut all = Clock::default();
        all.record(5000);
        all.add(clock);
        let latency = all.latency().unwrap();
        assert_eq!((latency.packets, latency.p50_us.round()), (8, 5.0));
        assert!(latency.max_us >= 6e7);
        assert_eq!(Clock::default().latency(), None);
    }
}
