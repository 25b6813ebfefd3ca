//! The load generator against the daemon: what is sent comes back, every bit and in order, whoever connects to whom.

use std::time::Duration;

use anyhow::Result;
use benches::loadgen::{self, DriverConfig, Mode, Outcome, Pattern, Rate, RunConfig, SessionConfig, Size, Way};
use guest_tests::{NetNs, Vnicd};

fn driver(mode: Mode) -> DriverConfig {
    DriverConfig { mode, rate: Rate::Pps(20_000.0), duration: Duration::from_millis(200), ..DriverConfig::default() }
}

fn all_came_back(outcome: &Outcome) {
    let counts = outcome.counts;
    let table = outcome.table();
    assert!(counts.sent > 0 && counts.received == counts.sent && counts.taken == counts.sent, "{table}");
    assert_eq!((outcome.lost, counts.corrupt, counts.out_of_order), (0, 0, 0), "{table}");
    // What was due while the driver had no CPU is not clocked.
    let clocked = outcome.returned.map_or(0, |latency| latency.packets);
    assert!(clocked == counts.received || (counts.stalls > 0 && clocked < counts.received), "{table}");
}

#[test]
fn every_kind_of_driver_gets_everything_back() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").start()?;
    for mode in [Mode::Napi, Mode::Busy, Mode::Always] {
        let mut session = SessionConfig::new(vnicd.socket());
        // Every second driver does it the other way; long frames fill several buffers.
        (session.event_idx, session.indirect, session.rx_buffer) = (mode == Mode::Busy, mode != Mode::Busy, 300);
        let driver = DriverConfig { size: Size::Imix, pattern: Pattern::Poisson, ..driver(mode) };
        let outcome = loadgen::run(&RunConfig { session, driver, cpus: Vec::new() })?;
        all_came_back(&outcome);
        let counts = outcome.counts;
        match mode {
            Mode::Busy => assert_eq!(counts.sleeps, 0),
            Mode::Napi | Mode::Always => assert!(counts.calls > 0 && counts.sleeps > 0),
        }
    }
    Ok(())
}

#[test]
fn packets_come_back_out_of_every_region() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").start()?;
    for regions in [8, 509] {
        let session = SessionConfig { regions, queue_size: 1024, ..SessionConfig::new(vnicd.socket()) };
        let config = RunConfig { session, driver: driver(Mode::Napi), cpus: Vec::new() };
        all_came_back(&loadgen::run(&config)?);
    }
    Ok(())
}

#[test]
fn a_device_may_connect_and_take_all_on_two_pairs() -> Result<()> {
    let (ns, dir) = (NetNs::new()?, tempfile::tempdir()?);
    let socket = dir.path().join("front-end.sock");
    let vnicd = Vnicd::builder(&ns).uplink("discard").socket_path(&socket).client().start()?;
    let session = SessionConfig { server: true, queues: 2, ..SessionConfig::new(&socket) };
    let driver = DriverConfig { way: Way::Tx, rate: Rate::Max, ..driver(Mode::Napi) };
    let outcome = loadgen::run(&RunConfig { session, driver, cpus: Vec::new() })?;
    assert_eq!((outcome.lost, outcome.counts.received), (0, 0), "{}", outcome.table());
    assert!(outcome.counts.taken > 1000, "{}", outcome.table());
    assert!(outcome.device_cpu_s > 0.0 && outcome.device_switches > 0);
    vnicd.terminate()?;
    Ok(())
}
