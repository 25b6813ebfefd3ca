//! The result of a bench, and its two readable forms: a table for people, JSON for programs. ([`crate::plot`] draws it.)

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::stats::{Summary, ratios};

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Throughput.
    Higher,
    /// Time, memory, work.
    Lower,
}

/// One quantity, measured on both subjects in turn.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// The first subject's values, run by run.
    pub ours: Vec<f64>,
    /// The second subject's values, run by run.
    pub theirs: Vec<f64>,
}

/// One quantity of the first subject alone.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The values, run by run.
    pub values: Vec<f64>,
}

/// What a bench found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was compared, in a line.
    pub title: String,
    /// The names of both subjects, ours first.
    pub subjects: [String; 2],
    /// Under which conditions: names and values.
    pub conditions: Vec<(String, String)>,
    /// What was measured on both.
    pub comparisons: Vec<Comparison>,
    /// What was measured on the first alone.
    pub figures: Vec<Figure>,
}

impl Report {
    /// Adds a value of a quantity, which is made at the first one. `subject` is 0 or 1.
    pub fn add(&mut self, subject: usize, name: &str, unit: &str, better: Better, value: f64) {
        let at = self.comparisons.iter().position(|known| known.name == name).unwrap_or_else(|| {
            let (name, unit) = (name.into(), unit.into());
            self.comparisons.push(Comparison { name, unit, better, ours: Vec::new(), theirs: Vec::new() });
            self.comparisons.len() - 1
        });
        let comparison = &mut self.comparisons[at];
        if subject == 0 { comparison.ours.push(value) } else { comparison.theirs.push(value) }
    }

    /// Adds what neighbouring runs told of a quantity, ours first. What the first subject told alone is a figure; what
    /// the second told alone is left out, so that neighbours stay neighbours.
    pub fn add_pair(&mut self, name: &str, unit: &str, better: Better, values: [Option<f64>; 2]) {
        match values {
            [Some(ours), Some(theirs)] => {
                self.add(0, name, unit, better, ours);
                self.add(1, name, unit, better, theirs);
            }
            [Some(ours), None] => self.add_figure(name, unit, ours),
            [None, _] => {}
        }
    }

    /// Adds a value of the first subject alone.
    pub fn add_figure(&mut self, name: &str, unit: &str, value: f64) {
        match self.figures.iter_mut().find(|known| known.name == name) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure { name: name.into(), unit: unit.into(), values: vec![value] }),
        }
    }

    /// The median of a quantity's ratios of neighbours, if it was measured.
    #[must_use]
    pub fn ratio(&self, name: &str) -> Option<f64> {
        let Comparison { ours, theirs, .. } = self.comparisons.iter().find(|known| known.name == name)?;
        Some(Summary::of(&ratios(ours, theirs))?.median)
    }

    /// The table: median (min to max) of each quantity, and the median of the ratios of neighbours.
    pub fn table(&self) -> String {
        let mut table = format!("{}\n", self.title);
        for (name, value) in &self.conditions {
            let _ = writeln!(table, "  {name}: {value}");
        }
        table.push_str("  each cell: median (min to max); ratios are of neighbouring runs\n\n");
        table + &columns(&self.rows())
    }

    /// The same in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}. Each cell: median (min to max); ratios are of neighbouring runs.\n\n", self.title);
        for (number, row) in self.rows().iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if number == 0 {
                text.push_str("|--|--:|--:|--:|\n");
            }
        }
        text.push('\n');
        for (name, value) in &self.conditions {
            let _ = writeln!(text, "- {name}: {value}");
        }
        text
    }

    fn rows(&self) -> Vec<[String; 4]> {
        let [ours, theirs] = &self.subjects;
        let mut rows = vec![[String::new(), ours.clone(), theirs.clone(), format!("{ours} / {theirs}")]];
        for comparison in &self.comparisons {
            let Comparison { name, unit, better, ours, theirs } = comparison;
            let ratio = Summary::of(&ratios(ours, theirs)).map(|s| cell(&s, 2)).unwrap_or_default();
            let better = match better {
                Better::Higher => "",
                Better::Lower => ", lower is better",
            };
            rows.push([format!("{name}, {unit}{better}"), values(ours), values(theirs), ratio]);
        }
        for Figure { name, unit, values: sample } in &self.figures {
            rows.push([format!("{name}, {unit}"), values(sample), String::new(), String::new()]);
        }
        rows
    }

    /// The same with every single value, for programs.
    pub fn json(&self) -> serde_json::Value {
        let sample = |sample: &[f64]| serde_json::json!({ "values": sample, "summary": Summary::of(sample) });
        let comparisons = self.comparisons.iter().map(|c| {
            serde_json::json!({
                "name": c.name, "unit": c.unit, "better": c.better,
                "ours": sample(&c.ours), "theirs": sample(&c.theirs), "ratios": sample(&ratios(&c.ours, &c.theirs)),
            })
        });
        let figures = self.figures.iter().map(|figure| {
            let mut value = sample(&figure.values);
            value["name"] = figure.name.as_str().into();
            value["unit"] = figure.unit.as_str().into();
            value
        });
        let conditions: serde_json::Map<_, _> =
            self.conditions.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        serde_json::json!({
            "title": self.title,
            "subjects": { "ours": self.subjects[0], "theirs": self.subjects[1] },
            "conditions": conditions,
            "comparisons": comparisons.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
        })
    }

    /// Writes `NAME.txt`, `NAME.json` and `NAME.svg` into a directory, which is made if need be.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        self.save_text(dir, name)?;
        crate::plot::runs(self, &dir.join(format!("{name}.svg")))
    }

    /// Writes `NAME.txt` and `NAME.json` alone.
    pub fn save_text(&self, dir: &Path, name: &str) -> Result<()> {
        let write = || {
            fs::create_dir_all(dir)?;
            fs::write(dir.join(format!("{name}.txt")), self.table())?;
            fs::write(dir.join(format!("{name}.json")), format!("{:#}\n", self.json()))
        };
        write().with_context(|| format!("cannot write into {}", dir.display()))
    }
}

