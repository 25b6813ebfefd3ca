//! The rings of all lanes, read in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use vnicd::capture::{Broken, Consumer, Meta};
use vnicd::mode::Time;

use super::super::client::Error;
use super::pcapng::Counts;

/// The rings of a capture.
#[derive(Debug)]
pub(crate) struct Lanes {
    rings: Vec<(u32, Consumer)>,
    /// By interface.
    received: Vec<u64>,
    bytes: Vec<u8>,
}

/// The queue pair of a lane: its interface.
fn pair(lane: &str) -> &str {
    lane.strip_suffix("/rx").or_else(|| lane.strip_suffix("/tx")).unwrap_or(lane)
}

/// The queue pairs of lanes, each once.
pub(crate) fn pairs(lanes: &[String]) -> Vec<&str> {
    let mut pairs: Vec<&str> = lanes.iter().map(|lane| pair(lane)).collect();
    pairs.dedup();
    pairs
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        Self::Capture(broken.to_string())
    }
}

impl Lanes {
    pub(crate) fn new(lanes: &[String], rings: Vec<Consumer>) -> Self {
        let pairs = pairs(lanes);
        let interface = |lane: &String| pairs.iter().position(|name| *name == pair(lane)).unwrap_or(0) as u32;
        let rings = lanes.iter().map(interface).zip(rings).collect();
        Self { rings, received: vec![0; pairs.len()], bytes: Vec::new() }
    }

    /// In words, how many there are.
    pub(crate) fn describe(&self) -> String {
        match self.received.len() {
            1 => "1 queue pair".into(),
            n => format!("{n} queue pairs"),
        }
    }

    /// Takes all frames that are there, in the order of time, until `left` of them were written; `write` says which are.
    /// Says how many were taken.
    pub(crate) fn drain(
        &mut self,
        left: &mut u64,
        mut write: impl FnMut(u32, &Meta, &[u8]) -> Result<bool, Error>,
    ) -> Result<u64, Error> {
        let mut next: BinaryHeap<Reverse<(Time, usize)>> = BinaryHeap::new();
        for (_, ring) in &mut self.rings {
            ring.look()?;
        }
        for (at, (_, ring)) in self.rings.iter().enumerate() {
            next.extend(ring.next()?.map(|meta| Reverse((meta.at, at))));
        }
        let mut taken = 0;
        while let Some(Reverse((_, at))) = next.pop()
            && *left > 0
        {
            let (interface, ring) = &mut self.rings[at];
            if let Some(meta) = ring.take(&mut self.bytes)? {
                taken += 1;
                self.received[*interface as usize] += 1;
                *left -= u64::from(write(*interface, &meta, &self.bytes)?);
            }
            next.extend(ring.next()?.map(|meta| Reverse((meta.at, at))));
        }
        Ok(taken)
    }

    /// What was counted of each interface, but for what its filter let through.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        let mut counts: Vec<_> =
            self.received.iter().map(|received| Counts { received: *received, ..Counts::default() }).collect();
        for (interface, ring) in &self.rings {
            let counts = &mut counts[*interface as usize];
            counts.received += ring.dropped();
            counts.dropped += ring.dropped();
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use vnicd::capture::{create, open, ring_size};

    use super::*;

    #[test]
    fn frames_of_all_lanes_come_in_the_order_of_time_and_drops_are_told() {
        let names = ["a/0/rx", "a/0/tx", "a/1"].map(String::from);
        assert_eq!(pairs(&names), ["a/0", "a/1"]);
        let (file, mut producers) = create(3).unwrap();
        let mut push = |lane: usize, ns: u64| {
            let meta = Meta { at: Time::from_nanos(ns), to_guest: lane == 0, len: 8 };
            assert!(producers[lane].makes_room(8));
            producers[lane].push(&meta, &ns.to_le_bytes());
        };
        for (lane, ns) in [(2, 30), (2, 35), (0, 10), (0, 33), (1, 20), (1, 34)] {
            push(lane, ns);
        }
        let mut lanes = Lanes::new(&names, open(file, 3, ring_size(3)).unwrap());
        let mut got = Vec::new();
        let mut left = 5;
        let taken = lanes.drain(&mut left, |interface, meta, bytes| {
            assert_eq!(bytes, meta.at.as_nanos().to_le_bytes());
            got.push((meta.at.as_nanos(), interface, meta.to_guest));
            Ok(meta.at.as_nanos() != 10)
        });
        assert_eq!((taken.unwrap(), left), (6, 0));
        assert_eq!(got, [(10, 0, true), (20, 0, false), (30, 1, false), (33, 0, true), (34, 0, false), (35, 1, false)]);
        while producers[1].makes_room(60_000) {
            producers[1].push(&Meta { at: Time::default(), to_guest: false, len: 60_000 }, &[0; 60_000]);
        }
        assert!(!producers[1].makes_room(60_000));
        assert_eq!(
            lanes.counts(),
            [Counts { received: 4 + 2, dropped: 2, accepted: 0 }, Counts { received: 2, dropped: 0, accepted: 0 }]
        );
    }
}
