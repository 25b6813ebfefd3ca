//! Frames of known snapshots, compared as text.

use std::time::{Duration, Instant};

use clap::Parser;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use serde_json::{Value, json};

use super::rates::Snapshot;
use super::view::View;
use super::{Options, Sort, text};

/// A lane at a moment: `n` is its number, `t` the second.
fn lane(n: u64, t: u64) -> Value {
    let polling = n % 2 == 1;
    let packets = t * (1000 << (2 * n.min(6))) * u64::from(n > 0);
    let (mut bursts, mut service) = ([0u64; 8], [0u64; 32]);
    // Sixteen packets a burst, served within 1 to 2 us, and one in fifty within 64 to 128 us.
    bursts[5] = packets / 8;
    service[11] = packets / 8 / 50 * 49;
    service[17] = packets / 8 / 50;
    let mode = json!({
        "mode": if polling { "polling" } else { "interrupt" },
        "for_s": 10.0 * 7f64.powi(n as i32) + t as f64,
        "reason": if polling { "backlog" } else { "initial" },
        "setting": "auto",
        "setting_ends_in_s": null,
        "activity": if polling { "polling" } else { "waiting" },
        "switches": {},
        "waiting_s": 0.75 * t as f64 * f64::from(u8::from(!polling)),
        "draining_s": 0.25 * t as f64 * f64::from(u8::from(!polling)),
        "polling_s": t as f64 * f64::from(u8::from(polling)),
        "polling_window_us": 500.0,
    });
    json!({
        "id": if n == 3 { "a-device-with-a-long-name/31/tx".into() } else { format!("vm{n}/0") },
        "rx_started": true,
        "tx_started": true,
        "worker": "w",
        "cpu": null,
        "mode": mode,
        "counters": {
            "rx_packets": packets, "rx_bytes": packets * 1500, "tx_packets": packets, "tx_bytes": packets * 64,
            "kicks": 10 * t, "kicks_suppressed": packets / 16, "calls": packets / 2, "calls_suppressed": packets / 4,
            "rx_dropped_too_large": if n == 2 { 3 * t } else { 0 }, "tx_dropped_down": if n == 2 { t } else { 0 },
            "burst_packets": bursts, "service_ns": service,
        },
    })
}

fn snapshot(lanes: u64, t: u64, start: Instant) -> Snapshot {
    let device = json!({
        "name": "vm", "uplink": "tap vm", "front_end_pid": 7, "features": null, "queue_pairs": 32,
        "pairs": (0..lanes).map(|n| lane(n, t)).collect::<Vec<_>>(),
    });
    let status = json!({ "version": "1.2.3", "pid": 4711, "devices": [device] });
    Snapshot { at: start + Duration::from_secs(t), status: serde_json::from_value(status).unwrap() }
}

/// What a screen of this size shows of the second from 100 to 101.
fn screen(width: u16, height: u16, lanes: u64, options: impl Fn(&mut View<'_>)) -> Terminal<TestBackend> {
    let start = Instant::now();
    let (before, now) = (snapshot(lanes, 100, start), snapshot(lanes, 101, start));
    let mut view = View::new(Some(&before), &now, Sort::Name);
    options(&mut view);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| frame.render_widget(&view, frame.area())).unwrap();
    terminal
}

fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = terminal.backend().buffer();
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    buffer.content.chunks(buffer.area.width.into()).map(|cells| line(cells).trim_end().to_owned()).collect()
}

fn assert_shows(terminal: &Terminal<TestBackend>, fixture: &str) {
    let (shown, expected) = (lines(terminal), fixture.lines().collect::<Vec<_>>());
    assert!(shown == expected, "shown:\n{}\n\nexpected:\n{fixture}", shown.join("\n"));
}

#[test]
fn a_narrow_screen_has_two_lines_a_lane() {
    assert_shows(&screen(80, 24, 4, |_| {}), include_str!("fixtures/80x24.txt"));
}

#[test]
fn a_wide_screen_has_one_line_a_lane() {
    assert_shows(&screen(200, 50, 4, |_| {}), include_str!("fixtures/200x50.txt"));
}

