//! Whether a packet costs the same however large things are: rings, the client's bursts, the number of memory regions,
//! the number of rings. Packets of 64 bytes from the client to the back end, split rings.
//!
//! Ring sizes and bursts are those of the virtio-user client. Regions and many rings need a front end of our own, the
//! load generator: it sends in bursts of 64 and writes every packet, so it finds cycles, not rates.

use std::fmt;

use anyhow::{Context, Result};

use super::cases::{Case, Path, RingKind};
use super::lab::Lab;
use super::peer::{BackEnd, Peer};
use crate::curves::{Curve, Panel};
use crate::loadgen::{self, DriverConfig, Mode, Outcome, Rate, RunConfig, SessionConfig, Size, Way};
use crate::stats::Summary;
use crate::testpmd::CLIENT_CPU;

/// Both, ours first.
pub const PEERS: [(Peer, &str); 2] = [(Peer::Vnicd, "vnicd"), (Peer::Testpmd, "net_vhost")];
/// Memory regions that testpmd takes at most.
const TESTPMD_REGIONS: u16 = 8;
const FRAME_LEN: usize = 64;
const RING_SIZE: u16 = 1024;

/// What is made larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// Entries of a ring.
    RingSize,
    /// Packets that the client sends at a time.
    Burst,
    /// Regions over which packets are spread.
    Regions,
    /// Rings on the one core, half of which send. Of the daemon alone, which sleeps between bursts.
    Rings,
}

impl Knob {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RingSize, Self::Burst, Self::Regions, Self::Rings];

    /// From the smallest to the largest.
    #[must_use]
    pub fn values(self) -> &'static [u16] {
        match self {
            Self::RingSize => &[256, 512, 1024, 2048, 4096, 8192, 16384, 32768],
            Self::Burst => &[1, 4, 16, 32, 64, 128, 256, 512],
            Self::Regions => &[1, 8, 509],
            Self::Rings => &[2, 4, 8, 16, 32, 64],
        }
    }

    /// Measures one value on one peer; none if that peer cannot be asked.
    pub fn measure(self, lab: &mut Lab, value: u16, peer: Peer) -> Result<Option<Cost>> {
        let case = Case::new(Path::GuestToBackend, RingKind::main()[0]);
        match self {
            Self::RingSize => by_client(lab, &Case { ring_size: value, ..case }, peer),
            Self::Burst => by_client(lab, &Case { burst: value, ..case }, peer),
            Self::Regions => in_regions(lab, &case, value, peer),
            Self::Rings if peer == Peer::Vnicd => on_rings(lab, &Case { queues: value / 2, ..case }).map(Some),
            Self::Rings => Ok(None),
        }
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RingSize => "entries of a ring",
            Self::Burst => "packets of the client's bursts",
            Self::Regions => "memory regions",
            Self::Rings => "rings on one core",
        })
    }
}

/// What a packet costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Time a packet in nanoseconds, of the core that has nothing else to do; of [`Knob::Rings`]: CPU time.
    pub ns: f64,
    /// Cycles a packet, of the daemon in full bursts.
    pub cycles: Option<f64>,
}

fn by_client(lab: &mut Lab, case: &Case, peer: Peer) -> Result<Option<Cost>> {
    let sample = lab.measure(case, peer)?;
    Ok(sample
        .map(|sample| Cost { ns: 1e3 / sample.mpps, cycles: sample.efficiency.map(|efficiency| efficiency.cycles) }))
}

