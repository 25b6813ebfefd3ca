//! A transmit ring under attack: what becomes of what is offered, and whether all else lives on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vhost::VhostBackend;

use super::nic::{EVENT_IDX, FORMATS, INDIRECT_DESC, MRG_RXBUF, VERSION_1};
use super::{Posting, Queue, ScriptedNic};
use crate::lab::{beside, eventually};
use crate::{NetNs, Vnicd};

/// What an attacking driver acknowledges.
pub const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX | INDIRECT_DESC;
/// Entries of its rings.
pub const SIZE: u16 = 64;
/// What the log says of a broken ring.
pub const STOPPED: &str = "ring stopped until the driver resets it";

const PATIENCE: Duration = Duration::from_secs(10);
const POSTING: Posting = Posting { count: 32, len: 2048 };

/// What became of what was offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// The ring was stopped; it is mended.
    Broken,
    /// All of it came back.
    Used,
}
/// A NIC whose transmit ring is attacked.
#[derive(Debug)]
pub struct Target<'a> {
    /// The daemon, with a control socket.
    pub vnicd: &'a Vnicd,
    /// The NIC.
    pub nic: ScriptedNic,
    broken: u64,
    told: bool,
}

impl Target<'_> {
    /// Offers something hostile and sees what becomes of it, by `chains` used chains or a broken ring. The ring is
    /// mended then.
    pub fn attack(&mut self, chains: usize, offer: impl FnOnce(&mut Queue)) -> Result<Fate> {
        offer(&mut self.nic.tx);
        self.nic.tx.kick.write(1)?;
        let (end, mut used) = (Instant::now() + PATIENCE, 0);
        while used < chains {
            if self.is_broken() {
                self.restart()?;
                return Ok(Fate::Broken);
            }
            ensure!(Instant::now() < end, "neither used nor broken");
            match self.nic.tx.take_used() {
                Some((_, 0)) => used += 1,
                Some(other) => bail!("the device wrote to a packet: {other:?}"),
                None => thread::sleep(Duration::from_micros(50)),
            }
        }
        Ok(Fate::Used)
    }

    /// What must have broken the ring.
    pub fn breaks(&mut self, what: &str, offer: impl FnOnce(&mut Queue)) -> Result<()> {
        let fate = self.attack(1, offer).with_context(|| what.to_owned())?;
        ensure!(fate == Fate::Broken, "{what}: it was used");
        Ok(())
    }

    /// Whether the device said that the ring is broken.
    pub fn is_broken(&mut self) -> bool {
        self.told |= self.nic.tx.err.read().is_ok();
        self.told
    }

    /// Starts the ring anew, as a driver reset does: whether it was broken, which is counted and told of once.
    pub fn restart(&mut self) -> Result<bool> {
        self.nic.client.front.get_vring_base(1)?;
        let broken = self.is_broken();
        if broken {
            self.broken += 1;
            let counted = self.vnicd.counters("rings_broken")?[0];
            ensure!(counted == self.broken, "{counted} rings broken, not {}", self.broken);
            let lines = || self.vnicd.log().iter().filter(|line| line.contains(STOPPED)).count() as u64;
            eventually("a line for the broken ring", || Ok(lines() >= self.broken))?;
            ensure!(lines() == self.broken, "{} lines for {} broken rings", lines(), self.broken);
            self.told = false;
        }
        self.nic.tx.reset();
        self.nic.client.start_queue(&self.nic.tx)?;
        Ok(broken)
    }

    /// Both rings carry packets.
    pub fn lives(&mut self) -> Result<()> {
        self.nic.host_sends(b"in")?;
        self.nic.expect_and_post(b"in", |_| false).context("the receive ring")?;
        self.nic.send(b"out", 2).context("the transmit ring")
    }
}

/// Runs an attack in each format against a NIC with further features, and has packets go both ways afterwards.
pub fn in_each_format_with(features: u64, attack: impl Fn(&mut Target) -> Result<()>) -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).control().start()?;
    for (name, format) in FORMATS {
        let nic = ScriptedNic::start(&ns, &vnicd, features | format, SIZE, POSTING)?;
        let broken = vnicd.counters("rings_broken")?[0];
        let mut target = Target { vnicd: &vnicd, nic, broken, told: false };
        attack(&mut target).and_then(|()| target.lives()).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// The same with [`FEATURES`].
pub fn in_each_format(attack: impl Fn(&mut Target) -> Result<()>) -> Result<()> {
    in_each_format_with(FEATURES, attack)
}

/// Runs `change` over and over on another thread meanwhile.
pub fn while_changing(change: impl Fn(u32) + Sync, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let change = |stop: &AtomicBool| {
        (0..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(&change);
        Ok(())
    };
    beside(change, work)
}
