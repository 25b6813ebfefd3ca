//! What was found, told: two tables, and whether the daemon shows what it must.

#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::Result;

use super::lab::{Sample, Subject, Way};
use crate::claim::{self, Bound, Claim};
use crate::report::{Better, Report};
use crate::rig::Peer;

/// The part of testpmd's time in user mode that is enough for the daemon.
const OF_USER_TIME: f64 = 0.5;
/// The part of the TAP's rate that a guest's TCP must reach.
const OF_TAP: f64 = 0.8;

/// Directions of TCP.
pub const TCP: [&str; 2] = ["TCP guest to host", "TCP host to guest"];
const IDLE: &str = "idle over AF_XDP: voluntary switches in 5 s";

/// Everything that a run of the bench found.
#[derive(Clone, Debug)]
pub struct Account {
    /// Beside net_vhost and net_af_xdp.
    pub packets: Report,
    /// A guest, beside a TAP.
    pub guest: Report,
}

fn user_time(way: Way) -> String {
    format!("{way}, user mode a packet")
}

impl Account {
    /// Of a run under these conditions.
    #[must_use]
    pub fn under(conditions: Vec<(String, String)>) -> Self {
        let subjects = Subject::BOTH.map(|subject| subject.name().to_owned());
        let title = "virtio-user and AF_XDP on veth in copy mode, packets of 64 bytes".into();
        let packets = Report { title, subjects, conditions, ..Report::default() };
        let subjects = [Peer::VnicdAfXdp, Peer::Vnicd].map(|peer| peer.name().to_owned());
        let guest =
            Report { title: "the same guest on a veth pair and on a TAP".into(), subjects, ..Report::default() };
        Self { packets, guest }
    }

    /// Adds what both back ends did.
    pub fn add(&mut self, way: Way, samples: [Sample; 2]) {
        let mpps = samples.map(|sample| Some(sample.pps / 1e6));
        self.packets.add_pair(&way.to_string(), "Mpps", Better::Higher, mpps);
        let nanoseconds = samples.map(|sample| sample.user_seconds.map(|seconds| seconds * 1e9));
        self.packets.add_pair(&user_time(way), "ns", Better::Lower, nanoseconds);
    }

    /// Adds throughput of a guest over AF_XDP and over a TAP.
    pub fn add_tcp(&mut self, name: &str, mbits: [f64; 2]) {
        self.guest.add_pair(name, "Mbit/s", Better::Higher, mbits.map(Some));
    }

    /// Adds how often the daemon's threads woke while the guest was quiet.
    pub fn add_idle(&mut self, switches: u64) {
        self.guest.add_figure(IDLE, "switches", switches as f64);
    }

    /// What the daemon must show.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let [vnicd, net_af_xdp] = Subject::BOTH.map(Subject::name);
        let beside = |name: String, bound| {
            Claim::new(format!("{name}, {vnicd} / {net_af_xdp}"), self.packets.ratio(&name), bound)
        };
        let rates = Way::BOTH.map(|way| beside(way.to_string(), Bound::AtLeast(1.0)));
        let own = beside(user_time(Way::Out), Bound::AtMost(OF_USER_TIME));
        let tcp =
            TCP.map(|name| Claim::new(format!("{name}, AF_XDP / TAP"), self.guest.ratio(name), Bound::AtLeast(OF_TAP)));
        let switches = self.guest.figures.iter().find(|figure| figure.name == IDLE);
        let most = switches.and_then(|figure| figure.values.iter().copied().max_by(f64::total_cmp));
        rates.into_iter().chain([own]).chain(tcp).chain([Claim::new(IDLE, most, Bound::AtMost(0.0))]).collect()
    }

    /// Tables and claims, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let claims = claim::table("what vnicd must show", &self.claims());
        format!("{}\n{}\n{claims}", self.packets.table(), self.guest.table())
    }

    /// Writes tables, values and plots of both into a directory, which is made if need be.
    pub fn save(&self, dir: &Path, name: &str) -> Result<()> {
        let guest = format!("{name}-guest");
        for (report, name) in [(&self.packets, name), (&self.guest, &guest)] {
            // One that was not measured is no file.
            if !report.comparisons.is_empty() {
                report.save(dir, name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(rate: f64, user: Option<f64>, tcp: f64, switches: u64) -> Vec<Option<bool>> {
        let mut account = Account::under(Vec::new());
        for speed in [1e6, 2e6, 3e6] {
            let ours = Sample { pps: speed * rate, user_seconds: user.map(|user| user * 1e-7) };
            let theirs = Sample { pps: speed, user_seconds: user.map(|_| 1e-7) };
            Way::BOTH.into_iter().for_each(|way| account.add(way, [ours, theirs]));
            TCP.into_iter().for_each(|name| account.add_tcp(name, [speed * tcp, speed]));
        }
        [0, switches].into_iter().for_each(|switches| account.add_idle(switches));
        assert!(account.text().contains("must be"));
        account.claims().iter().map(Claim::holds).collect()
    }

    #[test]
    fn each_claim_is_held_against_its_bound() {
        assert_eq!(holds(1.01, Some(0.49), 0.81, 0), [Some(true); 6]);
        assert_eq!(holds(0.99, Some(0.51), 0.79, 1), [Some(false); 6]);
        assert_eq!(holds(1.01, None, 0.81, 0)[2], None);
        assert!(Account::under(Vec::new()).claims().iter().all(|claim| claim.holds().is_none()));
    }
}
