//! Tables, names and times for people.

use std::fmt;
use std::time::Duration;

/// A table with a heading, each column as wide as it must be.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    heading: &'static str,
    is_number: bool,
}

impl Table {
    /// A table of words, and behind them of numbers.
    pub(crate) fn new(words: &[&'static str], numbers: &[&'static str]) -> Self {
        let column = |is_number| move |heading: &&'static str| Column { heading, is_number };
        let columns = words.iter().map(column(false)).chain(numbers.iter().map(column(true))).collect();
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings: Vec<String> = self.columns.iter().map(|column| column.heading.into()).collect();
        let rows: Vec<_> = std::iter::once(&headings).chain(&self.rows).collect();
        for row in &rows {
            let mut line = String::new();
            for (at, (column, cell)) in self.columns.iter().zip(row.iter()).enumerate() {
                let width = rows.iter().filter_map(|row| Some(row.get(at)?.chars().count())).max().unwrap_or(0);
                line += &if column.is_number { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Lanes that no front end has used yet, of one device and alike, are one row: its name, and the first of them.
pub(crate) fn fold<T>(
    lanes: &[T],
    id: impl Fn(&T) -> &str,
    is_idle: impl Fn(&T) -> bool,
    are_alike: impl Fn(&T, &T) -> bool,
) -> Vec<(String, &T)> {
    let device = |lane: &T| id(lane).split('/').next().map(str::to_owned);
    lanes
        .chunk_by(|a, b| is_idle(a) && is_idle(b) && device(a) == device(b) && are_alike(a, b))
        .filter_map(|chunk| {
            let (first, last) = (chunk.first()?, chunk.last()?);
            let name = if chunk.len() == 1 { id(first).into() } else { format!("{} to {}", id(first), id(last)) };
            Some((name, first))
        })
        .collect()
}

/// What there is, or a dash.
pub(crate) fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// A time in words, as exact as one wants to read it.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0}ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1}s"),
        s => humantime::format_duration(Duration::from_secs(s as u64)).to_string(),
    }
}

/// What a failure of the command line says, in one line.
pub(crate) fn one_line(error: &str) -> String {
    let what = error.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = what.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(&["QUEUE"], &["PKT/S"]);
        table.row(vec!["nic0/0".into(), "7".into()]);
        table.row(vec!["n/0".into(), "1234567".into()]);
        assert_eq!(table.to_string(), "QUEUE     PKT/S\nnic0/0        7\nn/0     1234567\n");
    }

    #[test]
    fn what_is_idle_and_alike_is_one_row() {
        let lanes = [("a/0", 1), ("a/1", 0), ("a/2", 0), ("a/3", 0), ("b/0", 0), ("b/1", 1), ("b/2", 1)];
        let rows = fold(&lanes, |lane| lane.0, |lane| lane.1 == 0, |a, b| (a.0 == "a/3") == (b.0 == "a/3"));
        let rows: Vec<_> = rows.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(rows, ["a/0", "a/1 to a/2", "a/3", "b/0", "b/1", "b/2"]);
    }

    #[test]
    fn times_are_read_at_a_glance() {
        assert_eq!([0.0, 0.2504, 59.94, 61.5, 7325.0].map(span), ["0ms", "250ms", "59.9s", "1m 1s", "2h 2m 5s"]);
    }

    #[test]
    fn a_failure_is_one_line() {
        let error = "error: invalid value 'x' for '<MODE>'\n  [possible values: a, b]\n\nFor more information, try";
        assert_eq!(one_line(error), "invalid value 'x' for '<MODE>' [possible values: a, b]");
    }
}
