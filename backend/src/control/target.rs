//! Which lanes a command is for: `all`, `NIC`, `NIC/0`, `NIC/0/rx` or `NIC/0/tx`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::nic::{Lane, Nic};
use crate::worker::Direction;

/// A target as it was written; what it names need not be there.
///
/// Device names are plain text here. A [`DeviceName`](crate::worker::DeviceName) is kept for ever, and whoever sends
/// requests could fill the memory with them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// Everything.
    #[default]
    All,
    /// All of a device.
    Device(String),
    /// A queue pair, or a direction of it.
    Queue {
        /// Its device.
        device: String,
        /// Number of the pair.
        pair: u16,
        /// Which of its queues.
        direction: Direction,
    },
}

/// A target that is none, or names what is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is not written as one.
    #[error("'{}' is no target: name all, NIC, NIC/0, NIC/0/rx or NIC/0/tx", .0.escape_debug())]
    Malformed(String),
    /// There is no such device.
    #[error("there is no device '{}', but {known}", name.escape_debug())]
    NoDevice {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The device has no such pair.
    #[error("there is no queue pair {device}/{pair}: {device} has {device}/0 to {device}/{last}")]
    NoPair {
        /// The device.
        device: String,
        /// Number of the pair.
        pair: u16,
        /// The last that there is.
        last: u16,
    },
    /// The direction shares its worker with the other one.
    #[error(
        "{target} has no mode and no counts of its own, since one worker serves both directions: name {lane}, or start \
         vnicd with threads = \"per-direction\""
    )]
    NoDirection {
        /// What was named.
        target: Target,
        /// What can be named instead.
        lane: String,
    },
}

impl Target {
    /// The lanes that it names; at least one.
    ///
    /// # Errors
    /// When it names what is not there.
    pub fn lanes<'a>(&self, devices: &'a [Arc<Nic>]) -> Result<Vec<&'a Lane>, TargetError> {
        let (name, queue) = match self {
            Self::All => return Ok(devices.iter().flat_map(|device| device.lanes()).collect()),
            Self::Device(name) => (name, None),
            Self::Queue { device, pair, direction } => (device, Some((*pair, *direction))),
        };
        let device = devices.iter().find(|device| device.name().as_str() == name).ok_or_else(|| {
            let known: Vec<_> = devices.iter().map(|device| device.name().as_str()).collect();
            TargetError::NoDevice { name: name.clone(), known: known.join(", ") }
        })?;
        let Some((pair, direction)) = queue else { return Ok(device.lanes().iter().collect()) };
        let of_pair: Vec<_> = device.lanes().iter().filter(|lane| lane.id.pair == pair).collect();
        if of_pair.is_empty() {
            let last = (device.rings() / 2).saturating_sub(1);
            return Err(TargetError::NoPair { device: name.clone(), pair, last });
        }
        if direction == Direction::Both {
            return Ok(of_pair);
        }
        match of_pair.iter().find(|lane| lane.id.direction == direction) {
            Some(lane) => Ok(vec![lane]),
            None => Err(TargetError::NoDirection { target: self.clone(), lane: format!("{name}/{pair}") }),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(text.into());
        let parts: Vec<&str> = text.split('/').collect();
        let (device, pair, direction) = match parts.as_slice() {
            ["all"] => return Ok(Self::All),
            [""] | ["", ..] => return Err(malformed()),
            [device] => return Ok(Self::Device((*device).into())),
            [device, pair] => (device, pair, Direction::Both),
            [device, pair, "rx"] => (device, pair, Direction::Rx),
            [device, pair, "tx"] => (device, pair, Direction::Tx),
            _ => return Err(malformed()),
        };
        // A number as it is printed: no sign, no zeros before it.
        let pair = pair.parse().ok().filter(|number: &u16| number.to_string() == *pair).ok_or_else(malformed)?;
        Ok(Self::Queue { device: (*device).into(), pair, direction })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Device(device) => f.write_str(device),
            Self::Queue { device, pair, direction: Direction::Both } => write!(f, "{device}/{pair}"),
            Self::Queue { device, pair, direction: Direction::Rx } => write!(f, "{device}/{pair}/rx"),
            Self::Queue { device, pair, direction: Direction::Tx } => write!(f, "{device}/{pair}/tx"),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, TargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::nic;
    use crate::worker::Threads;

    #[test]
    fn targets_are_written_as_they_are_read() {
        for text in ["all", "nic0", "vm-1.x", "nic0/0", "nic0/31", "nic0/0/rx", "nic0/65535/tx"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "/",
            "/0",
            "nic0/",
            "nic0/x",
            "nic0/-1",
            "nic0/+1",
            "nic0/01",
            "nic0/65536",
            "nic0/0/",
            "nic0/0/up",
            "nic0/0/rx/0",
        ] {
            assert!(bad.parse::<Target>().unwrap_err().to_string().starts_with(&format!("'{bad}' is no")), "{bad}");
        }
        let error = "nic0/0\n/rx".parse::<Target>().unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn targets_name_lanes_or_say_what_there_is() {
        let devices = [nic("vm1", 2, Threads::PerPair), nic("vm2", 1, Threads::PerDirection)];
        let names = |text: &str| -> Result<Vec<String>, String> {
            let lanes = text.parse::<Target>().unwrap().lanes(&devices).map_err(|e| e.to_string())?;
            Ok(lanes.iter().map(|lane| lane.id.to_string()).collect())
        };
        assert_eq!(names("all").unwrap(), ["vm1/0", "vm1/1", "vm2/0/rx", "vm2/0/tx"]);
        assert_eq!(names("vm1").unwrap(), ["vm1/0", "vm1/1"]);
        assert_eq!(names("vm1/1").unwrap(), ["vm1/1"]);
        assert_eq!(names("vm2/0").unwrap(), ["vm2/0/rx", "vm2/0/tx"]);
        assert_eq!(names("vm2/0/tx").unwrap(), ["vm2/0/tx"]);
        for (bad, part) in [
            ("vm3", "there is no device 'vm3', but vm1, vm2"),
            ("vm1/2", "vm1 has vm1/0 to vm1/1"),
            ("vm1/2/rx", "vm1 has vm1/0 to vm1/1"),
            ("vm1/0/rx", "vm1/0/rx has no mode"),
            ("vm1/0/rx", "name vm1/0, or start vnicd with threads = \"per-direction\""),
        ] {
            let error = names(bad).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
