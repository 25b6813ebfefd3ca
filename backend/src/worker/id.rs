//! The one name of a queue, a queue pair or a device's share of them.

use std::fmt;

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
/// Written `NIC/PAIR` or `NIC/PAIR/DIRECTION`, as in `nic0/1/rx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueId {
    /// Number of the device.
    pub device: u32,
    /// Number of the pair in its device.
    pub pair: u16,
    /// Which of its queues.
    pub direction: Direction,
}

impl QueueId {
    /// The name of a whole pair.
    #[must_use]
    pub fn pair(device: u32, pair: u16) -> Self {
        Self { device, pair, direction: Direction::Both }
    }

    /// The name of one of the pair's queues.
    #[must_use]
    pub fn with(self, direction: Direction) -> Self {
        Self { direction, ..self }
    }

    /// The name of the queue that the front end calls by `index` (virtio 1.3, 5.1.2: receiveq1, transmitq1, …).
    #[must_use]
    pub fn of_ring(device: u32, index: u16) -> Self {
        let direction = if index.is_multiple_of(2) { Direction::Rx } else { Direction::Tx };
        Self { device, pair: index / 2, direction }
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nic{}/{}", self.device, self.pair)?;
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
        assert_eq!(QueueId::of_ring(0, 3).to_string(), "nic0/1/tx");
        assert_eq!(QueueId::pair(2, 7).to_string(), "nic2/7");
    }
}
