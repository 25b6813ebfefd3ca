//! Packets towards the TAP: how many get to what is behind it.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::sink::{Behind, Sink};
use super::subject::Subject;
use super::writer::Writer;
use crate::testpmd::{BACK_END_CPU, Memory};
use crate::uplinks::counting::{namespace, rate, settled};
use crate::uplinks::{BackEnd, Client, Place, Stream, Work};

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
        let back_end = subject.start(Place { ns: &ns, dir: dir.path(), socket: &socket }, self.memory, &args)?;
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
        let _back_end = BackEnd::vnicd(Place { ns: &ns, dir: dir.path(), socket: &socket }, "discard,unread", &[])?;
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
        let back_end = subject.start(Place { ns: &ns, dir: dir.path(), socket: &socket }, self.memory, &args)?;
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
