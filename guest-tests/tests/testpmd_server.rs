//! DPDK's testpmd as a front end that listens, and a daemon that connects: either side ends and comes back.
//!
//! These are the cases of DPDK's own test plan for virtio-user in server mode ("loopback virtio-user
//! server mode"), with vnicd in the place of the back end.

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{ended_with, eventually};
use guest_tests::testpmd::{DataPath, Rig, Testpmd};

const LONG: &str = "2000,2000,2000,2000";

struct Case {
    queues: u16,
    path: DataPath,
    lengths: &'static str,
}

impl Case {
    /// Runs; the daemon ends and comes back; testpmd ends and comes back; its port is stopped and started.
    fn run(&self) -> Result<()> {
        let mut rig = Rig::client("loopback")?;
        let mut testpmd = self.testpmd(&rig)?;
        ensure!(testpmd.link_is_up()?, "the link is down at first");
        self.traffic(&rig, &mut testpmd).context("at first")?;

        let loads: &[bool] = if self.path.survives_reset() { &[true, false] } else { &[] };
        for &idle in loads {
            if !idle {
                testpmd.run_all(&["set fwd io", "start tx_first 32"])?;
            }
            ended_with(rig.vnicd.terminate()?, 0)?;
            eventually("the link goes down", || Ok(!testpmd.link_is_up()?))?;
            rig.restart()?;
            eventually("the link comes up", || testpmd.link_is_up())?;
            eventually("all rings are started", || self.all_started(&rig))?;
            let when = if idle { "idle" } else { "under load" };
            self.traffic(&rig, &mut testpmd).with_context(|| format!("after the daemon came back, {when}"))?;
        }

        testpmd.quit()?;
        let mut testpmd = self.testpmd(&rig)?;
        self.traffic(&rig, &mut testpmd).context("after testpmd came back")?;

        testpmd.run("port stop 0")?;
        testpmd.run("port start 0")?;
        self.traffic(&rig, &mut testpmd).context("after the port came back")?;

        testpmd.run_all(&["set fwd io", "start tx_first 32"])?;
        testpmd.kill()?;
        let mut testpmd = self.testpmd(&rig)?;
        self.traffic(&rig, &mut testpmd).context("after testpmd was killed and came back")?;
        testpmd.quit()
    }

    fn testpmd(&self, rig: &Rig) -> Result<Testpmd> {
        rig.testpmd().server().queues(self.queues).path(&self.path).start()
    }

    fn traffic(&self, rig: &Rig, testpmd: &mut Testpmd) -> Result<()> {
        rig.takes(&self.path, testpmd)?;
        rig.empties(testpmd)?;
        rig.goes_round(testpmd, self.lengths)?;
        rig.comes_back_intact(testpmd, if self.path.mergeable() { 9000 } else { 1518 })
    }

    fn all_started(&self, rig: &Rig) -> Result<bool> {
        let device = rig.device()?;
        let pairs = device["pairs"].as_array().context("no pairs")?;
        let running = pairs.iter().filter(|pair| pair["rx_started"] == true && pair["tx_started"] == true);
        Ok(running.count() == usize::from(self.queues))
    }
}

macro_rules! cases {
    ($($name:ident: $queues:literal, $path:ident, $lengths:expr;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            Case { queues: $queues, path: DataPath::$path, lengths: $lengths }.run()
        }
    )*};
}

// By their numbers there, with eight queues instead of two in the last ones: they are the thirteenth as well, which is
// "all packed paths" with eight queues.
cases! {
    case_1_packed: 1, PACKED_IN_ORDER_MERGEABLE, "64";
    case_2_split: 1, SPLIT_IN_ORDER_MERGEABLE, "64";
    case_3_split_mergeable: 8, SPLIT_MERGEABLE, LONG;
    case_4_split_in_order_mergeable: 2, SPLIT_IN_ORDER_MERGEABLE, LONG;
    case_5_split_in_order: 2, SPLIT_IN_ORDER, "64";
    case_6_split: 2, SPLIT, "64";
    case_7_split_vectorized: 2, SPLIT_VECTORIZED, "1518";
    case_8_packed_mergeable: 8, PACKED_MERGEABLE, LONG;
    case_9_packed: 8, PACKED, "64,128,256";
    case_10_packed_in_order_mergeable: 8, PACKED_IN_ORDER_MERGEABLE, LONG;
    case_11_packed_in_order: 8, PACKED_IN_ORDER, "64,128,256";
    case_12_packed_vectorized: 8, PACKED_VECTORIZED, "1518";
}
