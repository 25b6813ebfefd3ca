//! What a packet costs a back end in cycles, as each of the two tells it.

use serde_json::Value;

use super::cases::Path;
use crate::testpmd::Forwarded;

/// A testpmd that makes its frames counts the cycles of rounds that found the ring full, too. Its count is taken for
/// the work of a packet only if fewer than one frame in so many found no room.
const ONE_DROPPED_IN: u64 = 100;

/// Cycles, and the packets that they were spent on. A packet that goes round is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    cycles: u64,
    packets: u64,
    /// All packets, whether their cycles are counted or not.
    all_packets: u64,
}

/// What a back end's work tells of a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Efficiency {
    /// Cycles a packet: of the daemon in full bursts, of testpmd in rounds that found packets.
    pub cycles: f64,
    /// The part of all packets that this is said of.
    pub share: f64,
}

impl Work {
    /// What was done since `before`, if any packet was.
    #[must_use]
    pub(super) fn since(self, before: Self) -> Option<Efficiency> {
        let difference = |now: u64, before: u64| now.checked_sub(before).filter(|n| *n > 0).map(|n| n as f64);
        let packets = difference(self.packets, before.packets)?;
        Some(Efficiency {
            cycles: difference(self.cycles, before.cycles)? / packets,
            share: packets / difference(self.all_packets, before.all_packets)?,
        })
    }

    /// The work of a daemon's full bursts, if it counts them.
    pub(super) fn of_status(status: &Value, path: Path) -> Option<Self> {
        let pairs = status["devices"][0]["pairs"].as_array()?;
        let sum = |name: &str| -> Option<u64> { pairs.iter().map(|pair| pair["counters"][name].as_u64()).sum() };
        // The daemon counts a packet that goes round twice, on its way in and on its way out.
        let times = if path == Path::Loopback { 2 } else { 1 };
        let cycles = sum("full_burst_cycles")?;
        let [packets, rx, tx] = [sum("full_burst_packets")?, sum("rx_packets")?, sum("tx_packets")?];
        Some(Self { cycles, packets: packets / times, all_packets: (rx + tx) / times })
    }

    /// What testpmd did, if its cycles were all spent on packets.
    pub(super) fn of_testpmd(forwarded: Forwarded, path: Path) -> Option<Self> {
        let Forwarded { received, sent, dropped, cycles } = forwarded;
        let packets = if path == Path::BackendToGuest { sent } else { received };
        let waited = path == Path::BackendToGuest && dropped > (sent + dropped) / ONE_DROPPED_IN;
        Some(Self { cycles: cycles.filter(|_| !waited)?, packets, all_packets: packets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(pairs: &[[u64; 4]]) -> Value {
        let pair = |[cycles, full, rx, tx]: &[u64; 4]| {
            let counters =
                json!({ "full_burst_cycles": cycles, "full_burst_packets": full, "rx_packets": rx, "tx_packets": tx });
            json!({ "counters": counters })
        };
        json!({ "devices": [{ "pairs": pairs.iter().map(pair).collect::<Vec<_>>() }] })
    }

    #[test]
    fn work_is_that_of_all_pairs() {
        let of = |pairs: &[[u64; 4]], path| Work::of_status(&status(pairs), path).unwrap();
        let (before, after) = ([[1000, 64, 0, 100], [0, 0, 0, 0]], [[2000, 128, 0, 200], [920, 64, 0, 156]]);
        for (path, cycles) in [(Path::GuestToBackend, 15.0), (Path::Loopback, 30.0)] {
            let efficiency = of(&after, path).since(of(&before, path)).unwrap();
            assert_eq!(efficiency, Efficiency { cycles, share: 0.5 });
            assert_eq!(of(&after, path).since(of(&after, path)), None);
        }
    }

    #[test]
    fn what_one_pair_does_not_count_is_not_told() {
        let mut status = status(&[[1, 1, 1, 1], [1, 1, 1, 1]]);
        assert!(Work::of_status(&status, Path::Loopback).is_some());
        status["devices"][0]["pairs"][1]["counters"] = json!({ "rx_packets": 1, "tx_packets": 1 });
        assert_eq!(Work::of_status(&status, Path::Loopback), None);
        assert_eq!(Work::of_status(&json!({}), Path::Loopback), None);
    }

    #[test]
    fn cycles_of_rounds_that_found_the_ring_full_are_no_work() {
        let forwarded = Forwarded { received: 0, sent: 1000, dropped: 0, cycles: Some(50_000) };
        let cycles = |forwarded, path| Some(Work::of_testpmd(forwarded, path)?.since(Work::default())?.cycles);
        assert_eq!(cycles(forwarded, Path::BackendToGuest), Some(50.0));
        assert_eq!(cycles(Forwarded { dropped: 500, ..forwarded }, Path::BackendToGuest), None);
        let received = Forwarded { received: 500, sent: 0, dropped: 0, cycles: Some(50_000) };
        assert_eq!(cycles(received, Path::GuestToBackend), Some(100.0));
        assert_eq!(cycles(Forwarded { cycles: None, ..received }, Path::GuestToBackend), None);
    }
}