#[test]
fn more_lanes_than_fit_can_be_scrolled() {
    let at = |scrolled| {
        let terminal = screen(80, 24, 12, |view| view.scrolled = scrolled);
        let names = lines(&terminal).into_iter().filter(|line| line.starts_with("vm") && line.contains("/0"));
        names.map(|line| line[..4].trim_end_matches('/').to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(at(0).first().map(String::as_str), Some("vm0"));
    assert_eq!((at(4).first().map(String::as_str), at(4).len()), (Some("vm4"), 8));
    // Not past the last one, which is still shown.
    assert_eq!(at(99), at(3));
    assert!(at(99).iter().any(|name| name == "vm11"));
}

#[test]
fn lanes_are_sorted_by_what_is_asked_for() {
    let start = Instant::now();
    let (before, now) = (snapshot(4, 100, start), snapshot(4, 101, start));
    for (sort, first) in [(Sort::Name, "vm0/0"), (Sort::Packets, "…name/31/tx"), (Sort::Drops, "vm2/0")] {
        let text = text(&View::new(Some(&before), &now, sort));
        let row = text.lines().nth(2).unwrap();
        let name = row.split_whitespace().next().unwrap();
        assert!(name.ends_with(first.trim_start_matches('…')), "{sort:?}: {row}");
    }
}

#[test]
fn a_daemon_that_went_away_is_said_so_above_what_was_seen_last() {
    let terminal = screen(80, 24, 1, |view| view.failure = Some("no vnicd answers"));
    let lines = lines(&terminal);
    assert_eq!(lines[0], "no vnicd answers");
    assert!(lines[3].starts_with("vm0/0"), "{lines:?}");
}

#[test]
fn colours_say_nothing_that_words_do_not() {
    let (plain, coloured) = (screen(80, 24, 4, |_| {}), screen(80, 24, 4, |view| view.colours = true));
    assert_eq!(lines(&plain), lines(&coloured));
    let colours = |terminal: &Terminal<TestBackend>, colour| {
        terminal.backend().buffer().content.iter().filter(|cell| cell.fg == colour).count()
    };
    let word = "polling".len() * 2;
    assert!(colours(&coloured, Color::Yellow) >= word && colours(&coloured, Color::Green) >= word);
    assert_eq!(colours(&plain, Color::Reset), 80 * 24);
}

#[test]
fn what_is_not_known_yet_is_not_shown_as_nothing() {
    let start = Instant::now();
    let (before, now) = (snapshot(2, 100, start), snapshot(2, 101, start));
    let cells = |text: String| text.lines().nth(3).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let unknown = cells(text(&View::new(None, &now, Sort::Name)));
    assert_eq!(unknown[..5], ["vm1/0", "polling", "backlog", "2m51s", "-"]);
    assert!(unknown[4..].iter().all(|cell| cell == "-"), "{unknown:?}");
    // Another process began to count from nothing.
    let mut other = before;
    other.status.pid = 1;
    assert_eq!(cells(text(&View::new(Some(&other), &now, Sort::Name))), unknown);
    // A lane that was not there began at nothing.
    let none = snapshot(0, 100, start);
    assert_eq!(cells(text(&View::new(Some(&none), &now, Sort::Name)))[9], "404k", "all packets in one second");
}

#[test]
fn small_screens_and_no_lanes_do_no_harm() {
    for (width, height) in [(0, 0), (1, 1), (10, 3), (79, 6), (80, 7), (157, 5), (300, 2)] {
        for lanes in [0, 1, 40] {
            screen(width, height, lanes.min(20), |view| view.scrolled = 5);
        }
    }
    assert!(lines(&screen(80, 24, 0, |_| {}))[3].starts_with("all           0 poll"));
}

#[test]
fn intervals_are_sensible() {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }
    for (text, good) in [("0.1", true), ("3600", true), ("0", false), ("-1", false), ("nan", false), ("x", false)] {
        assert_eq!(Cli::try_parse_from(["top", &format!("--interval={text}")]).is_ok(), good, "{text}");
    }
}
