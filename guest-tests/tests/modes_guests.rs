//! Real guests on each way to share the work among threads, and in each mode.

use anyhow::Result;
use guest_tests::{Lab, Qemu};

const MB: u64 = 1_000_000;

/// TCP both ways, a reboot of the guest, and TCP again.
fn carries_streams(options: &'static [&str]) -> Result<()> {
    let lab = Lab::with(|vnicd| vnicd.args(options))?;
    let guest = lab.boot(Qemu::V10)?;
    lab.ping(&guest)?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)?;
    guest.reboot()?;
    guest_tests::lab::address_guest(&guest)?;
    lab.tcp_both_ways(&guest, 4 * MB + 1)
}

/// A worker dedicated to a CPU serves a virtual machine (rows 10 and 20 of the map).
#[test]
fn a_worker_of_a_cpu() -> Result<()> {
    carries_streams(&["--threads=per-cpu", "--cpus=0"])
}

/// Two workers, one each way, serve a virtual machine (rows 11 and 20 of the map).
#[test]
fn a_worker_for_each_direction() -> Result<()> {
    carries_streams(&["--threads=per-direction"])
}

/// A second worker moves packets between ring and queue for a virtual machine (rows 11 and 20 of the map).
#[test]
fn a_pipeline() -> Result<()> {
    carries_streams(&["--threads=pipeline"])
}

/// A virtual machine whose pair always polls, at intervals (rows 20 and 21 of the map).
#[test]
fn polling_at_intervals() -> Result<()> {
    carries_streams(&["--mode=polling", "--poll-interval-us=100", "--coalesce-us=200"])
}
