//! What a driver is to do.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::frame::{MAX_FRAME, MIN_FRAME};
use super::schedule::{Pattern, Rate};

/// How a driver learns of what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Asleep until called; calls suppressed while it polls; armed again when it finds nothing.
    Napi,
    /// Polls always, calls suppressed.
    Busy,
    /// Like napi, but never suppresses a call.
    Always,
}

/// Which packets the driver looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// Those that it sends: clocked until the device took them. No receive buffer is posted.
    Tx,
    /// Those that come back: clocked on their return.
    Rx,
    /// Both clocks.
    Both,
}

/// Lengths of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All of so many bytes, checksum of the wire not counted.
    Fixed(usize),
    /// Seven of 60, four of 576, one of 1514, mixed.
    Imix,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "imix" => Ok(Self::Imix),
            Ok(len) if (MIN_FRAME..=MAX_FRAME).contains(&len) => Ok(Self::Fixed(len)),
            _ => Err(format!("'{text}' is no size: use {MIN_FRAME} to {MAX_FRAME} bytes, or imix")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(len) => write!(f, "{len}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

/// One length after another.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    size: Size,
    at: usize,
}

impl Sizes {
    pub(super) fn new(size: Size) -> Self {
        Self { size, at: 0 }
    }

    #[inline]
    pub(super) fn next(&mut self) -> usize {
        const IMIX: [usize; 12] = [60, 576, 60, 60, 576, 60, 1514, 60, 576, 60, 60, 576];
        match self.size {
            Size::Fixed(len) => len,
            Size::Imix => {
                self.at = (self.at + 1) % IMIX.len();
                IMIX[self.at]
            }
        }
    }
}

/// What a driver is to do.
#[derive(Clone, Copy, Debug)]
pub struct DriverConfig {
    /// How it learns of what came.
    pub mode: Mode,
    /// Which packets it looks at.
    pub way: Way,
    /// Frames' lengths.
    pub size: Size,
    /// Packets a second of this driver.
    pub rate: Rate,
    /// How they lie in time.
    pub pattern: Pattern,
    /// For how long packets are due.
    pub duration: Duration,
    /// How much of that is for the device to see what the load is: its clocks are not read, its packets counted all the same.
    pub settling: Duration,
}

impl Default for DriverConfig {
    /// 60 bytes there and back, 10,000 a second for a second.
    fn default() -> Self {
        Self {
            mode: Mode::Napi,
            way: Way::Both,
            size: Size::Fixed(MIN_FRAME),
            rate: Rate::Pps(10_000.0),
            pattern: Pattern::Constant,
            duration: Duration::from_secs(1),
            settling: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let mut sizes = Sizes::new("imix".parse().unwrap());
        let all: Vec<_> = (0..24).map(|_| sizes.next()).collect();
        assert_eq!([60, 576, 1514].map(|len| all.iter().filter(|l| **l == len).count()), [14, 8, 2]);
        assert!("59".parse::<Size>().is_err() && "60".parse::<Size>().is_ok() && "9015".parse::<Size>().is_err());
    }
}
