//! What kicks and calls are left at full load: with a driver that wants none while it is busy, and with one that never
//! says so.

#![forbid(unsafe_code)]

use std::ops::AddAssign;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::quiet::Counted;
use super::subject::{Lab, Subject};
use crate::loadgen::{DriverConfig, Mode, Pattern, Rate};

/// What was told of how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    packets: u64,
    kicks: u64,
    calls: u64,
    /// Bursts that the daemon showed to the driver, of both rings; the client's warm-up has some of them, and no call.
    bursts: u64,
}

impl AddAssign for Told {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.kicks += other.kicks;
        self.calls += other.calls;
        self.bursts += other.bursts;
    }
}

/// `auto` at full load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Full {
    napi: Told,
    always: Told,
}

impl Full {
    /// Adds a turn with each driver.
    pub fn measure(&mut self, lab: &mut Lab, duration: Duration) -> Result<()> {
        self.napi += told(lab, Mode::Napi, duration)?;
        self.always += told(lab, Mode::Always, duration)?;
        Ok(())
    }

    /// Kicks a packet of a driver that suppresses calls.
    #[must_use]
    pub fn kicks(&self) -> Option<f64> {
        part(self.napi.kicks, self.napi.packets)
    }

    /// Calls a packet of the same.
    #[must_use]
    pub fn calls(&self) -> Option<f64> {
        part(self.napi.calls, self.napi.packets)
    }

    /// Calls that a driver that never suppresses any saw, for each burst that was shown to it.
    #[must_use]
    pub fn calls_a_burst(&self) -> Option<f64> {
        part(self.always.calls, self.always.bursts)
    }

    /// All of it, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let told = |told: Told| {
            let Told { packets, kicks, calls, bursts } = told;
            json!({ "packets": packets, "kicks": kicks, "calls": calls, "bursts": bursts })
        };
        json!({ "napi": told(self.napi), "always": told(self.always) })
    }
}

fn part(of: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| of as f64 / whole as f64)
}

fn told(lab: &mut Lab, mode: Mode, duration: Duration) -> Result<Told> {
    let counted = |lab: &Lab| Counted::of(&lab.daemon(Subject::Auto)?.status()?);
    let before = counted(lab)?;
    let driver =
        DriverConfig { mode, rate: Rate::Max, pattern: Pattern::Constant, duration, ..DriverConfig::default() };
    let counts = lab.run(Subject::Auto, driver)?.counts;
    let bursts = counted(lab)?.bursts - before.bursts;
    Ok(Told { packets: counts.sent, kicks: counts.kicks, calls: counts.calls, bursts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_add_up() {
        let mut full = Full::default();
        assert_eq!((full.kicks(), full.calls(), full.calls_a_burst()), (None, None, None));
        for calls in [10, 30] {
            full.napi += Told { packets: 1000, kicks: 4, calls, bursts: 50 };
            full.always += Told { packets: 1000, kicks: 0, calls, bursts: 40 };
        }
        assert_eq!((full.kicks(), full.calls(), full.calls_a_burst()), (Some(0.004), Some(0.02), Some(0.5)));
        assert_eq!(full.json()["always"]["bursts"], 80);
    }
}
