//! The columns: two lines a lane where the screen is narrow, one where it is wide.

use ratatui::style::{Color, Modifier, Style};

use vnicd::control::{ModeStatus, PairStatus};
use vnicd::mode::Mode;

use super::figures::{age, amount, latency, percent};
use super::rates::Rates;

/// What a line of the table is about.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    /// None for the totals.
    pub(super) lane: Option<&'a PairStatus>,
    pub(super) rates: &'a Rates,
    /// Number of lanes that poll, for the totals.
    pub(super) polling: usize,
}

/// A column.
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) width: u16,
    /// Text stands at the left, numbers at the right.
    pub(super) left: bool,
    pub(super) cell: fn(&Row<'_>) -> String,
    /// How it looks where there are colours.
    pub(super) style: fn(&Row<'_>) -> Style,
}

const fn number(head: &'static str, width: u16, cell: fn(&Row<'_>) -> String) -> Column {
    Column { head, width, left: false, cell, style: |_| Style::new() }
}

const fn text(head: &'static str, width: u16, cell: fn(&Row<'_>) -> String) -> Column {
    Column { head, width, left: true, cell, style: |_| Style::new() }
}

/// The first line: names, modes and where the time goes.
pub(super) const MODES: &[Column] = &[
    text("LANE", 13, |row| tail(row.name, 13)),
    Column { style: mode_style, ..text("MODE", 9, mode) },
    text("REASON", 14, |row| shown(row, |mode| mode.reason.to_string())),
    number("FOR", 6, |row| shown(row, |mode| age(mode.for_s))),
    number("WAIT%", 5, |row| percent(row.rates.waiting)),
    number("DRAIN%", 6, |row| percent(row.rates.draining)),
    number("POLL%", 5, |row| percent(row.rates.polling)),
    number("BURST", 6, |row| amount(row.rates.mean_burst())),
    Column { style: drops_style, ..number("DROP/s", 6, |row| amount(row.rates.drops)) },
];

/// The second line: what is moved, and at what price.
pub(super) const TRAFFIC: &[Column] = &[
    number("RX pps", 7, |row| amount(row.rates.rx_packets)),
    number("RX Mb/s", 7, |row| amount(row.rates.rx_bits / 1e6)),
    number("TX pps", 7, |row| amount(row.rates.tx_packets)),
    number("TX Mb/s", 7, |row| amount(row.rates.tx_bits / 1e6)),
    number("KICK/s", 7, |row| amount(row.rates.kicks)),
    number("saved", 6, |row| amount(row.rates.kicks_suppressed)),
    number("CALL/s", 7, |row| amount(row.rates.calls)),
    number("saved", 6, |row| amount(row.rates.calls_suppressed)),
    number("p50", 6, |row| latency(row.rates.service_s(0.5))),
    number("p99", 6, |row| latency(row.rates.service_s(0.99))),
];

/// How wide these columns are with a space between them.
pub(super) fn width(columns: &[Column]) -> u16 {
    columns.iter().map(|column| column.width + 1).sum::<u16>().saturating_sub(1)
}

fn mode(row: &Row<'_>) -> String {
    match row.lane {
        Some(lane) => lane.mode.mode.to_string(),
        None => format!("{} poll", row.polling),
    }
}

fn shown(row: &Row<'_>, show: impl FnOnce(&ModeStatus) -> String) -> String {
    row.lane.map_or(String::new(), |lane| show(&lane.mode))
}

fn mode_style(row: &Row<'_>) -> Style {
    match row.lane.map(|lane| lane.mode.mode) {
        Some(Mode::Polling) => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
        Some(Mode::Interrupt) => Style::new().fg(Color::Green),
        None => Style::new(),
    }
}

fn drops_style(row: &Row<'_>) -> Style {
    if row.rates.drops > 0.0 { Style::new().fg(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() }
}

/// The last characters of a name, which tell more than the first.
fn tail(name: &str, width: usize) -> String {
    match name.char_indices().rev().nth(width - 2) {
        Some((at, _)) if name.chars().count() > width => format!("…{}", &name[at..]),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(tail("nic0/0/rx", 13), "nic0/0/rx");
        assert_eq!(tail("thirteen-ch/0", 13), "thirteen-ch/0");
        assert_eq!(tail("a-long-device-name/31/tx", 13), "…e-name/31/tx");
    }
}