fn in_regions(lab: &Lab, case: &Case, regions: u16, peer: Peer) -> Result<Option<Cost>> {
    if peer == Peer::Testpmd && regions > TESTPMD_REGIONS {
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("vhost.sock");
    let mut back_end = match peer {
        Peer::Testpmd => BackEnd::testpmd(&lab.ns, dir.path(), &socket, case, lab.memory)?,
        _ => BackEnd::vnicd(&lab.ns, &socket, "discard", case, lab.daemon.polling())?,
    };
    let before = back_end.mark()?;
    let session = SessionConfig { regions: regions.into(), ..SessionConfig::new(&socket) };
    let outcome = back_end.explained(generate(lab, session, Mode::Busy)).context(format!("{regions} regions"))?;
    Ok(Some(Cost { ns: 1e9 / outcome.pps, cycles: back_end.since(before)?.map(|efficiency| efficiency.cycles) }))
}

fn on_rings(lab: &Lab, case: &Case) -> Result<Cost> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("vhost.sock");
    let back_end = BackEnd::vnicd(&lab.ns, &socket, "discard", case, lab.daemon.interrupt())?;
    let session = SessionConfig { queues: case.queues.into(), ..SessionConfig::new(&socket) };
    let outcome = back_end.explained(generate(lab, session, Mode::Napi)).context(format!("{} pairs", case.queues))?;
    Ok(Cost { ns: outcome.device_ns_per_packet(), cycles: None })
}

/// Sends as fast as there is room.
fn generate(lab: &Lab, session: SessionConfig, mode: Mode) -> Result<Outcome> {
    let size = Size::Fixed(FRAME_LEN);
    let driver =
        DriverConfig { mode, way: Way::Tx, size, rate: Rate::Max, duration: lab.time, ..DriverConfig::default() };
    let session = SessionConfig { queue_size: RING_SIZE, ..session };
    loadgen::run(&RunConfig { session, driver, cpus: vec![CLIENT_CPU] })
}

/// A cost that was measured.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Of what.
    pub knob: Knob,
    /// Its value.
    pub value: u16,
    /// Index into [`PEERS`].
    pub subject: usize,
    /// What was found.
    pub cost: Cost,
}

/// A panel a knob, medians of all runs: of cycles where the daemon tells them, else of times.
#[must_use]
pub fn panels(points: &[Point]) -> Vec<Panel> {
    Knob::ALL
        .iter()
        .map(|knob| panel(points, *knob))
        .filter(|p| p.curves.iter().any(|c| !c.points.is_empty()))
        .collect()
}

fn panel(points: &[Point], knob: Knob) -> Panel {
    let of_knob = || points.iter().filter(move |point| point.knob == knob);
    let in_cycles = of_knob().any(|point| point.subject == 0 && point.cost.cycles.is_some());
    let curve = |(subject, (_, name)): (usize, &(Peer, &str))| {
        let median = |value: u16| {
            let at = of_knob().filter(|point| (point.subject, point.value) == (subject, value));
            let y = at.filter_map(|point| if in_cycles { point.cost.cycles } else { Some(point.cost.ns) });
            Some((f64::from(value), Summary::of(&y.collect::<Vec<_>>())?.median))
        };
        let points = knob.values().iter().filter_map(|value| median(*value)).collect();
        Curve { name: (*name).into(), subject, aside: false, points }
    };
    let unit = match knob {
        _ if in_cycles => "cycles a packet, full bursts",
        Knob::Rings => "ns of CPU time a packet",
        Knob::RingSize | Knob::Burst | Knob::Regions => "ns a packet",
    };
    Panel {
        title: format!("by {knob}"),
        units: [knob.to_string(), unit.into()],
        curves: PEERS.iter().enumerate().map(curve).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_drawn_where_the_daemon_tells_them() {
        let point = |knob, value, subject, ns, cycles| Point { knob, value, subject, cost: Cost { ns, cycles } };
        let points = [
            point(Knob::Burst, 1, 0, 50.0, None),
            point(Knob::Burst, 32, 0, 30.0, Some(10.0)),
            point(Knob::Burst, 32, 0, 30.0, Some(14.0)),
            point(Knob::Burst, 32, 1, 40.0, Some(60.0)),
            point(Knob::Rings, 2, 0, 9.0, None),
        ];
        let panels = panels(&points);
        assert_eq!(panels.len(), 2);
        assert_eq!(panels[0].units[1], "cycles a packet, full bursts");
        assert_eq!(panels[0].curves[0].points, [(32.0, 12.0)]);
        assert_eq!(panels[0].curves[1].points, [(32.0, 60.0)]);
        assert_eq!(panels[1].units, ["rings on one core", "ns of CPU time a packet"]);
        assert_eq!(panels[1].curves[0].points, [(2.0, 9.0)]);
    }
}