fn values(sample: &[f64]) -> String {
    // As many digits as say something.
    let digits = match Summary::of(sample) {
        _ if sample.iter().all(|value| value.fract() == 0.0) => 0,
        Some(summary) if summary.max >= 100.0 => 0,
        Some(summary) if summary.max >= 10.0 => 1,
        _ => 2,
    };
    Summary::of(sample).map(|summary| cell(&summary, digits)).unwrap_or_default()
}

fn cell(summary: &Summary, digits: usize) -> String {
    let Summary { median, min, max } = summary;
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

/// Lines up the cells; the first column to the left, the others to the right, a rule below the first row.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            let _ = write!(line, "  {cell:>width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
        if number == 0 {
            let _ = writeln!(text, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (N - 1)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report { subjects: ["new".into(), "old".into()], ..Report::default() };
        for (ours, theirs) in [(200.0, 100.0), (330.0, 110.0), (90.0, 90.0)] {
            report.add(0, "speed", "m/s", Better::Higher, ours);
            report.add(1, "speed", "m/s", Better::Higher, theirs);
        }
        report.add_figure("memory", "MiB", 2.5);
        report
    }

    #[test]
    fn the_table_shows_medians_spread_and_ratios() {
        let table = report().table();
        let line = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        let speed: Vec<_> = line("speed").split("  ").filter(|c| !c.is_empty()).map(|c| c.trim().to_owned()).collect();
        assert_eq!(speed, ["speed, m/s", "200 (90 to 330)", "100 (90 to 110)", "2.00 (1.00 to 3.00)"]);
        assert!(line("memory").ends_with("2.50 (2.50 to 2.50)"));
    }

    #[test]
    fn markdown_has_the_rows_of_the_table() {
        let markdown = report().markdown();
        let lines: Vec<&str> = markdown.lines().skip(2).collect();
        assert_eq!(lines[..2], ["|  | new | old | new / old |", "|--|--:|--:|--:|"]);
        assert_eq!(lines[2], "| speed, m/s | 200 (90 to 330) | 100 (90 to 110) | 2.00 (1.00 to 3.00) |");
        assert_eq!(lines[3], "| memory, MiB | 2.50 (2.50 to 2.50) |  |  |");
    }

    #[test]
    fn what_one_subject_alone_tells_is_no_comparison() {
        let mut report = report();
        for (ours, theirs) in [(Some(10.0), Some(5.0)), (Some(70.0), None), (None, Some(9.0)), (Some(30.0), Some(10.0))]
        {
            report.add_pair("work", "cycles", Better::Lower, [ours, theirs]);
        }
        let work = &report.comparisons[1];
        assert_eq!((&work.ours[..], &work.theirs[..]), (&[10.0, 30.0][..], &[5.0, 10.0][..]));
        assert_eq!((&*report.figures[1].name, &report.figures[1].values[..]), ("work", &[70.0][..]));
    }

    #[test]
    fn json_has_every_value() {
        let json = report().json();
        assert_eq!(json["comparisons"][0]["ours"]["values"][1], 330.0);
        assert_eq!(json["comparisons"][0]["ratios"]["summary"]["median"], 2.0);
        assert_eq!(json["figures"][0]["name"], "memory");
    }
}
