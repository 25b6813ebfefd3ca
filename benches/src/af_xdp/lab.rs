//! One measurement: a veth pair, a back end on its near end, a client, packets one way.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use guest_tests::testpmd::write_capture;

use super::user_time::{self, Recording};
use crate::testpmd::Memory;
use crate::uplinks::counting::{namespace, rate, settled};
use crate::uplinks::packets::{CLIENT, STRANGER};
use crate::uplinks::{BackEnd, Client, Place, Stream, Work};

/// The end of the pair that the back end has.
const NEAR: &str = "up0";
/// The far end.
const FAR: &str = "far0";
/// A recording begins before packets are counted, and ends after.
const LONGER: Duration = Duration::from_secs(1);
/// Packets that find room in the ring, whatever the back end does meanwhile.
const FEW: usize = 500;
/// Frames of their own that interfaces may send when they come up.
const STRAY: u64 = 2;

/// A back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The daemon.
    Vnicd,
    /// testpmd, which forwards between net_vhost and net_af_xdp.
    NetAfXdp,
}

impl Subject {
    /// Both, ours first.
    pub const BOTH: [Self; 2] = [Self::Vnicd, Self::NetAfXdp];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vnicd => "vnicd",
            Self::NetAfXdp => "net_vhost to net_af_xdp",
        }
    }

    fn start(self, place: Place<'_>, memory: Memory, args: &[&str]) -> Result<BackEnd> {
        match self {
            Self::Vnicd => BackEnd::vnicd(place, &format!("af-xdp={NEAR},mode=copy"), args),
            Self::NetAfXdp => BackEnd::testpmd(place, &format!("net_af_xdp0,iface={NEAR},force_copy=1"), memory),
        }
    }
}

/// Where the packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// From the client's rings to the far end of the pair.
    Out,
    /// From the far end into the client's rings.
    In,
}

impl Way {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Out, Self::In];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "guest to AF_XDP",
            Self::In => "AF_XDP to guest",
        })
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Packets a second.
    pub pps: f64,
    /// Time of the back end in user mode for each packet in seconds, if there is a perf.
    pub user_seconds: Option<f64>,
}

/// What all measurements have in common.
#[derive(Clone, Debug)]
pub struct Lab {
    /// What testpmd's memory is made of.
    pub memory: Memory,
    /// How long packets are counted.
    pub time: Duration,
    /// Further options of the daemon.
    pub args: Vec<String>,
}

impl Lab {
    /// Packets that get through a back end.
    pub fn through(&self, subject: Subject, way: Way) -> Result<Sample> {
        self.measured(subject, way, None, |back_end, count| {
            let pps = rate(self.time, &mut *count)?;
            if !user_time::is_possible() {
                return Ok(Sample { pps, user_seconds: None });
            }
            let file = tempfile::NamedTempFile::new()?;
            let recording = Recording::start(back_end.pid(), self.time + LONGER, file.path())?;
            // The recording takes time, too.
            let recorded_pps = rate(self.time, &mut *count)?;
            Ok(Sample { pps, user_seconds: Some(recording.share()? / recorded_pps) })
        })
    }

    /// Sends few enough packets that all must arrive, and holds what is counted at the far end against their number.
    pub fn check_count(&self, subject: Subject) -> Result<()> {
        let counted = self.measured(subject, Way::Out, Some(FEW), |_, count| settled(0, count))?;
        let sent = FEW as u64;
        ensure!((sent..=sent + STRAY).contains(&counted), "{sent} packets counted as {counted}, {}", subject.name());
        Ok(())
    }

    /// Has a back end carry packets, so many or without end, and looks at it and the count of what got there.
    fn measured<T>(
        &self,
        subject: Subject,
        way: Way,
        packets: Option<usize>,
        look: impl FnOnce(&BackEnd, &mut dyn FnMut() -> Result<u64>) -> Result<T>,
    ) -> Result<T> {
        let (ns, dir) = (namespace()?, tempfile::tempdir()?);
        let (socket, file) = (dir.path().join("vhost.sock"), dir.path().join("packets.pcap"));
        ns.sh(&format!("ip link add {NEAR} type veth peer name {FAR}"))?;
        ns.sh(&format!("ip link set {NEAR} up && ip link set {FAR} up"))?;
        let frames = Stream::OneFlow.frames(if way == Way::Out { STRANGER } else { CLIENT.1 });
        let count = packets.unwrap_or(frames.len());
        write_capture(&file, &frames.into_iter().cycle().take(count).collect::<Vec<_>>())?;
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let place = Place { ns: &ns, dir: dir.path(), socket: &socket };
        let back_end = subject.start(place, self.memory, &args)?;
        let measure = || {
            let work = match (way, packets) {
                (Way::Out, None) => Work::Endless(&file),
                (Way::Out, Some(_)) => Work::Once(&file),
                (Way::In, _) => Work::ReceiveAndInject(&file, FAR),
            };
            let mut client = Client::start(&ns, dir.path(), &socket, self.memory, work)?;
            let before = ns.counters(FAR)?.rx_packets;
            client.go()?;
            match way {
                Way::Out => look(&back_end, &mut || Ok(ns.counters(FAR)?.rx_packets - before)),
                Way::In => look(&back_end, &mut || Ok(client.moved()?.rx_packets)),
            }
        };
        back_end.explained(measure()).with_context(|| format!("{way}, {}", subject.name()))
    }
}
