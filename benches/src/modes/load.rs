//! The loads at which modes are compared: some fixed, some parts of the highest rate that this machine has.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use crate::loadgen::Rate;

/// From this rate on a run holds enough packets for a look at one in a thousand.
const TAIL_PPS: f64 = 10_000.0;

/// A load, in packets a second while packets are sent: bursts have this rate, the silence between them has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many.
    Pps(f64),
    /// A quarter of the highest rate.
    Quarter,
    /// Half of it.
    Half,
    /// All: a packet whenever there is room for one. A clock that asked for the last packet would measure its own queue.
    Full,
}

impl Load {
    /// What a driver is told when the highest rate is `max_pps`.
    #[must_use]
    pub fn rate(self, max_pps: f64) -> Rate {
        match self {
            Self::Pps(pps) => Rate::Pps(pps),
            Self::Quarter => Rate::Pps((max_pps / 4.0).round()),
            Self::Half => Rate::Pps((max_pps / 2.0).round()),
            Self::Full => Rate::Max,
        }
    }

    /// Whether it is half of the highest rate or more.
    #[must_use]
    pub fn is_high(self) -> bool {
        matches!(self, Self::Half | Self::Full)
    }

    /// Whether the 99.9th percentile says something.
    #[must_use]
    pub fn has_tail(self, max_pps: f64) -> bool {
        match self.rate(max_pps) {
            Rate::Pps(pps) => pps > TAIL_PPS,
            Rate::Max => true,
        }
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quarter" => Ok(Self::Quarter),
            "half" => Ok(Self::Half),
            "full" | "max" => Ok(Self::Full),
            _ => match text.parse() {
                Ok(Rate::Pps(pps)) => Ok(Self::Pps(pps)),
                _ => Err(format!("'{text}' is no load: use packets a second such as 500 or 10k, quarter, half, full")),
            },
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pps(pps) => Rate::Pps(*pps).fmt(f),
            Self::Quarter => f.write_str("quarter"),
            Self::Half => f.write_str("half"),
            Self::Full => f.write_str("full"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_read_as_they_are_printed() {
        for text in ["1k", "500", "2.5M", "quarter", "half", "full"] {
            assert_eq!(text.parse::<Load>().unwrap().to_string(), text);
        }
        assert_eq!("max".parse(), Ok(Load::Full));
        for text in ["", "third", "-1", "k"] {
            assert!(text.parse::<Load>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_are_of_the_highest_rate() {
        assert_eq!(Load::Pps(1000.0).rate(4e6), Rate::Pps(1000.0));
        assert_eq!([Load::Quarter, Load::Half].map(|load| load.rate(4e6)), [Rate::Pps(1e6), Rate::Pps(2e6)]);
        assert_eq!(Load::Full.rate(4e6), Rate::Max);
        assert_eq!(
            [Load::Pps(1e6), Load::Quarter, Load::Half, Load::Full].map(Load::is_high),
            [false, false, true, true]
        );
        assert_eq!([Load::Pps(10e3), Load::Pps(100e3), Load::Full].map(|load| load.has_tail(1e6)), [false, true, true]);
        assert_eq!([1e3, 1e6].map(|max| Load::Half.has_tail(max)), [false, true]);
    }
}
