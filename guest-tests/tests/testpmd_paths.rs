//! Frames that go round, by each of the ways in which DPDK's driver uses its rings.
//!
//! These are the cases of DPDK's own test plans "loopback multi paths port restart" and "loopback multi queues", with
//! vnicd in the place of the back end, and two other sizes of packed rings.

use anyhow::{Context, Result, ensure};
use guest_tests::testpmd::{DataPath, Rig};

/// What fits a receive buffer of testpmd.
const LENGTHS: [&str; 6] = ["64", "128", "256", "512", "1024", "1518"];
/// A chain of four buffers on the way out, five receive buffers on the way in.
const LONG: &str = "2000,2000,2000,2000";

/// All lengths go round, frames come back intact, a stopped port is silent and goes on.
fn goes_round(path: &DataPath, queues: u16) -> Result<()> {
    let rig = Rig::new("loopback")?;
    let mut testpmd = rig.testpmd().queues(queues).path(path).start()?;
    rig.takes(path, &testpmd)?;
    for lengths in LENGTHS.into_iter().chain(path.mergeable().then_some(LONG)) {
        rig.goes_round(&mut testpmd, lengths).with_context(|| format!("frames of {lengths}"))?;
    }
    let max_len = if path.mergeable() { 9000 } else { 1518 };
    rig.comes_back_intact(&mut testpmd, max_len)?;

    // A port that is stopped stops what its driver does; one whose features change stops its rings, too.
    let offloads = [None, Some("on"), Some("off")];
    for offload in &offloads[..if path.survives_reset() { 3 } else { 1 }] {
        testpmd.run_all(&["set txpkts 64", "set fwd io", "start tx_first 32", "stop", "port stop 0"])?;
        rig.comes_to_rest(&mut testpmd)?;
        let stopped = rings_stopped(&rig);
        if let Some(state) = offload {
            testpmd.run(&format!("port config 0 tx_offload udp_cksum {state}"))?;
        }
        testpmd.run("port start 0")?;
        let stops = if offload.is_some() { 2 * usize::from(queues) } else { 0 };
        rig.takes(path, &testpmd)?;
        rig.empties(&mut testpmd)?;
        rig.goes_round(&mut testpmd, "64")?;
        rig.one_goes_round(&mut testpmd, "64").context("a single frame")?;
        // The daemon's lines about it have been read by now.
        ensure!(rings_stopped(&rig) == stopped + stops, "not {stops} rings were stopped");
    }
    rig.comes_back_intact(&mut testpmd, max_len)?;
    testpmd.quit()?;
    ensure!(!rig.vnicd.log().iter().any(|line| line.contains("ERROR")), "{}", rig.vnicd.log().join("\n"));
    Ok(())
}

fn rings_stopped(rig: &Rig) -> usize {
    rig.vnicd.log().iter().filter(|line| line.contains("ring stopped")).count()
}

macro_rules! paths {
    ($($name:ident: $path:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn one_queue() -> Result<()> {
                goes_round(&$path, 1)
            }

            #[test]
            fn eight_queues() -> Result<()> {
                goes_round(&$path, 8)
            }
        }
    )*};
}

paths! {
    packed_mergeable: DataPath::PACKED_MERGEABLE;
    packed: DataPath::PACKED;
    packed_in_order_mergeable: DataPath::PACKED_IN_ORDER_MERGEABLE;
    packed_in_order: DataPath::PACKED_IN_ORDER;
    packed_vectorized: DataPath::PACKED_VECTORIZED;
    split_in_order_mergeable: DataPath::SPLIT_IN_ORDER_MERGEABLE;
    split_in_order: DataPath::SPLIT_IN_ORDER;
    split_mergeable: DataPath::SPLIT_MERGEABLE;
    split: DataPath::SPLIT;
    split_vectorized: DataPath::SPLIT_VECTORIZED;
    packed_of_255_entries: DataPath::PACKED_IN_ORDER_MERGEABLE.ring_size(255);
    packed_of_1024_entries: DataPath::PACKED_MERGEABLE.ring_size(1024);
}
