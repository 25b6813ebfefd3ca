//! A testpmd that sends, pauses and sends again: the daemon works while there is something to do, and only then.
//!
//! These are the cases of DPDK's own test plan "vhost user interrupt", with vnicd in the place of the back end.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::Spent;
use guest_tests::testpmd::{DataPath, Rig, each_moves};

fn sleeps_while_nothing_is_sent(path: &DataPath, queues: u16) -> Result<()> {
    const NOTHING: Spent = Spent { cpu: Duration::ZERO, voluntary_switches: 0 };
    let rig = Rig::client("discard")?;
    let mut testpmd = rig.testpmd().server().queues(queues).path(path).start()?;
    rig.takes(path, &testpmd)?;
    testpmd.run("set fwd txonly")?;
    for round in 1..=2 {
        let before = rig.moved(queues.into())?;
        testpmd.run("start")?;
        each_moves(&before, || rig.moved(queues.into()), |queue| queue.tx_packets)
            .with_context(|| format!("round {round}"))?;
        let spent = rig.vnicd.spends_in(Duration::from_millis(300))?;
        // The kernel counts time in ticks, and may miss one that works in between.
        ensure!(spent != NOTHING, "vnicd does nothing for a testpmd that sends");
        rig.empties(&mut testpmd)?;
        // What asked for the counters last has hung up by then.
        thread::sleep(Duration::from_millis(100));
        let spent = rig.vnicd.spends_in(Duration::from_secs(1))?;
        ensure!(spent == NOTHING, "vnicd spent {spent:?} in a second in which nothing was sent");
        testpmd.run("set fwd txonly")?;
    }
    testpmd.quit()
}

#[test]
fn one_queue() -> Result<()> {
    sleeps_while_nothing_is_sent(&DataPath::SPLIT_MERGEABLE, 1)
}

#[test]
fn four_queues() -> Result<()> {
    sleeps_while_nothing_is_sent(&DataPath::SPLIT_MERGEABLE, 4)
}

#[test]
fn one_packed_queue() -> Result<()> {
    sleeps_while_nothing_is_sent(&DataPath::PACKED_MERGEABLE, 1)
}

#[test]
fn four_packed_queues() -> Result<()> {
    sleeps_while_nothing_is_sent(&DataPath::PACKED_MERGEABLE, 4)
}
