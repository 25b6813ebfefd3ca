//! What was found, told: tables and claims for people, JSON for programs.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::injected::{MSS, SEGMENTS, Sample};
use super::sink::Sink;
use super::subject::Subject;
use crate::claim::{self, Bound, Claim};
use crate::plot;
use crate::report::{Better, Report};
use crate::uplinks::Stream;

/// Packets towards what is behind the TAP, and how many times as many as net_tap's the daemon must get there.
pub const CELLS: [(Stream, Sink, f64); 6] = [
    (Stream::OneFlow, Sink::Stack, 5.0),
    (Stream::OneFlow, Sink::Bridge, 5.0),
    (Stream::OneFlow, Sink::Socket, 2.0),
    (Stream::EightFlows, Sink::Stack, 3.0),
    (Stream::EachAnother, Sink::Stack, 1.15),
    (Stream::Txonly, Sink::Stack, 1.15),
];
/// The part of a loop of writes that is enough where there is nothing to join.
const OF_WRITES: f64 = 0.9;
/// How many times as many segments the daemon must cut in the same time.
const CUT: f64 = 3.0;

const INJECTED: &str = "unsegmented frames from the TAP, cut for the client: segments a CPU second";

/// Everything that a run of the bench found.
#[derive(Clone, Debug)]
pub struct Account {
    /// Beside net_vhost and net_tap.
    pub net_tap: Report,
    /// Beside a loop of writes.
    pub writes: Report,
    /// Instructions a packet when there is nothing to join: looking for it, and not.
    pub instructions: Option<[f64; 2]>,
}

/// Whether there is nothing to join in a stream.
#[must_use]
pub fn nothing_to_join(stream: Stream) -> bool {
    matches!(stream, Stream::EachAnother | Stream::Txonly)
}

fn name(stream: Stream, sink: Sink) -> String {
    format!("{stream} to {sink}")
}

impl Account {
    /// Of a run under these conditions.
    #[must_use]
    pub fn under(conditions: Vec<(String, String)>) -> Self {
        let [vnicd, net_tap] = Subject::BOTH.map(|subject| subject.name().to_owned());
        let title = "virtio-user and a TAP, packets of 64 bytes counted behind it".into();
        let subjects = [vnicd.clone(), net_tap];
        let net_tap = Report { title, subjects, conditions, ..Report::default() };
        let subjects = [vnicd, "loop of writev".into()];
        let title = "where there is nothing to join, beside a program that only writes".into();
        Self { net_tap, writes: Report { title, subjects, ..Report::default() }, instructions: None }
    }

    /// Adds a condition.
    pub fn condition(&mut self, name: &str, value: String) {
        self.net_tap.conditions.push((name.into(), value));
    }

    /// Adds packets a second of both back ends, and of a loop of writes if it took its turn.
    pub fn add(&mut self, stream: Stream, sink: Sink, [vnicd, net_tap]: [f64; 2], written: Option<f64>) {
        let values = |other: f64| [Some(vnicd / 1e6), Some(other / 1e6)];
        self.net_tap.add_pair(&name(stream, sink), "Mpps", Better::Higher, values(net_tap));
        if let Some(written) = written {
            self.writes.add_pair(&name(stream, sink), "Mpps", Better::Higher, values(written));
        }
    }

    /// Adds what both back ends did with injected frames.
    pub fn add_injected(&mut self, samples: [Sample; 2]) {
        let values = samples.map(|sample| Some(sample.segments_a_cpu_second / 1e6));
        self.net_tap.add_pair(INJECTED, "millions", Better::Higher, values);
        let received = samples.map(|sample| Some(100.0 * sample.received));
        self.net_tap.add_pair("  of them received", "%", Better::Higher, received);
    }

    /// What the daemon must show.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let cell = |(stream, sink, bound): (Stream, Sink, f64)| {
            let name = name(stream, sink);
            let mut any_of = vec![(self.net_tap.ratio(&name), Bound::AtLeast(bound))];
            let mut what = format!("{name}, vnicd / net_tap");
            if nothing_to_join(stream) {
                what.push_str(" or / writev");
                any_of.push((self.writes.ratio(&name), Bound::AtLeast(OF_WRITES)));
            }
            Claim { what, any_of }
        };
        let what = format!("frames of {SEGMENTS} x {MSS} bytes cut: segments a CPU second, vnicd / net_tap");
        let cut = Claim::new(what, self.net_tap.ratio(INJECTED), Bound::AtLeast(CUT));
        CELLS.map(cell).into_iter().chain([cut]).collect()
    }

    /// Tables and claims, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.net_tap.table();
        if !self.writes.comparisons.is_empty() {
            text += &format!("\n{}", self.writes.table());
        }
        if let Some([looks, does_not]) = self.instructions {
            let more = looks - does_not;
            text += &format!(
                "\ninstructions a packet, every packet another flow: {looks:.0}, with --no-coalesce {does_not:.0} ({more:+.0})\n"
            );
        }
        format!("{text}\n{}", claim::table("what vnicd must show", &self.claims()))
    }

    /// Writes `NAME.txt`, `NAME.json` and `NAME.svg` into a directory, which is made if need be.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        let json = json!({
            "beside_net_tap": self.net_tap.json(),
            "beside_writes": self.writes.json(),
            "instructions_a_packet": self.instructions.map(|[looks, not]| json!({ "coalesce": looks, "no_coalesce": not })),
            "must_show": self.claims().iter().map(Claim::json).collect::<Vec<_>>(),
        });
        let write = || {
            fs::create_dir_all(dir)?;
            fs::write(dir.join(format!("{name}.txt")), self.text())?;
            fs::write(dir.join(format!("{name}.json")), format!("{json:#}\n"))
        };
        write().with_context(|| format!("cannot write into {}", dir.display()))?;
        plot::runs(&self.net_tap, &dir.join(format!("{name}.svg")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(times: f64, written: f64, cut: f64) -> Account {
        let mut account = Account::under(Vec::new());
        for (stream, sink, bound) in CELLS {
            for speed in [1e6, 2e6, 3e6] {
                let written = nothing_to_join(stream).then_some(speed * times * bound / written);
                account.add(stream, sink, [speed * times * bound, speed], written);
            }
        }
        let sample = |segments_a_cpu_second| Sample { segments_a_cpu_second, received: 1.0 };
        account.add_injected([sample(cut * 1e6), sample(1e6)]);
        account
    }

    fn failed(account: &Account) -> usize {
        assert_eq!(account.claims().len(), 7);
        account.claims().iter().filter(|claim| claim.holds() == Some(false)).count()
    }

    #[test]
    fn each_claim_is_held_against_its_bound() {
        assert_eq!(failed(&account(1.01, 0.5, 3.1)), 0);
        assert_eq!(failed(&account(0.99, 0.91, 3.1)), 4, "a loop of writes is nearly reached");
        assert_eq!(failed(&account(0.99, 0.89, 2.9)), 7);
        assert!(Account::under(Vec::new()).claims().iter().all(|claim| claim.holds().is_none()));
    }

    #[test]
    fn the_text_has_both_tables_and_the_claims() {
        let text = Account { instructions: Some([310.0, 280.5]), ..account(1.01, 0.5, 2.0) }.text();
        for part in ["one flow to bridge and veth, Mpps", "loop of writev", "(+30)", "NO", "must be"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
