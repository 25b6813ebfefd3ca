//! `vnicctl mode`: when queues sleep, and when they are looked at all the time.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use vnicd::control::{LaneMode, ModeStatus, Target};

use super::client::{self, Daemon, Error};
use super::text::{Table, fold, span};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show modes, since when and why, and who chooses them
    Show {
        /// Of which queues: all, NIC, NIC/0, NIC/0/rx or NIC/0/tx
        #[arg(default_value_t)]
        target: Target,
        /// Print the daemon's answer as it came
        #[arg(long)]
        json: bool,
    },
    /// Set a mode, for good or for a time
    Set {
        /// Of which queues: all, NIC, NIC/0, NIC/0/rx or NIC/0/tx
        target: Target,
        /// The mode
        #[arg(value_parser = ["interrupt", "polling"])]
        mode: String,
        /// For how long, such as 500ms, 5s or 2m; then what stood before stands again
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, allow_hyphen_values = true)]
        time: Option<Duration>,
    },
    /// Set the other mode than the present one
    Toggle {
        /// Of which queues: all, NIC, NIC/0, NIC/0/rx or NIC/0/tx
        target: Target,
    },
    /// Leave the choice to vnicd, and forget what was set
    Auto {
        /// Of which queues: all, NIC, NIC/0, NIC/0/rx or NIC/0/tx
        target: Target,
    },
}

#[derive(Deserialize)]
struct Modes {
    lanes: Vec<LaneMode>,
}

pub(crate) fn run(daemon: &Daemon, command: Command) -> Result<(), Error> {
    let (method, params) = request(&command);
    let answer = daemon.ask(method, params)?;
    if matches!(command, Command::Show { json: true, .. }) {
        return client::print_json(&answer);
    }
    let Modes { lanes } = serde_json::from_value(answer)?;
    client::print(&show(&lanes))
}

fn request(command: &Command) -> (&'static str, Value) {
    match command {
        Command::Show { target, .. } => ("mode.show", json!({ "target": target })),
        Command::Set { target, mode, time: None } => ("mode.set", json!({ "target": target, "mode": mode })),
        Command::Set { target, mode, time: Some(time) } => {
            ("mode.set", json!({ "target": target, "mode": mode, "for_s": time.as_secs_f64() }))
        }
        Command::Toggle { target } => ("mode.toggle", json!({ "target": target })),
        Command::Auto { target } => ("mode.auto", json!({ "target": target })),
    }
}

fn show(lanes: &[LaneMode]) -> String {
    let mut table = Table::new(&["QUEUE", "MODE", "FOR", "REASON", "SETTING"], &[]);
    let is_idle = |lane: &LaneMode| lane.worker.is_none();
    for (name, lane) in fold(lanes, |lane| &lane.id, is_idle, |a, b| a.mode.setting == b.mode.setting) {
        let ModeStatus { mode, for_s, reason, .. } = &lane.mode;
        let (since, why) =
            if is_idle(lane) { ("-".into(), "no worker yet".into()) } else { (span(*for_s), reason.to_string()) };
        table.row(vec![name, mode.to_string(), since, why, setting(&lane.mode)]);
    }
    table.to_string()
}

fn setting(mode: &ModeStatus) -> String {
    match mode.setting_ends_in_s {
        Some(left) => format!("{} for another {}", mode.setting, span(left)),
        None => mode.setting.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(id: &str, worker: bool, setting: &str, ends_in_s: Option<f64>) -> LaneMode {
        let mode = json!({
            "mode": "polling", "for_s": 3.21, "reason": "backlog", "setting": setting, "setting_ends_in_s": ends_in_s,
            "activity": "polling", "switches": {}, "waiting_s": 0.0, "draining_s": 0.0, "polling_s": 0.0,
            "polling_window_us": 0.0,
        });
        let worker = worker.then(|| id.to_owned());
        LaneMode { id: id.into(), worker, mode: serde_json::from_value(mode).unwrap() }
    }

    #[test]
    fn modes_are_shown_with_their_reasons() {
        let lanes = [
            lane("nic0/0", true, "auto", None),
            lane("nic0/1", true, "polling", Some(4.2)),
            lane("nic0/2", false, "auto", None),
            lane("nic0/3", false, "auto", None),
            lane("nic0/4", false, "polling", None),
        ];
        let expected = "\
QUEUE             MODE     FOR   REASON         SETTING
nic0/0            polling  3.2s  backlog        auto
nic0/1            polling  3.2s  backlog        polling for another 4.2s
nic0/2 to nic0/3  polling  -     no worker yet  auto
nic0/4            polling  -     no worker yet  polling
";
        assert_eq!(show(&lanes), expected);
    }

    #[test]
    fn orders_are_sent_as_they_are_meant() {
        let target: Target = "nic0/1".parse().unwrap();
        let time = Some(humantime::parse_duration("500ms").unwrap());
        let set = Command::Set { target: target.clone(), mode: "polling".into(), time };
        assert_eq!(request(&set), ("mode.set", json!({ "target": "nic0/1", "mode": "polling", "for_s": 0.5 })));
        let set = Command::Set { target, mode: "interrupt".into(), time: None };
        assert_eq!(request(&set), ("mode.set", json!({ "target": "nic0/1", "mode": "interrupt" })));
    }
}
