//! A client that is connected and sends nothing, or a single packet now and then.

#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_tests::Vnicd;
use serde::Serialize;
use serde_json::{Value, json};

use super::subject::{Lab, Subject};
use crate::loadgen::peer::Peer;
use crate::loadgen::{Driver, DriverConfig, Mode, Pattern, Rate, Session, SessionConfig};
use crate::stats::{Summary, ratios};

/// After traffic, whatever is still to happen happens within this time.
const SETTLE: Duration = Duration::from_secs(1);
/// The control thread sleeps again so long after it was asked.
const ANSWERED: Duration = Duration::from_millis(200);
/// The pauses before single packets.
pub const PAUSES_MS: [u32; 3] = [50, 100, 200];

/// What a daemon did while nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// For how long nothing happened, in seconds.
    pub seconds: f64,
    /// Wake-ups that its worker counted.
    pub wakeups: u64,
    /// Rounds that its worker counted.
    pub rounds: u64,
    /// How often any thread slept again, which is once a wake-up.
    pub switches: u64,
    /// Time of all threads on a CPU, in milliseconds.
    pub cpu_ms: f64,
}

/// What silence told of each daemon.
#[derive(Clone, Debug, Default)]
pub struct Quiet {
    idle: Vec<(Subject, Idle)>,
    /// Medians of the round trips of single packets, in microseconds, run by run.
    first_packet_us: [Vec<f64>; Subject::DAEMONS.len()],
}

impl Quiet {
    /// Looks at each daemon for so long.
    pub fn watch(&mut self, lab: &Lab, time: Duration) -> Result<()> {
        for subject in Subject::DAEMONS {
            self.idle.push((subject, idle(lab.daemon(subject)?, time)?));
        }
        Ok(())
    }

    /// Sends `packets` single packets after each of [`PAUSES_MS`], to each daemon in turn. The client spins, so that
    /// nobody's wake-up but the daemon's is clocked.
    pub fn send_first_packets(&mut self, lab: &mut Lab, packets: u32) -> Result<()> {
        for pause_ms in PAUSES_MS {
            for subject in Subject::DAEMONS {
                let driver = DriverConfig {
                    mode: Mode::Busy,
                    rate: Rate::Pps(1000.0 / f64::from(pause_ms)),
                    pattern: Pattern::Constant,
                    duration: Duration::from_millis((pause_ms * packets).into()),
                    ..DriverConfig::default()
                };
                let returned = lab.run(subject, driver)?.returned.context("no packet came back")?;
                self.first_packet_us[subject as usize].push(returned.p50_us);
            }
        }
        Ok(())
    }

    /// What a daemon did while nothing happened.
    #[must_use]
    pub fn idle_of(&self, subject: Subject) -> Option<Idle> {
        self.idle.iter().find(|(known, _)| *known == subject).map(|(_, idle)| *idle)
    }

    /// The round trip of a first packet, in microseconds.
    #[must_use]
    pub fn first_packet_us(&self, subject: Subject) -> Option<f64> {
        Some(Summary::of(self.first_packet_us.get(subject as usize)?)?.median)
    }

    /// The ratio in the middle of those of neighbouring runs of two daemons.
    #[must_use]
    pub fn first_packet_ratio(&self, [ours, theirs]: [Subject; 2]) -> Option<f64> {
        let sample = |subject: Subject| self.first_packet_us.get(subject as usize);
        Some(Summary::of(&ratios(sample(ours)?, sample(theirs)?))?.median)
    }

    /// All of it, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let of = |subject: Subject| {
            let first_packet = &self.first_packet_us[subject as usize];
            let value = json!({ "idle": self.idle_of(subject), "first_packet_p50_us": first_packet });
            (subject.name().to_owned(), value)
        };
        Subject::DAEMONS.into_iter().map(of).collect::<serde_json::Map<_, _>>().into()
    }
}

fn idle(daemon: &Vnicd, time: Duration) -> Result<Idle> {
    let mut session = Session::start(&SessionConfig::new(daemon.socket()))?;
    let pair = session.pairs.pop().context("no queue pair")?;
    // Holds the rings, with receive buffers posted, until the end.
    let mut driver = Driver::new(pair, DriverConfig::default(), 0)?;
    driver.warm_up()?;
    thread::sleep(SETTLE);
    let counted = Counted::of(&daemon.status()?)?;
    thread::sleep(ANSWERED);
    let before = Peer::of(daemon.pid())?;
    thread::sleep(time);
    let after = Peer::of(daemon.pid())?;
    let now = Counted::of(&daemon.status()?)?;
    Ok(Idle {
        seconds: time.as_secs_f64(),
        wakeups: now.wakeups - counted.wakeups,
        rounds: now.rounds - counted.rounds,
        switches: after.switches.saturating_sub(before.switches),
        cpu_ms: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1000.0,
    })
}

/// What the workers of a daemon's only device have counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// Wake-ups.
    pub(super) wakeups: u64,
    /// Rounds over a pair.
    pub(super) rounds: u64,
    /// Bursts that were shown to the driver: each is told with a call or not.
    pub(super) bursts: u64,
}

impl Counted {
    /// Reads what `vnicctl status` shows.
    pub(super) fn of(status: &Value) -> Result<Self> {
        let pairs = status["devices"][0]["pairs"].as_array().context("no device in the status")?;
        let sum = |name: &str| -> Result<u64> {
            let of = |pair: &Value| pair["counters"][name].as_u64().with_context(|| format!("no counter {name}"));
            pairs.iter().map(of).sum()
        };
        let bursts = sum("calls")? + sum("calls_suppressed")?;
        Ok(Self { wakeups: sum("wakeups")?, rounds: sum("rounds")?, bursts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_pairs_are_read() {
        let pair = |n: u64| json!({ "counters": { "wakeups": n, "rounds": 2 * n, "calls": 3, "calls_suppressed": 4 } });
        let status = json!({ "devices": [{ "pairs": [pair(5), pair(7)] }] });
        assert_eq!(Counted::of(&status).unwrap(), Counted { wakeups: 12, rounds: 24, bursts: 14 });
        assert!(Counted::of(&json!({})).is_err());
        assert!(Counted::of(&json!({ "devices": [{ "pairs": [{ "counters": { "wakeups": 1 } }] }] })).is_err());
    }

    #[test]
    fn first_packets_are_compared_run_by_run() {
        let quiet =
            Quiet { first_packet_us: [vec![10.0, 20.0, 30.0], Vec::new(), vec![11.0, 24.0, 33.0]], ..Quiet::default() };
        assert_eq!(quiet.first_packet_ratio([Subject::Auto, Subject::Interrupt]), Some(1.1));
        assert_eq!(quiet.first_packet_us(Subject::Auto), Some(24.0));
        assert_eq!(quiet.first_packet_ratio([Subject::Auto, Subject::Polling]), None);
        assert_eq!(quiet.first_packet_us(Subject::Testpmd), None);
    }
}
