//! `vnicctl stats`: what queues counted, or at which rate they count.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use vnicd::control::{LaneStats, Stats, Target};

use super::client::{self, Daemon, Error};
use super::text::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of which queues: all, NIC, NIC/0, NIC/0/rx or NIC/0/tx
    #[arg(default_value_t)]
    target: Target,
    /// Print JSON: the daemon's answer as it came, or with --watch an object a line with every count per second
    #[arg(long)]
    json: bool,
    /// Print rates every so many seconds, 1 unless said, until it is interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    watch: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is no number of seconds"))?;
    let is_sensible = (0.01..=86_400.0).contains(&seconds);
    if is_sensible { Ok(Duration::from_secs_f64(seconds)) } else { Err("0.01 to 86400 seconds".into()) }
}

pub(crate) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let params = json!({ "target": args.target });
    let Some(interval) = args.watch else {
        let answer = daemon.ask("stats", params)?;
        if args.json {
            return client::print_json(&answer);
        }
        return client::print(&counts(&serde_json::from_value(answer)?, &args.target));
    };
    let mut before: Stats = daemon.ask_for("stats", params.clone())?;
    loop {
        std::thread::sleep(interval);
        let now: Stats = daemon.ask_for("stats", params.clone())?;
        let rates = Rates::between(&before, &now);
        if args.json {
            client::print(&(serde_json::to_string(&rates)? + "\n"))?;
        } else {
            client::print(&rates.show())?;
        }
        before = now;
    }
}

fn counts(stats: &Stats, target: &Target) -> String {
    if stats.lanes.is_empty() {
        return format!("nothing is counted yet: no guest has used a queue of '{target}'\n");
    }
    let mut text = String::new();
    for LaneStats { id, mode, counters } in &stats.lanes {
        text += &format!("{id}: {}\n", mode.mode);
        // Counts of nothing are left out; --json has them.
        for (name, count) in counters.iter().filter(|(_, count)| count.as_u64() != Some(0)) {
            text += &format!("  {name:<22} {:>16}\n", count.to_string());
        }
    }
    text
}

/// What was counted a second, between two readings.
#[derive(Debug, Serialize)]
struct Rates {
    at_s: f64,
    lanes: Vec<LaneRates>,
}

#[derive(Debug, Serialize)]
struct LaneRates {
    id: String,
    mode: String,
    per_second: Map<String, Value>,
}

impl Rates {
    fn between(before: &Stats, now: &Stats) -> Self {
        let time_s = now.at_s - before.at_s;
        let lane = |lane: &LaneStats| {
            let counted = before.lanes.iter().find(|old| old.id == lane.id).map(|old| &old.counters);
            let rate = |(name, count): (&String, &Value)| {
                let old = counted.and_then(|counted| counted.get(name)?.as_u64()).unwrap_or(0);
                let rate = count.as_u64()?.saturating_sub(old) as f64 / time_s;
                Some((name.clone(), json!(if rate.is_finite() { rate } else { 0.0 })))
            };
            let per_second = lane.counters.iter().filter_map(rate).collect();
            LaneRates { id: lane.id.clone(), mode: lane.mode.mode.to_string(), per_second }
        };
        Self { at_s: now.at_s, lanes: now.lanes.iter().map(lane).collect() }
    }

    fn show(&self) -> String {
        let numbers = ["RX PKT/S", "RX MBIT/S", "TX PKT/S", "TX MBIT/S", "KICKS/S", "CALLS/S", "DROPS/S"];
        let mut table = Table::new(&["QUEUE", "MODE"], &numbers);
        let mut drops = String::new();
        for lane in &self.lanes {
            let rate = |name: &str| lane.per_second.get(name).and_then(Value::as_f64).unwrap_or(0.0);
            let mbit = |name: &str| format!("{:.1}", rate(name) * 8.0 / 1e6);
            let whole = |name: &str| format!("{:.0}", rate(name));
            let dropped = |name: &&String| name.contains("_dropped_") && rate(name) > 0.0;
            let reasons: Vec<_> = lane.per_second.keys().filter(dropped).collect();
            let sum = reasons.iter().fold(0.0, |sum, name| sum + rate(name));
            let (id, mode) = (lane.id.clone(), lane.mode.clone());
            let (rx, tx) = ([whole("rx_segments"), mbit("rx_bytes")], [whole("tx_segments"), mbit("tx_bytes")]);
            let cells = [id, mode].into_iter().chain(rx).chain(tx);
            table.row(cells.chain([whole("kicks"), whole("calls"), format!("{sum:.0}")]).collect());
            for name in reasons {
                drops += &format!("  {}: {name} {}/s\n", lane.id, whole(name));
            }
        }
        format!("{table}{drops}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(at_s: f64, counters: Value) -> Stats {
        let mode = json!({
            "mode": "polling", "for_s": 3.2, "reason": "backlog", "setting": "auto", "setting_ends_in_s": null,
            "activity": "polling", "switches": {}, "waiting_s": 0.0, "draining_s": 0.0, "polling_s": 0.0,
            "polling_window_us": 0.0,
        });
        let lanes = json!([{ "id": "nic0/0", "mode": mode, "counters": counters }]);
        serde_json::from_value(json!({ "at_s": at_s, "lanes": lanes })).unwrap()
    }

    #[test]
    fn rates_are_counts_by_time() {
        let before = stats(10.0, json!({ "rx_segments": 100, "tx_dropped_header": 5, "burst_packets": [1, 2] }));
        let now = stats(
            12.0,
            json!({
                "rx_segments": 4100, "rx_bytes": 500_000, "kicks": 30, "tx_dropped_header": 25, "burst_packets": [3, 4],
            }),
        );
        let rates = Rates::between(&before, &now);
        assert_eq!(rates.lanes[0].per_second["rx_segments"], 2000.0);
        let text = rates.show();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["nic0/0", "polling", "2000", "2.0", "0", "0.0", "15", "0", "10"]);
        assert_eq!(lines[2], ["nic0/0:", "tx_dropped_header", "10/s"]);
        let idle = Rates::between(&now, &now).show();
        assert!(idle.lines().nth(1).is_some_and(|line| line.ends_with(" 0")), "{idle}");
        // Neither a daemon that was started anew nor no time at all makes nonsense.
        let again = Rates::between(&now, &stats(12.0, json!({ "rx_segments": 7 })));
        assert_eq!(again.lanes[0].per_second["rx_segments"], 0.0);
    }

    #[test]
    fn counts_of_nothing_are_left_out() {
        let text = counts(&stats(1.0, json!({ "kicks": 3, "calls": 0 })), &Target::All);
        assert!(text.starts_with("nic0/0: polling\n  kicks ") && !text.contains("calls"), "{text}");
        let nothing = Stats { at_s: 1.0, lanes: Vec::new() };
        assert_eq!(counts(&nothing, &Target::All), "nothing is counted yet: no guest has used a queue of 'all'\n");
    }
}
