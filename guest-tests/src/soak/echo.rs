//! DPDK's virtio-user: a testpmd that sends back what comes with its addresses swapped, and a socket of the host that
//! compares.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;

use super::end::End;
use crate::netns::NetNs;
use crate::testpmd::Testpmd;
use crate::tools::FlowReport;

/// Datagrams a second.
const PPS: u32 = 50;
const HOST: &str = "10.78.0.1";
const FAR: &str = "10.78.0.2:7000";
/// It never sleeps; it is to take what others leave.
const NICE: i32 = 19;

/// A testpmd, and what goes through it.
#[derive(Debug)]
pub(super) struct Echo {
    socket: PathBuf,
    lifetime: Duration,
    testpmd: Option<Testpmd>,
    sender: End,
    receiver: End,
}

impl Echo {
    /// Makes the TAP, which stays when a daemon goes, and starts the first testpmd: it listens at `socket`.
    pub(super) fn start(ns: &NetNs, socket: &Path, seed: u64, lifetime: Duration) -> Result<Self> {
        ns.sh(&format!("ip addr add {HOST}/24 dev echo && ip link set echo up"))?;
        ns.sh("ip neigh replace 10.78.0.2 lladdr 02:00:00:00:00:77 dev echo nud permanent")?;
        let host = ns.run_in(|| UdpSocket::bind((HOST, 7001)))??;
        host.connect(FAR)?;
        let back = host.try_clone()?;
        let mut echo = Self {
            socket: socket.into(),
            lifetime,
            testpmd: None,
            sender: End::spawn(move |flow| flow.send_datagrams(&host, seed, PPS)),
            receiver: End::spawn(move |flow| flow.receive_datagrams(&back, seed)),
        };
        echo.next()?;
        Ok(echo)
    }

    /// Kills the testpmd that there is, and starts another one.
    pub(super) fn next(&mut self) -> Result<()> {
        if let Some(testpmd) = self.testpmd.take() {
            testpmd.kill()?;
        }
        let mut testpmd = Testpmd::builder(&self.socket).server().lifetime(self.lifetime).start()?;
        for thread in fs::read_dir(format!("/proc/{}/task", testpmd.pid()))? {
            let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
            rustix::process::setpriority_process(Some(Pid::from_raw(thread).context("thread 0")?), NICE)?;
        }
        testpmd.run_all(&["set fwd 5tswap", "start"])?;
        self.testpmd = Some(testpmd);
        Ok(())
    }

    /// Datagrams that came back.
    pub(super) fn moved(&self) -> u64 {
        self.receiver.moved()
    }

    /// Stops sending.
    pub(super) fn stop(&self) {
        self.sender.stop();
    }

    /// Ends it: what was sent, and what came back.
    pub(super) fn finish(self) -> [FlowReport; 2] {
        self.receiver.stop();
        while !(self.sender.has_ended() && self.receiver.has_ended()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        [self.sender.finish(), self.receiver.finish()]
    }
}
