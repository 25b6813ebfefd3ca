//! How much may move one way: packets and bits a second, for all queue pairs of a device together.

use std::time::Duration;

use serde::Deserialize;

use super::Quantity;
use super::bucket::Bucket;
use crate::mode::Time;

/// Longest time of traffic that may come at once, in milliseconds.
const MAX_BURST_MS: u32 = 10_000;

/// What may move. Nothing is limited unless it is said.
#[derive(clap::Args, Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[command(next_help_heading = "How much may move, all queue pairs together")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Packets a second that the guest may send, such as 100k
    ///
    /// A frame to be segmented counts as its segments.
    ///
    /// Range: from 1, with k, M or G.
    #[arg(long, value_name = "N")]
    pub max_tx_pps: Option<Quantity>,
    /// Bits a second that the guest may send, such as 1G
    ///
    /// Of frames from the Ethernet header on.
    ///
    /// Range: from 1, with k, M or G.
    #[arg(long, value_name = "N")]
    pub max_tx_bps: Option<Quantity>,
    /// Packets a second that the guest gets
    ///
    /// A frame to be segmented counts as its segments.
    ///
    /// Range: from 1, with k, M or G.
    #[arg(long, value_name = "N")]
    pub max_rx_pps: Option<Quantity>,
    /// Bits a second that the guest gets
    ///
    /// Of frames from the Ethernet header on.
    ///
    /// Range: from 1, with k, M or G.
    #[arg(long, value_name = "N")]
    pub max_rx_bps: Option<Quantity>,
    /// What may come at once after a pause: as much as in so many milliseconds at the limit
    ///
    /// Range: 1 to 10000.
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pub limit_burst_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_tx_pps: None, max_tx_bps: None, max_rx_pps: None, max_rx_bps: None, limit_burst_ms: 20 }
    }
}

impl Limits {
    /// The limits if they make sense.
    ///
    /// # Errors
    /// With a text that names the value and the mend.
    pub fn check(self) -> Result<Self, String> {
        if !(1..=MAX_BURST_MS).contains(&self.limit_burst_ms) {
            return Err(format!(
                "limit-burst-ms = {} is not between 1 and {MAX_BURST_MS}: 20 is usual",
                self.limit_burst_ms
            ));
        }
        Ok(self)
    }

    /// The gate for what the guest sends, if that is limited.
    #[must_use]
    pub fn tx_gate(&self) -> Option<Gate> {
        Gate::new(self.max_tx_pps, self.max_tx_bps, self.limit_burst_ms)
    }

    /// The gate for what the guest gets, if that is limited.
    #[must_use]
    pub fn rx_gate(&self) -> Option<Gate> {
        Gate::new(self.max_rx_pps, self.max_rx_bps, self.limit_burst_ms)
    }
}

/// What may move now: packets and bytes, at least one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Packets.
    pub packets: usize,
    /// Bytes.
    pub bytes: usize,
}

/// The limits of one way.
#[derive(Debug)]
pub struct Gate {
    packets: Option<Bucket>,
    bits: Option<Bucket>,
}

impl Gate {
    fn new(pps: Option<Quantity>, bps: Option<Quantity>, burst_ms: u32) -> Option<Self> {
        let bucket = |rate: Quantity| Bucket::new(rate.0, Duration::from_millis(burst_ms.into()));
        (pps.is_some() || bps.is_some()).then(|| Self { packets: pps.map(bucket), bits: bps.map(bucket) })
    }

    /// What may move now, at most `most`.
    ///
    /// # Errors
    /// With the time from which on something may, if nothing may now.
    pub fn allowance(&self, now: Time, most: Allowance) -> Result<Allowance, Time> {
        let tokens = |bucket: &Option<Bucket>| bucket.as_ref().map_or(Ok(u64::MAX), |bucket| bucket.tokens(now));
        let (packets, bits) = match (tokens(&self.packets), tokens(&self.bits)) {
            (Ok(packets), Ok(bits)) => (packets, bits),
            (Err(a), Err(b)) => return Err(a.max(b)),
            (Err(until), _) | (_, Err(until)) => return Err(until),
        };
        let least = |tokens: u64, most: usize| usize::try_from(tokens).map_or(most, |tokens| tokens.min(most)).max(1);
        Ok(Allowance { packets: least(packets, most.packets), bytes: least(bits / 8, most.bytes) })
    }

    /// Notes what moved.
    pub fn moved(&self, now: Time, packets: u64, bytes: u64) {
        for (bucket, tokens) in [(&self.packets, packets), (&self.bits, bytes.saturating_mul(8))] {
            if let Some(bucket) = bucket.as_ref().filter(|_| tokens > 0) {
                bucket.draw(now, tokens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Allowance = Allowance { packets: 64, bytes: 1 << 18 };

    fn limits(pps: Option<u64>, bps: Option<u64>) -> Limits {
        Limits { max_tx_pps: pps.map(Quantity), max_tx_bps: bps.map(Quantity), ..Limits::default() }
    }

    #[test]
    fn both_limits_hold() {
        assert!(Limits::default().tx_gate().is_none());
        let now = Time::from_nanos(5_000_000_000);
        let gate = limits(Some(1000), Some(8_000_000)).tx_gate().unwrap();
        assert_eq!(gate.allowance(now, MOST), Ok(Allowance { packets: 20, bytes: 20_000 }));
        gate.moved(now, 1, 50_000);
        let until = gate.allowance(now, MOST).unwrap_err();
        assert!((30_000_000..30_100_000).contains(&(until.as_nanos() - now.as_nanos())), "{until:?}");
        gate.moved(now, 100, 0);
        assert!(gate.allowance(now, MOST).unwrap_err() > until);
        assert_eq!(limits(Some(1000), None).tx_gate().unwrap().allowance(now, MOST).unwrap().bytes, MOST.bytes);
        assert!(limits(Some(1000), None).rx_gate().is_none());
    }

    #[test]
    fn a_burst_without_length_is_refused() {
        for ms in [0, MAX_BURST_MS + 1] {
            let limits = Limits { limit_burst_ms: ms, ..Limits::default() };
            assert!(limits.check().unwrap_err().contains("limit-burst-ms = "), "{ms}");
        }
        assert!(Limits::default().check().is_ok());
    }
}
