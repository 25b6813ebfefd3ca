//! The one name of a queue, a queue pair or a device's share of them.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

/// Longest name of a device, in bytes.
const MAX_NAME: usize = 32;

/// A device's name: letters, digits, `.`, `_` and `-`, at most 32 of them.
///
/// Each name that is ever used is kept once for the life of the process, so that it can be copied like a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceName(&'static str);

impl DeviceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if name.is_empty() || name.len() > MAX_NAME || !plain {
            return Err(format!("'{name}' is no device name: 1 to {MAX_NAME} letters, digits, '.', '_' and '-'"));
        }
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let names = names.get_or_insert_default();
        let known = names.get(name).copied();
        Ok(Self(known.unwrap_or_else(|| {
            let kept: &'static str = name.to_owned().leak();
            names.insert(kept);
            kept
        })))
    }
}

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A direction of a queue pair, named from the guest's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Uplink to guest: the receive queue.
    Rx,
    /// Guest to uplink: the transmit queue.
    Tx,
    /// The whole pair.
    Both,
}

/// Names a queue or queue pair: allocated once when its device is made, used for its thread, log lines and counters.
///
/// Written `DEVICE/PAIR` or `DEVICE/PAIR/DIRECTION`, as in `nic0/1/rx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueId {
    /// The device.
    pub device: DeviceName,
    /// Number of the pair in its device.
    pub pair: u16,
    /// Which of its queues.
    pub direction: Direction,
}

impl QueueId {
    /// The name of a whole pair.
    #[must_use]
    pub fn pair(device: DeviceName, pair: u16) -> Self {
        Self { device, pair, direction: Direction::Both }
    }

    /// The name of one of the pair's queues.
    #[must_use]
    pub fn with(self, direction: Direction) -> Self {
        Self { direction, ..self }
    }

    /// Whether what is called `other` is this, a part of it, or what it is a part of.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        let either = self.direction == Direction::Both || other.direction == Direction::Both;
        self.device == other.device && self.pair == other.pair && (either || self.direction == other.direction)
    }

    /// The name of the queue that the front end calls by `index` (virtio 1.3, 5.1.2: receiveq1, transmitq1, …).
    #[must_use]
    pub fn of_ring(device: DeviceName, index: u16) -> Self {
        let direction = if index.is_multiple_of(2) { Direction::Rx } else { Direction::Tx };
        Self { device, pair: index / 2, direction }
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.device, self.pair)?;
        match self.direction {
            Direction::Rx => f.write_str("/rx"),
            Direction::Tx => f.write_str("/tx"),
            Direction::Both => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let device: DeviceName = "nic0".parse().unwrap();
        let (pair, rx) = (QueueId::pair(device, 1), QueueId::of_ring(device, 2));
        assert!(pair.covers(rx) && rx.covers(pair) && rx.covers(rx) && !rx.covers(QueueId::of_ring(device, 3)));
        assert!(!pair.covers(QueueId::pair(device, 2)));
        assert_eq!(QueueId::of_ring(device, 3).to_string(), "nic0/1/tx");
        assert_eq!(QueueId::pair(device, 7).to_string(), "nic0/7");
        assert!(std::ptr::eq(device.as_str(), "nic0".parse::<DeviceName>().unwrap().as_str()), "kept once");
        for bad in ["", "a/b", "a b", "ü", &"x".repeat(33)] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad}");
        }
    }
}
