//! What a worker counts. Written by one thread, read by any.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::guard::Refusal;

/// A count that one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Nothing counted.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`. Only the owning worker may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// Adds `n`, which mostly is 0. Only the owning worker may.
    #[inline]
    pub fn add_some(&self, n: u64) {
        if n > 0 {
            self.add(n);
        }
    }

    /// Changes the count. Only the owning worker may.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

/// Counts by size: number `n` counts values from 2^(n-1) up to below 2^n, the first one zeros, the last one all that is larger.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Histogram<const N: usize>([Counter; N])
where
    [Counter; N]: Serialize;

impl<const N: usize> Default for Histogram<N>
where
    [Counter; N]: Serialize,
{
    fn default() -> Self {
        Self([const { Counter::new() }; N])
    }
}

impl<const N: usize> Histogram<N>
where
    [Counter; N]: Serialize,
{
    /// Counts `value`. Only the owning worker may.
    #[inline]
    pub fn count(&self, value: u64) {
        let at = (u64::BITS - value.leading_zeros()) as usize;
        if let Some(counter) = self.0.get(at.min(N - 1)) {
            counter.add(1);
        }
    }

    /// The counts so far.
    #[must_use]
    pub fn get(&self) -> [u64; N] {
        std::array::from_fn(|at| self.0[at].get())
    }
}

/// Counts of one queue pair since the daemon started. On cache lines of its own.
#[derive(Debug, Default, Serialize)]
#[repr(align(128))]
pub struct PairCounters {
    /// Frames delivered to the guest.
    pub rx_packets: Counter,
    /// Packets that these stand for: a frame that the guest is to segment counts as its segments.
    pub rx_segments: Counter,
    /// Bytes of these frames.
    pub rx_bytes: Counter,
    /// Frames sent for the guest.
    pub tx_packets: Counter,
    /// Packets that these stand for: a frame that is still to be segmented counts as its segments.
    pub tx_segments: Counter,
    /// Bytes of these frames.
    pub tx_bytes: Counter,
    /// The sum of all bytes of frames that a discarding uplink read.
    pub discarded_bytes_sum: Counter,
    /// Frames dropped because the guest did not negotiate what they need.
    pub rx_dropped_offload: Counter,
    /// Frames dropped because the guest's buffers cannot hold them.
    pub rx_dropped_too_large: Counter,
    /// Frames dropped because of a senseless virtio-net header.
    pub tx_dropped_header: Counter,
    /// Frames dropped because they are of an Ethernet address that the guest may not use.
    pub tx_dropped_mac: Counter,
    /// Frames dropped because they are of an IP address that the guest may not use.
    pub tx_dropped_ip: Counter,
    /// Frames dropped because they are for a VLAN that the guest may not send to.
    pub tx_dropped_vlan: Counter,
    /// Frames dropped because the uplink was down.
    pub tx_dropped_down: Counter,
    /// Frames that the uplink refused.
    pub tx_dropped_refused: Counter,
    /// Frames discarded because the transmit queue was started but not enabled.
    pub tx_dropped_disabled: Counter,
    /// Times that what the guest sends had to wait for its limit.
    pub tx_held: Counter,
    /// Times that what the guest gets had to wait for its limit.
    pub rx_held: Counter,
    /// Interrupts sent to the driver.
    pub calls: Counter,
    /// Bursts after which the driver wanted no interrupt.
    pub calls_suppressed: Counter,
    /// Times that a kick woke the worker.
    pub kicks: Counter,
    /// Rounds that found chains of the driver without having been kicked for them.
    pub kicks_suppressed: Counter,
    /// Times the worker woke up.
    pub wakeups: Counter,
    /// Rounds over the pair.
    pub rounds: Counter,
    /// Rounds of polling mode that found nothing.
    pub polls_empty: Counter,
    /// Rounds of polling mode that found something.
    pub polls_full: Counter,
    /// Packets that a direction moved in a round, of rounds in which it moved any.
    pub burst_packets: Histogram<8>,
    /// Nanoseconds from when the worker had last looked, or was woken, until it had served what it found: no packet lay
    /// here longer, but for backlog.
    pub service_ns: Histogram<32>,
    /// Packets of rounds in which a direction moved a full burst.
    pub full_burst_packets: Counter,
    /// Ticks of the CPU's time stamp counter that these rounds took.
    pub full_burst_cycles: Counter,
    /// Rings that the driver broke.
    pub rings_broken: Counter,
}

impl PairCounters {
    /// What counts the frames that are dropped for this reason.
    pub(super) fn of_refusal(&self, refusal: Refusal) -> &Counter {
        match refusal {
            Refusal::Mac => &self.tx_dropped_mac,
            Refusal::Ip => &self.tx_dropped_ip,
            Refusal::Vlan => &self.tx_dropped_vlan,
            Refusal::Checksum => &self.tx_dropped_header,
        }
    }
}
