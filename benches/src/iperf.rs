//! iperf3 between a guest and the host: the guest is the client, the host's end listens in the namespace.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result};
use guest_tests::{Guest, NetNs, Process};
use serde_json::Value;

/// How much longer than its traffic a run may take.
const SLACK: Duration = Duration::from_secs(25);

/// Which way the payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the guest to the host.
    GuestToHost,
    /// From the host to the guest.
    HostToGuest,
}

/// A server in the host's namespace; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Server(Process);

impl Server {
    /// Starts it and waits until it listens. It serves one client after another.
    pub fn start(ns: &NetNs, lifetime: Duration) -> Result<Self> {
        let mut command = ns.command("iperf3");
        command.args(["--server", "--forceflush"]);
        let server = Process::spawn_for(command, lifetime)?;
        server.wait_for_line("Server listening", Duration::from_secs(10))?;
        Ok(Self(server))
    }

    /// The server's process.
    pub fn process(&self) -> &Process {
        &self.0
    }
}

/// TCP throughput of so many streams together in Mbit/s as the receiver saw it.
pub fn tcp_mbits(guest: &Guest, host: &str, way: Way, streams: u16, seconds: u64) -> Result<f64> {
    let reverse = if way == Way::HostToGuest { " --reverse" } else { "" };
    let end = run(guest, &format!("iperf3 --client {host} --time {seconds} --parallel {streams}{reverse}"), seconds)?;
    Ok(number(&end, "/sum_received/bits_per_second")? / 1e6)
}

/// Datagrams of `size` bytes of payload from the guest as fast as it can: how many a second the host received.
pub fn udp_pps(guest: &Guest, host: &str, size: u32, seconds: u64) -> Result<f64> {
    let line = format!("iperf3 --client {host} --udp --bitrate 0 --length {size} --time {seconds}");
    let end = run(guest, &line, seconds)?;
    received_pps(&end, size)
}

fn received_pps(end: &Value, size: u32) -> Result<f64> {
    Ok(number(end, "/sum_received/bytes")? / f64::from(size) / number(end, "/sum_received/seconds")?)
}

/// Runs a client and returns the `end` part of its report.
fn run(guest: &Guest, line: &str, seconds: u64) -> Result<Value> {
    let line = format!("{line} --json --interval 0");
    let output = guest.run_for(&line, Duration::from_secs(seconds) + SLACK)?.ok(&line)?;
    let mut report: Value = serde_json::from_str(&output).with_context(|| format!("`{line}` printed {output}"))?;
    Ok(report["end"].take())
}

fn number(end: &Value, pointer: &str) -> Result<f64> {
    end.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("iperf3 reported no {pointer}: {end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_datagrams_are_counted_by_their_bytes() {
        let end = serde_json::json!({ "sum_received": { "bytes": 64000, "seconds": 0.5, "packets": 5000 } });
        assert_eq!(received_pps(&end, 64).unwrap(), 2000.0);
        assert!(received_pps(&serde_json::json!({}), 64).is_err());
    }
}
