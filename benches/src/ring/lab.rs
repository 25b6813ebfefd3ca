//! One case with one peer: both started, warmed up, measured, and taken down.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_tests::NetNs;

use super::cases::{Case, Path};
use super::client::Client;
use super::peer::{BackEnd, Daemon, Peer};
use super::work::Efficiency;
use crate::testpmd::Memory;

const WARM_UP: Duration = Duration::from_millis(500);

/// What a measurement found.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Millions of packets a second, as the client counts.
    pub mpps: f64,
    /// What the back end's work was like.
    pub efficiency: Option<Efficiency>,
}

/// What all measurements have in common.
#[derive(Debug)]
pub struct Lab {
    /// Where everything runs.
    pub ns: NetNs,
    /// What testpmd's memory is made of.
    pub memory: Memory,
    /// What the daemon knows.
    pub daemon: Daemon,
    /// How long packets are counted.
    pub time: Duration,
    /// Rings that the daemon does not offer, by name.
    pub not_offered: BTreeSet<&'static str>,
}

impl Lab {
    /// Looks at the machine and at the daemon.
    pub fn new(time: Duration) -> Result<Self> {
        let ns = NetNs::new()?;
        let daemon = Daemon::probe(&ns)?;
        Ok(Self { memory: Memory::available(), daemon, ns, time, not_offered: BTreeSet::new() })
    }

    /// Measures a case; none if the daemon does not know what it needs.
    pub fn measure(&mut self, case: &Case, peer: Peer) -> Result<Option<Sample>> {
        if !self.daemon.can(case, peer) || (peer != Peer::Testpmd && self.not_offered.contains(case.ring.name)) {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("vhost.sock");
        let mut back_end = match peer {
            Peer::Testpmd => BackEnd::testpmd(&self.ns, dir.path(), &socket, case, self.memory)?,
            Peer::Vnicd | Peer::VnicdUnread => {
                let uplink = uplink(case, peer);
                BackEnd::vnicd(&self.ns, &socket, &uplink, case, self.daemon.polling())?
            }
        };
        let client = Client::start(&self.ns, dir.path(), &socket, case, self.memory, &[]);
        let measured = client.and_then(|mut client| {
            if !back_end.has_layout_of(case)? {
                self.not_offered.insert(case.ring.name);
                return Ok(None);
            }
            client.go()?;
            client.wait_for_traffic()?;
            thread::sleep(WARM_UP);
            let mark = back_end.mark()?;
            let mpps = client.pps(self.time)? / 1e6;
            Ok(Some(Sample { mpps, efficiency: back_end.since(mark)? }))
        });
        back_end.explained(measured).with_context(|| format!("{case}, {peer:?}"))
    }
}

/// The daemon's test uplink for a case.
fn uplink(case: &Case, peer: Peer) -> String {
    match case.path {
        Path::GuestToBackend if peer == Peer::VnicdUnread => "discard,unread".into(),
        Path::GuestToBackend => "discard".into(),
        Path::BackendToGuest => format!("generate,len={}", case.frame_len),
        Path::Loopback => "loopback".into(),
    }
}
