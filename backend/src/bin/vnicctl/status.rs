//! `vnicctl status`: devices, their front ends, queue pairs and what they counted.

use serde_json::Value;

use vnicd::control::{DeviceStatus, PairStatus, Status};

use super::client::{self, Daemon, Error};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the daemon's answer as it came
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    if args.json {
        return client::print_json(&daemon.ask("status", Value::Null)?);
    }
    client::print(&show(&daemon.ask_for("status", Value::Null)?))
}

fn show(status: &Status) -> String {
    let mut text = format!("vnicd {}, process {}\n", status.version, status.pid);
    for device in &status.devices {
        show_device(&mut text, device);
    }
    text
}

/// A paragraph about a device.
pub(super) fn show_device(text: &mut String, device: &DeviceStatus) {
    let front_end = match device.front_end_pid {
        Some(pid) => format!("front end: process {pid}"),
        None => "no front end".into(),
    };
    *text += &format!("\n{}: uplink {}, {} queue pairs, {front_end}\n", device.name, device.uplink, device.queue_pairs);
    if let Some(features) = &device.features {
        *text += &format!("  features: {features}\n");
    }
    show_counters(text, "  ", &device.front_ends);
    for pair in &device.pairs {
        show_pair(text, pair);
    }
}

fn show_pair(text: &mut String, pair: &PairStatus) {
    let ring = |started| if started { "started" } else { "stopped" };
    let mode = format!("{} ({})", pair.mode.mode, pair.mode.reason);
    *text += &format!("  {}: rx {}, tx {}, {mode}\n", pair.id, ring(pair.rx_started), ring(pair.tx_started));
    show_counters(text, "    ", &pair.counters);
}

/// Counts of nothing are left out; --json has them.
fn show_counters(text: &mut String, indent: &str, counters: &Value) {
    let counters = counters.as_object().into_iter().flatten();
    for (name, count) in counters.filter(|(_, count)| count.as_u64() != Some(0)) {
        let width = 26 - indent.len();
        *text += &format!("{indent}{name:<width$} {:>16}\n", count.to_string());
    }
}
