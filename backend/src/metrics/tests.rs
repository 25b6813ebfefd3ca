//! The exposition as another parser reads it, and the documents that name its metrics.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use prometheus_parse::{Sample, Scrape, Value};

use super::expose::expose;
use super::families::FAMILIES;
use super::text::Kind;
use super::views::{DeviceView, LaneView, Spent};
use crate::mode::{Activity, Mode, Policy, Reason, State, Time};
use crate::worker::{Direction, PairCounters, PairGauges, QueueId};

fn state() -> State {
    PairGauges::new(&Policy::default(), Time::default()).read()
}

fn lane(pair: u16, direction: Direction) -> LaneView {
    let id = QueueId::pair("vm1".parse().unwrap(), pair).with(direction);
    LaneView { id, counters: Arc::default(), state: state() }
}

fn device(lanes: Vec<LaneView>) -> DeviceView {
    DeviceView { name: "vm1", front_end_connected: true, link_up: false, front_ends: Arc::default(), lanes }
}

fn parse(text: &str) -> Vec<Sample> {
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap().samples
}

/// The only sample of a metric that has these labels.
fn value(samples: &[Sample], metric: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |sample: &&Sample| {
        sample.metric == metric && labels.iter().all(|(name, value)| sample.labels.get(name) == Some(*value))
    };
    let found: Vec<_> = samples.iter().filter(fits).collect();
    let [sample] = found[..] else { panic!("{} samples of {metric} {labels:?}", found.len()) };
    match sample.value {
        Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n) => n,
        ref other => panic!("{metric} is {other:?}"),
    }
}

#[test]
fn another_parser_reads_what_was_counted() {
    let (mut first, second) = (lane(0, Direction::Both), lane(3, Direction::Rx));
    first.counters.rx_packets.add(7);
    first.counters.tx_dropped_header.add(3);
    first.counters.polls_empty.add(u64::from(u32::MAX));
    second.counters.rx_packets.add(9);
    first.state.mode = Mode::Polling;
    first.state.switches[Reason::Backlog as usize] = 5;
    first.state.polling_ns = 1_500_000_001;
    let samples = parse(&expose(&[device(vec![first, second])]));
    for (metric, labels, expected) in [
        ("vnicd_build_info", &[("version", env!("CARGO_PKG_VERSION"))][..], 1.0),
        ("vnicd_front_end_connected", &[("device", "vm1")], 1.0),
        ("vnicd_link_up", &[("device", "vm1")], 0.0),
        ("vnicd_rx_packets_total", &[("pair", "0")], 7.0),
        ("vnicd_rx_packets_total", &[("pair", "3"), ("direction", "rx")], 9.0),
        ("vnicd_tx_dropped_total", &[("pair", "0"), ("reason", "header")], 3.0),
        ("vnicd_tx_dropped_total", &[("pair", "0"), ("reason", "down")], 0.0),
        ("vnicd_polls_total", &[("pair", "0"), ("found", "nothing")], u32::MAX.into()),
        ("vnicd_mode", &[("pair", "0"), ("mode", "polling")], 1.0),
        ("vnicd_mode", &[("pair", "0"), ("mode", "interrupt")], 0.0),
        ("vnicd_mode", &[("pair", "3"), ("mode", "interrupt")], 1.0),
        ("vnicd_mode_switches_total", &[("pair", "0"), ("reason", "backlog")], 5.0),
        ("vnicd_activity_seconds_total", &[("pair", "0"), ("activity", "polling")], 1.500000001),
    ] {
        assert_eq!(value(&samples, metric, labels), expected, "{metric} {labels:?}");
    }
    let pair = samples.iter().find(|sample| sample.metric == "vnicd_kicks_total").unwrap();
    assert_eq!((pair.labels.get("device"), pair.labels.get("direction")), (Some("vm1"), None));
}

#[test]
fn histograms_are_cumulative() {
    let lane = lane(0, Direction::Both);
    for packets in [1, 2, 3, 4, 64, 1000] {
        lane.counters.burst_packets.count(packets);
    }
    for ns in [0, 127, 128, 255, 256, u64::MAX] {
        lane.counters.service_ns.count(ns);
    }
    let samples = parse(&expose(&[device(vec![lane])]));
    let buckets = |metric: &str| -> Vec<(f64, f64)> {
        let sample = samples.iter().find(|sample| sample.metric == metric).unwrap();
        let Value::Histogram(buckets) = &sample.value else { panic!("{metric} is no histogram") };
        assert!(buckets.is_sorted_by(|a, b| a.less_than < b.less_than && a.count <= b.count), "{buckets:?}");
        buckets.iter().map(|bucket| (bucket.less_than, bucket.count)).collect()
    };
    let inf = f64::INFINITY;
    let bursts = [(1.0, 1.0), (3.0, 3.0), (7.0, 4.0), (15.0, 4.0), (31.0, 4.0), (63.0, 4.0), (inf, 6.0)];
    assert_eq!(buckets("vnicd_burst_packets"), bursts);
    let service = buckets("vnicd_service_seconds");
    assert_eq!(service[..3], [(127e-9, 2.0), (255e-9, 4.0), (511e-9, 5.0)]);
    assert_eq!(service.last(), Some(&(inf, 6.0)));
    assert_eq!(value(&samples, "vnicd_service_seconds_count", &[]), 6.0);
}

