//! DPDK's testpmd as a front end that listens, and a daemon that connects: either side ends and comes back.
//!
//! These are the cases with split rings of DPDK's own test plan for virtio-user in server mode ("loopback virtio-user
//! server mode"), with vnicd in the place of the back end.

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{ended_with, eventually};
use guest_tests::testpmd::{Rig, Testpmd};

const LONG: &str = "2000,2000,2000,2000";

struct Case {
    queues: u16,
    device: &'static str,
    lengths: &'static str,
}

impl Case {
    /// Runs; the daemon ends and comes back; testpmd ends and comes back; its port is stopped and started.
    fn run(&self) -> Result<()> {
        let mut rig = Rig::client("loopback")?;
        let mut testpmd = self.testpmd(&rig)?;
        ensure!(testpmd.link_is_up()?, "the link is down at first");
        self.traffic(&rig, &mut testpmd).context("at first")?;

        for idle in [true, false] {
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
        rig.testpmd().server().queues(self.queues).device(self.device).start()
    }

    fn traffic(&self, rig: &Rig, testpmd: &mut Testpmd) -> Result<()> {
        rig.goes_round(testpmd, self.lengths)?;
        rig.comes_back_intact(testpmd, if self.device.contains("mrg_rxbuf=0") { 1518 } else { 9000 })
    }

    fn all_started(&self, rig: &Rig) -> Result<bool> {
        let device = rig.device()?;
        let pairs = device["pairs"].as_array().context("no pairs")?;
        let running = pairs.iter().filter(|pair| pair["rx_started"] == true && pair["tx_started"] == true);
        Ok(running.count() == usize::from(self.queues))
    }
}

#[test]
fn one_queue() -> Result<()> {
    Case { queues: 1, device: "", lengths: "64" }.run()
}

#[test]
fn eight_queues_with_long_frames() -> Result<()> {
    Case { queues: 8, device: "mrg_rxbuf=1,in_order=0", lengths: LONG }.run()
}

#[test]
fn two_queues_with_long_frames_that_would_be_used_in_order() -> Result<()> {
    Case { queues: 2, device: "mrg_rxbuf=1,in_order=1", lengths: LONG }.run()
}

#[test]
fn two_queues_without_mergeable_buffers_that_would_be_used_in_order() -> Result<()> {
    Case { queues: 2, device: "mrg_rxbuf=0,in_order=1", lengths: "64" }.run()
}

#[test]
fn two_queues_without_mergeable_buffers() -> Result<()> {
    Case { queues: 2, device: "mrg_rxbuf=0,in_order=0", lengths: "64" }.run()
}

#[test]
fn two_queues_with_a_vectorized_driver() -> Result<()> {
    Case { queues: 2, device: "mrg_rxbuf=0,in_order=0,vectorized=1", lengths: "1518" }.run()
}
