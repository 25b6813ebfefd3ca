//! What was found, told: a table for people, JSON for programs, curves for both.

#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::claims;
use super::full::Full;
use super::points::{Point, Points, Sample};
use super::quiet::Quiet;
use super::subject::Subject;
use crate::claim::{self, Claim};
use crate::curves::{Curve, Panel};
use crate::loadgen::Pattern;
use crate::report::columns;
use crate::stats::Summary;

/// Everything that a run of the bench found.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Under which conditions: names and values.
    pub conditions: Vec<(String, String)>,
    /// Packets a second of polling mode at full load, the best of some turns.
    pub max_pps: f64,
    /// Loads.
    pub points: Points,
    /// Silence.
    pub quiet: Quiet,
    /// Full load.
    pub full: Full,
}

impl Account {
    /// What it is, in a line.
    pub const TITLE: &str = "vnicd's modes and testpmd's vhost PMD in loopback under the same client, one core each";

    /// What `auto` must show.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        claims::all(&self.points, &self.quiet, &self.full)
    }

    /// All tables, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", Self::TITLE);
        for (name, value) in &self.conditions {
            text += &format!("  {name}: {value}\n");
        }
        if self.points.iter().next().is_some() {
            text += &format!(
                "\nmedians of all turns; p99 of a slice: of the slice in the middle, of slices of 50 ms by their p99, which is what is compared;\nof the p99, the client's own lateness\n\n{}",
                columns(&self.loads())
            );
        }
        let silence = self.silence();
        if silence.len() > 1 {
            text += "\nsilence: a client that is connected and sends nothing or single packets\n\n";
            text += &columns(&silence);
        }
        text + &format!("\n{}", claim::table("what auto must show", &self.claims()))
    }

    fn loads(&self) -> Vec<[String; 12]> {
        let header = [
            "",
            "packets/s",
            "p50 us",
            "p99 us",
            "of a slice",
            "client's in it",
            "p99.9 us",
            "CPU %",
            "kicks/packet",
            "calls/packet",
            "lost",
            "client's stalls",
        ];
        let mut rows = vec![header.map(String::from)];
        for point in self.points.iter() {
            for subject in Subject::ALL {
                let cell = |digits: usize, value: fn(&Sample) -> f64| {
                    let median = self.points.median(point, subject, value);
                    median.map_or("-".into(), |median| format!("{median:.digits$}"))
                };
                let tails: Vec<f64> =
                    self.points.turns(point, subject).iter().filter_map(|sample| sample.p99_9_us).collect();
                let tail = Summary::of(&tails).map_or("-".into(), |tail| format!("{:.1}", tail.median));
                rows.push([
                    format!("{point}, {subject}"),
                    cell(0, |s| s.pps),
                    cell(1, |s| s.p50_us),
                    cell(1, |s| s.p99_us),
                    cell(1, Sample::tail_us),
                    cell(1, |s| s.lateness_p99_us),
                    tail,
                    cell(2, |s| 100.0 * s.cpu),
                    cell(4, |s| s.kicks),
                    cell(4, |s| s.calls),
                    cell(0, |s| s.lost),
                    cell(0, |s| s.stalls),
                ]);
            }
        }
        rows
    }

    fn silence(&self) -> Vec<[String; 6]> {
        let header = ["", "wake-ups", "rounds", "sleeps of all threads", "CPU ms", "first packet's p50 us"];
        let mut rows = vec![header.map(String::from)];
        for subject in Subject::DAEMONS {
            let (idle, first) = (self.quiet.idle_of(subject), self.quiet.first_packet_us(subject));
            if idle.is_none() && first.is_none() {
                continue;
            }
            let count = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
            let time = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
            let name = idle.map_or(subject.to_string(), |idle| format!("{subject}, {} s", idle.seconds));
            rows.push([
                name,
                count(idle.map(|idle| idle.wakeups)),
                count(idle.map(|idle| idle.rounds)),
                count(idle.map(|idle| idle.switches)),
                time(idle.map(|idle| idle.cpu_ms)),
                time(first),
            ]);
        }
        rows
    }

    /// The same with every turn, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let conditions: serde_json::Map<_, _> =
            self.conditions.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let point = |point: Point| {
            let turns = |subject: Subject| (subject.name().to_owned(), json!(self.points.turns(point, subject)));
            let subjects: serde_json::Map<_, _> = Subject::ALL.into_iter().map(turns).collect();
            json!({ "pattern": point.pattern.to_string(), "load": point.load.to_string(), "turns": subjects })
        };
        json!({
            "title": Self::TITLE,
            "conditions": conditions,
            "max_pps": self.max_pps,
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
            "silence": self.quiet.json(),
            "full_load_of_auto": self.full.json(),
            "auto_must_show": self.claims().iter().map(Claim::json).collect::<Vec<_>>(),
        })
    }

    /// Latency and CPU time by load, a panel each for every pattern.
    #[must_use]
    pub fn panels(&self) -> Vec<Panel> {
        self.points.patterns().into_iter().flat_map(|pattern| [self.latency(pattern), self.cpu(pattern)]).collect()
    }

    fn latency(&self, pattern: Pattern) -> Panel {
        let curves = Subject::ALL.into_iter().flat_map(|subject| {
            let p50 = self.curve(pattern, subject, format!("{subject} p50"), |s| s.p50_us);
            let p99 = self.curve(pattern, subject, format!("{subject} p99"), Sample::tail_us);
            [p50, Curve { aside: true, ..p99 }]
        });
        Panel {
            title: format!("{pattern}: from due until the packet came back"),
            units: ["packets/s, achieved".into(), "us".into()],
            curves: curves.collect(),
        }
    }

    fn cpu(&self, pattern: Pattern) -> Panel {
        let curve = |subject| self.curve(pattern, subject, format!("{subject} CPU"), |s| 100.0 * s.cpu);
        Panel {
            title: format!("{pattern}: the back end's CPU time"),
            units: ["packets/s, achieved".into(), "% of a CPU".into()],
            curves: Subject::ALL.map(curve).into(),
        }
    }

    fn curve(&self, pattern: Pattern, subject: Subject, name: String, value: fn(&Sample) -> f64) -> Curve {
        let median = |point, value: fn(&Sample) -> f64| self.points.median(point, subject, value);
        let points = self.points.iter().filter(|point| point.pattern == pattern);
        let points = points.filter_map(|point| Some((median(point, |s| s.pps)?, median(point, value)?)));
        Curve { name, subject: subject as usize, aside: false, points: points.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modes::Load;

    fn account() -> Account {
        let mut account = Account { max_pps: 1e6, ..Account::default() };
        account.conditions.push(("machine".into(), "a small one".into()));
        for (load, pps) in [(Load::Pps(1000.0), 1e3), (Load::Full, 1e6)] {
            for subject in [Subject::Interrupt, Subject::Polling, Subject::Auto] {
                let tail = (load == Load::Full).then_some(90.5);
                let sample = Sample {
                    pps,
                    p50_us: 8.0,
                    p99_us: 21.5,
                    slice_p99_us: Some(20.5),
                    lateness_p99_us: 3.5,
                    p99_9_us: tail,
                    cpu: 0.125,
                    ..Sample::default()
                };
                account.points.add(Point { pattern: Pattern::Poisson, load }, subject, sample);
            }
        }
        account
    }

    #[test]
    fn tables_have_a_row_a_subject_and_a_row_a_claim() {
        let text = account().text();
        let cells = |start: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            line.split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
        };
        let row =
            ["poisson 1k, auto", "1000", "8.0", "21.5", "20.5", "3.5", "-", "12.50", "0.0000", "0.0000", "0", "0"];
        assert_eq!(cells("poisson 1k, auto"), row);
        assert_eq!(cells("poisson full, polling")[6], "90.5");
        assert_eq!(cells("poisson full, testpmd")[1..], ["-"; 11]);
        assert_eq!(cells("poisson full: p99"), ["poisson full: p99, auto / polling", "1.000", "<= 1.1", "yes"]);
        assert_eq!(cells("idle: rounds")[1..], ["-", "<= 0", "not measured"]);
        assert!(text.contains("machine: a small one") && !text.contains("silence:"));
    }

    #[test]
    fn json_and_curves_have_every_point() {
        let account = account();
        let json = account.json();
        assert_eq!(json["points"][1]["turns"]["auto"][0]["p99_9_us"], 90.5);
        assert_eq!(json["auto_must_show"][0]["holds"], true);
        let panels = account.panels();
        assert_eq!((panels.len(), panels[0].curves.len(), panels[1].curves.len()), (2, 8, 4));
        assert_eq!(panels[0].curves[5].points, [(1e3, 20.5), (1e6, 20.5)]);
        assert!(panels[0].curves[5].aside && panels[0].curves[5].name == "auto p99");
        assert_eq!(panels[1].curves[2].points[0], (1e3, 12.5));
    }
}