#[test]
fn every_family_is_declared_once_and_named_by_the_conventions() {
    let text = expose(&[device(vec![lane(0, Direction::Both), lane(1, Direction::Tx)])]);
    let names: HashSet<_> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), FAMILIES.len(), "a name stands twice");
    for family in FAMILIES {
        for word in ["HELP", "TYPE"] {
            assert_eq!(text.matches(&format!("# {word} {} ", family.name)).count(), 1, "{word} {}", family.name);
        }
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(text.contains(&format!("\n{}", family.name)), "{} has no sample", family.name);
    }
    let mut series = HashSet::new();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    assert!(samples.map(|line| line.rsplit_once(' ').unwrap().0).all(|sample| series.insert(sample)), "twice the same");
}

#[test]
fn every_counter_is_exposed_once() {
    let lane = lane(0, Direction::Both);
    // Whoever adds a counter is asked here whether it is for tests and benchmarks alone, as the last three are.
    let PairCounters {
        rx_packets,
        rx_segments,
        rx_bytes,
        tx_packets,
        tx_segments,
        tx_bytes,
        rx_dropped_offload,
        rx_dropped_too_large,
        tx_dropped_header,
        tx_dropped_mac,
        tx_dropped_ip,
        tx_dropped_vlan,
        tx_held,
        rx_held,
        tx_dropped_down,
        tx_dropped_refused,
        tx_dropped_disabled,
        calls,
        calls_suppressed,
        kicks,
        kicks_suppressed,
        wakeups,
        rounds,
        polls_empty,
        polls_full,
        rings_broken,
        burst_packets: _,
        service_ns: _,
        discarded_bytes_sum: _,
        full_burst_packets: _,
        full_burst_cycles: _,
    } = &*lane.counters;
    let packets = [rx_packets, rx_segments, rx_bytes, tx_packets, tx_segments, tx_bytes];
    let drops = [rx_dropped_offload, rx_dropped_too_large, tx_dropped_header];
    let guarded = [tx_dropped_mac, tx_dropped_ip, tx_dropped_vlan, tx_held, rx_held];
    let more_drops = [tx_dropped_down, tx_dropped_refused, tx_dropped_disabled];
    let rest =
        [calls, calls_suppressed, kicks, kicks_suppressed, wakeups, rounds, polls_empty, polls_full, rings_broken];
    let all: Vec<_> = packets.into_iter().chain(drops).chain(guarded).chain(more_drops).chain(rest).collect();
    let count = all.len();
    for (n, counter) in (1001..).zip(all) {
        counter.add(n);
    }
    let text = expose(&[device(vec![lane])]);
    for n in (1001..).take(count) {
        assert_eq!(text.lines().filter(|line| line.ends_with(&format!(" {n}"))).count(), 1, "{n} in:\n{text}");
    }
}

#[test]
fn time_spent_never_goes_back() {
    let (mut spent, id) = (Spent::default(), lane(0, Direction::Both).id);
    let at = Time::from_nanos;
    let asleep = State { at: at(100), waiting_ns: 100, activity: Activity::Waiting, ..state() };
    assert_eq!(spent.grown(id, asleep, at(1100)).waiting_ns, 1100);
    // It was awake since then.
    let awake = State { at: at(1200), waiting_ns: 400, draining_ns: 800, activity: Activity::Draining, ..state() };
    let shown = spent.grown(id, awake, at(1250));
    assert_eq!((shown.waiting_ns, shown.draining_ns), (1100, 850));
    let asleep = State { at: at(1300), waiting_ns: 400, draining_ns: 900, activity: Activity::Waiting, ..state() };
    assert_eq!(spent.grown(id, asleep, at(2300)).waiting_ns, 1400);
}

/// Names of this daemon's metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("vnicd_")).collect()
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../../configs/grafana-dashboard.json")).unwrap();
    let text = expose(&[device(vec![lane(0, Direction::Both)])]);
    let exposed = named(&text);
    let panels = dashboard["panels"].as_array().unwrap();
    let targets: Vec<_> = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten().collect();
    let mut asked = BTreeSet::new();
    for target in &targets {
        let query = target["expr"].as_str().unwrap();
        assert!(!named(query).is_empty(), "{query}");
        asked.extend(named(query));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        asked.extend(variable["definition"].as_str().map(named).unwrap_or_default());
    }
    let unknown: Vec<_> = asked.difference(&exposed).collect();
    assert!(unknown.is_empty(), "the daemon has no {unknown:?}");
    let ids: HashSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "panels need ids of their own");
}

#[test]
fn the_document_explains_every_metric_and_no_other() {
    let document = named(include_str!("../../../docs/metrics.md"));
    let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
    let parts = |name: &&str| name.strip_suffix("_bucket").or(name.strip_suffix("_count")).unwrap_or(name).to_owned();
    let known: BTreeSet<_> = document.iter().map(parts).collect();
    assert_eq!(known, names.iter().map(|name| (*name).to_owned()).collect());
}
