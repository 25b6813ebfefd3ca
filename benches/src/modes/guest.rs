//! What the modes carry for a guest that shares a CPU with the worker, and what `auto` must carry.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::subject::Subject;
use crate::claim::{self, Bound, Claim};
use crate::iperf::Way;
use crate::report::columns;
use crate::stats::{Summary, ratios};

/// Which ways are measured.
pub const WAYS: [(&str, Way); 2] = [("TCP guest to host", Way::GuestToHost), ("TCP host to guest", Way::HostToGuest)];

/// Throughput by way and mode.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// What executes the guest.
    pub guest: String,
    /// Under which conditions: names and values.
    pub conditions: Vec<(String, String)>,
    /// Mbit/s, turn by turn.
    mbits: [[Vec<f64>; Subject::DAEMONS.len()]; WAYS.len()],
}

impl Account {
    /// Of a run under these conditions.
    #[must_use]
    pub fn under(conditions: Vec<(String, String)>) -> Self {
        Self { conditions, ..Self::default() }
    }

    /// Adds a condition.
    pub fn condition(&mut self, name: &str, value: String) {
        self.conditions.push((name.into(), value));
    }

    /// Adds a turn of a mode: what went [`WAYS`]`[way]`.
    pub fn add(&mut self, way: usize, mode: Subject, mbits: f64) {
        self.mbits[way][mode as usize].push(mbits);
    }

    /// What `auto` must carry: nearly what the better of the fixed modes does.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let claim = |(way, (name, _)): (usize, (&str, Way))| {
            let turns = |mode: Subject| &self.mbits[way][mode as usize];
            let ratio = |mode| Some(Summary::of(&ratios(turns(Subject::Auto), turns(mode)))?.median);
            let fixed = ratio(Subject::Interrupt).zip(ratio(Subject::Polling));
            Claim::new(format!("{name}: auto / best fixed mode"), fixed.map(|(a, b)| a.min(b)), Bound::AtLeast(0.97))
        };
        WAYS.into_iter().enumerate().map(claim).collect()
    }

    fn title(&self) -> String {
        format!("vnicd's modes, its worker on the CPU of a guest's only processor ({})", self.guest)
    }

    /// Both tables, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.title());
        for (name, value) in &self.conditions {
            text += &format!("  {name}: {value}\n");
        }
        let [a, b, c] = Subject::DAEMONS.map(|mode| mode.to_string());
        let mut rows = vec![["Mbit/s: median (min to max)".into(), a, b, c]];
        for (way, (name, _)) in WAYS.into_iter().enumerate() {
            let cell = |mode: Subject| match Summary::of(&self.mbits[way][mode as usize]) {
                Some(Summary { median, min, max }) => format!("{median:.0} ({min:.0} to {max:.0})"),
                None => "-".into(),
            };
            let [a, b, c] = Subject::DAEMONS.map(cell);
            rows.push([name.into(), a, b, c]);
        }
        format!("{text}\n{}\n{}", columns(&rows), claim::table("what auto must show", &self.claims()))
    }

    fn json(&self) -> Value {
        let conditions: serde_json::Map<_, _> =
            self.conditions.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let way = |(way, (name, _)): (usize, (&str, Way))| {
            let mode = |mode: Subject| (mode.name().to_owned(), json!(self.mbits[way][mode as usize]));
            (name.to_owned(), Subject::DAEMONS.into_iter().map(mode).collect::<serde_json::Map<_, _>>().into())
        };
        json!({
            "title": self.title(),
            "conditions": conditions,
            "mbits": WAYS.into_iter().enumerate().map(way).collect::<serde_json::Map<_, _>>(),
            "auto_must_show": self.claims().iter().map(Claim::json).collect::<Vec<_>>(),
        })
    }

    /// Writes `NAME.txt` and `NAME.json` into a directory, which is made if need be.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        let write = || {
            fs::create_dir_all(dir)?;
            fs::write(dir.join(format!("{name}.txt")), self.text())?;
            fs::write(dir.join(format!("{name}.json")), format!("{:#}\n", self.json()))
        };
        write().with_context(|| format!("cannot write into {}", dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_held_against_the_better_mode_turn_by_turn() {
        let mut account = Account::default();
        // One way interrupts are better, the other way polling; the machine becomes slower.
        for speed in [100.0, 60.0, 50.0] {
            for (mode, parts) in Subject::DAEMONS.into_iter().zip([[1.0, 0.5], [0.25, 1.0], [0.98, 0.9]]) {
                for (way, part) in parts.into_iter().enumerate() {
                    account.add(way, mode, speed * part);
                }
            }
        }
        assert_eq!(account.claims().iter().map(Claim::holds).collect::<Vec<_>>(), [Some(true), Some(false)]);
        let text = account.text();
        assert!(text.contains("TCP guest to host") && text.contains("60 (50 to 100)") && text.contains("NO"), "{text}");
        assert_eq!(account.json()["mbits"]["TCP host to guest"]["polling"][1], 60.0);
        assert!(Account::default().claims().iter().all(|claim| claim.holds().is_none()));
    }
}
