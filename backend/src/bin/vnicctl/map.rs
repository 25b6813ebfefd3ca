//! `vnicctl map`: which worker, CPU, rings and uplink queue each queue has.

use serde::Deserialize;
use serde_json::Value;

use vnicd::control::MapEntry;

use super::client::{self, Daemon, Error};
use super::text::{Table, fold, or_dash};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the daemon's answer as it came
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Map {
    queues: Vec<MapEntry>,
}

pub(crate) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    if args.json {
        return client::print_json(&daemon.ask("map", Value::Null)?);
    }
    let Map { queues } = daemon.ask_for("map", Value::Null)?;
    client::print(&show(&queues))
}

fn show(queues: &[MapEntry]) -> String {
    let headings = ["QUEUE", "WORKER", "THREAD", "CPU", "RX RING", "TX RING", "UPLINK", "UPLINK QUEUE", "FRONT END"];
    let mut table = Table::new(&headings, &[]);
    let is_idle = |entry: &MapEntry| entry.worker.is_none();
    for (name, entry) in fold(queues, |entry| &entry.id, is_idle, |_, _| true) {
        let worker = entry.worker.clone().unwrap_or_else(|| "none yet".into());
        let mut cells = vec![name, worker, or_dash(entry.thread_id)];
        if is_idle(entry) {
            // What is not served by anybody may be several, each with numbers of its own.
            let dash = || "-".to_owned();
            cells.extend([dash(), dash(), dash(), entry.uplink.clone(), dash(), or_dash(entry.front_end_pid)]);
        } else {
            let cpu = match (entry.cpu, entry.processor_cpu) {
                (None, _) => entry.node.map_or_else(|| "any".into(), |node| format!("of node {node}")),
                (Some(cpu), None) => cpu.to_string(),
                (Some(cpu), Some(processor_cpu)) => format!("{cpu}, {processor_cpu}"),
            };
            cells.extend([cpu, or_dash(entry.rx_ring), or_dash(entry.tx_ring), entry.uplink.clone()]);
            cells.extend([entry.uplink_queue.to_string(), or_dash(entry.front_end_pid)]);
        }
        table.row(cells);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_all_that_one_name_stands_for() {
        let entry = |id: &str, worker: Option<&str>, ring: u16| MapEntry {
            id: id.into(),
            worker: worker.map(Into::into),
            thread_id: worker.map(|_| 4712),
            cpu: worker.map(|_| 3),
            processor_cpu: None,
            node: None,
            rx_ring: Some(ring),
            tx_ring: None,
            uplink: "tap vm1".into(),
            uplink_queue: ring / 2,
            front_end_pid: Some(99),
        };
        let text = show(&[entry("vm1/0", Some("cpu3"), 0), entry("vm1/1", None, 2), entry("vm1/2", None, 4)]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["vm1/0", "cpu3", "4712", "3", "0", "-", "tap", "vm1", "0", "99"]);
        assert_eq!(rows[2][..5], ["vm1/1", "to", "vm1/2", "none", "yet"]);
        assert_eq!(rows.len(), 3);
    }
}
