//! Packets towards the TAP: how many get to what is behind it.

#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::NetNs;

use super::client::{Client, Work};
use super::packets::Stream;
use super::sink::{Behind, Sink};
use super::subject::{BackEnd, Subject, WARM_UP};
use super::writer::Writer;
use crate::testpmd::{BACK_END_CPU, Memory};

/// How long the first packet may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must come before nothing more is expected.
const QUIET: Duration = Duration::from_millis(300);
/// Packets that find room in the ring, whatever the back end does meanwhile.
const FEW: usize = 500;
/// Frames of their own that interfaces may send when they come up.
const STRAY: u64 = 2;

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
    /// Packets a second that get through a back end to a sink.
    pub fn through(&self, subject: Subject, stream: Stream, sink: Sink) -> Result<f64> {
        let (ns, dir) = (namespace()?, tempfile::tempdir()?);
        let (socket, file) = (dir.path().join("vhost.sock"), dir.path().join("packets.pcap"));
        stream.write(&file, sink.mac())?;
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let back_end = BackEnd::start(subject, &ns, dir.path(), &socket, self.memory, &args)?;
        let measure = || {
            let behind = Behind::tap(&ns, sink)?;
            let work = if stream == Stream::Txonly { Work::Txonly } else { Work::Endless(&file) };
            let mut client = Client::start(&ns, dir.path(), &socket, self.memory, work)?;
            client.go()?;
            rate(self.time, || behind.packets())
        };
        back_end.explained(measure()).with_context(|| format!("{stream} to {sink}, {}", subject.name()))
    }

    /// Packets a second that a loop of writes gets to a sink.
    pub fn written(&self, stream: Stream, sink: Sink) -> Result<f64> {
        let ns = namespace()?;
        let writer = Writer::on(&ns, BACK_END_CPU, &stream.frames(sink.mac()))?;
        let behind = Behind::tap(&ns, sink)?;
        writer.go();
        let rate = rate(self.time, || behind.packets());
        writer.end()?;
        rate.with_context(|| format!("{stream} to {sink}, written"))
    }

    /// Packets a second that the client sends when the daemon drops them unseen: its own limit.
    pub fn client_alone(&self, stream: Stream) -> Result<f64> {
        let (ns, dir) = (namespace()?, tempfile::tempdir()?);
        let (socket, file) = (dir.path().join("vhost.sock"), dir.path().join("packets.pcap"));
        stream.write(&file, Sink::Stack.mac())?;
        let _back_end = BackEnd::vnicd(&ns, &socket, "discard,unread", &[])?;
        let work = if stream == Stream::Txonly { Work::Txonly } else { Work::Endless(&file) };
        let mut client = Client::start(&ns, dir.path(), &socket, self.memory, work)?;
        client.go()?;
        rate(self.time, || Ok(client.moved()?.tx_packets))
    }

    /// Sends few enough packets that all must arrive, and holds what is counted behind the TAP against their number.
    pub fn check_count(&self, subject: Subject, sink: Sink) -> Result<()> {
        let (ns, dir) = (namespace()?, tempfile::tempdir()?);
        let (socket, file) = (dir.path().join("vhost.sock"), dir.path().join("packets.pcap"));
        let frames: Vec<_> = Stream::OneFlow.frames(sink.mac()).into_iter().cycle().take(FEW).collect();
        guest_tests::testpmd::write_capture(&file, &frames)?;
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let back_end = BackEnd::start(subject, &ns, dir.path(), &socket, self.memory, &args)?;
        let behind = Behind::tap(&ns, sink)?;
        let mut client = Client::start(&ns, dir.path(), &socket, self.memory, Work::Once(&file))?;
        let before = behind.packets()?;
        client.go()?;
        let read = || behind.read_all().and_then(|()| behind.packets());
        let counted = back_end.explained(settled(before, read))? - before;
        let sent = client.moved()?.tx_packets;
        ensure!(sent == FEW as u64, "the client sent {sent} of {FEW} packets");
        ensure!(
            (sent..=sent + STRAY).contains(&counted),
            "{sent} packets counted as {counted} at {sink}, {}",
            subject.name()
        );
        Ok(())
    }
}

/// A namespace in which nobody speaks unasked.
pub fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// How much is added a second, once anything is and it has warmed up.
fn rate(time: Duration, mut count: impl FnMut() -> Result<u64>) -> Result<f64> {
    let begun = Instant::now();
    while count()? == 0 {
        ensure!(begun.elapsed() < PATIENCE, "no packet gets there");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(WARM_UP);
    let (start, before) = (Instant::now(), count()?);
    thread::sleep(time);
    let after = count()?;
    Ok((after - before) as f64 / start.elapsed().as_secs_f64())
}

/// What is counted when something was added to `first`, and nothing more comes.
pub(super) fn settled(first: u64, mut count: impl FnMut() -> Result<u64>) -> Result<u64> {
    let begun = Instant::now();
    let (mut last, mut since) = (first, begun);
    loop {
        thread::sleep(Duration::from_millis(10));
        let now = count()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if last > first && since.elapsed() > QUIET {
            return Ok(last);
        }
        ensure!(begun.elapsed() < PATIENCE, "no packet gets there");
    }
}
