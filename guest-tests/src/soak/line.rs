//! A flow from one place to another: both of its ends, in guests or on the host.

use std::net::{TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result, bail};

use super::end::End;
use super::vm::Vm;
use crate::netns::NetNs;
use crate::patience::Patience;
use crate::streams::{start_inside, wait_ready};
use crate::tools::FlowReport;

/// Datagrams a second.
const PPS: u32 = 100;
/// Bytes that a sender's kernel keeps: what has left it is little more than what has come.
const SEND_BUFFER: usize = 128 << 10;
/// In a guest: what ends its senders, and what ends its receivers of datagrams.
pub(super) const STOP: &str = "/tmp/soak.stop";
pub(super) const OVER: &str = "/tmp/soak.over";

/// What flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Datagrams,
}

/// Where an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Guest(usize),
}

/// An end that runs: here, or in a guest under a name.
#[derive(Debug)]
enum Running {
    Host(End),
    Guest(usize, String),
}

/// A flow.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) kind: Kind,
    sender: Running,
    receiver: Running,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest(at) => ["one", "two"][at],
        }
    }

    /// Its address.
    pub(super) fn address(self) -> String {
        match self {
            Self::Host => super::rig::HOST.into(),
            Self::Guest(at) => format!("10.77.0.{}", 2 + at),
        }
    }
}

impl Line {
    /// Starts both ends. `number` is no other line's.
    pub(super) fn start(
        ns: &NetNs,
        vms: &[Vm],
        kind: Kind,
        [from, to]: [Place; 2],
        number: u16,
        seed: u64,
    ) -> Result<Self> {
        let (port, seed) = (5000 + number, seed ^ u64::from(number));
        let tool = match kind {
            Kind::Stream => "stream",
            Kind::Datagrams => "datagram",
        };
        let receiver = match to {
            Place::Host => Running::Host(receive(ns, kind, port, seed)?),
            Place::Guest(at) => {
                let (name, guest) = (format!("receiver{number}"), vms[at].guest()?);
                start_inside(guest, &name, &format!("{tool}-recv {port} {seed} {OVER}"))?;
                wait_ready(guest, &name)?;
                Running::Guest(at, name)
            }
        };
        let sender = match from {
            Place::Host => Running::Host(send(ns, kind, &to.address(), port, seed)?),
            Place::Guest(at) => {
                let name = format!("sender{number}");
                let pps = if kind == Kind::Datagrams { format!("{PPS} ") } else { String::new() };
                let line = format!("{tool}-send {} {port} {seed} {pps}{STOP}", to.address());
                start_inside(vms[at].guest()?, &name, &line)?;
                Running::Guest(at, name)
            }
        };
        let name = format!("{} {} to {}", if kind == Kind::Stream { "TCP" } else { "UDP" }, from.name(), to.name());
        Ok(Self { name, kind, sender, receiver })
    }

    /// What its end on the host has moved; none if it has none there.
    pub(super) fn moved(&self) -> Option<u64> {
        [&self.receiver, &self.sender].into_iter().find_map(|end| match end {
            Running::Host(end) => Some(end.moved()),
            Running::Guest(..) => None,
        })
    }

    /// How much must have moved for it to count as moving.
    pub(super) fn moves_with(&self) -> u64 {
        match (self.kind, &self.sender) {
            (Kind::Datagrams, _) => 0,
            // The sender's and the receiver's kernels may have taken some that the other side has not.
            (Kind::Stream, Running::Host(_)) => 4 << 20,
            (Kind::Stream, Running::Guest(..)) => 256 << 10,
        }
    }

    /// Whether an end on the host has ended.
    pub(super) fn has_ended(&self) -> bool {
        let ended = |end: &Running| matches!(end, Running::Host(end) if end.has_ended());
        ended(&self.sender) || ended(&self.receiver)
    }

    /// Tells a sender on the host to end; those in guests are told by [`STOP`].
    pub(super) fn stop(&self) {
        if let Running::Host(end) = &self.sender {
            end.stop();
        }
    }

    /// Tells a receiver of datagrams on the host to end; those in guests are told by [`OVER`].
    pub(super) fn stop_receiving(&self) {
        if let Running::Host(end) = &self.receiver {
            end.stop();
        }
    }

    /// Waits for both ends: what was sent, and what came.
    pub(super) fn finish(self, vms: &[Vm], patience: &mut Patience) -> [FlowReport; 2] {
        [self.sender, self.receiver].map(|end| end.finish(vms, patience))
    }
}

impl Running {
    fn finish(self, vms: &[Vm], patience: &mut Patience) -> FlowReport {
        match self {
            Self::Host(end) => {
                while !end.has_ended() && !patience.is_over() {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                end.finish()
            }
            Self::Guest(at, name) => told_by(&vms[at], &name, patience).unwrap_or_else(|error| FlowReport {
                failed: Some(format!("guest {} does not tell: {error:#}", vms[at].name)),
                ..FlowReport::default()
            }),
        }
    }
}

/// What an end in a guest said last, once it has ended or nobody waits any longer.
fn told_by(vm: &Vm, name: &str, patience: &mut Patience) -> Result<FlowReport> {
    loop {
        let told = vm.guest()?.run_ok(&format!("tail -n 1 /tmp/{name}; cat /tmp/{name}.error"))?;
        let Some(line) = told.lines().find(|line| line.starts_with('{')) else { bail!("{name}: {told}") };
        let report: FlowReport = serde_json::from_str(line).with_context(|| format!("{name}: {told}"))?;
        if report.ended || patience.is_over() {
            return Ok(report);
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn receive(ns: &NetNs, kind: Kind, port: u16, seed: u64) -> Result<End> {
    Ok(match kind {
        Kind::Stream => {
            let listener = ns.run_in(|| TcpListener::bind(("0.0.0.0", port)))??;
            End::spawn(move |flow| flow.receive_stream(listener.accept()?.0, seed))
        }
        Kind::Datagrams => {
            let socket = ns.run_in(|| UdpSocket::bind(("0.0.0.0", port)))??;
            End::spawn(move |flow| flow.receive_datagrams(&socket, seed))
        }
    })
}

fn send(ns: &NetNs, kind: Kind, address: &str, port: u16, seed: u64) -> Result<End> {
    Ok(match kind {
        Kind::Stream => {
            let stream = ns.run_in(|| TcpStream::connect((address, port)))??;
            rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
            End::spawn(move |flow| flow.send_stream(stream, seed))
        }
        Kind::Datagrams => {
            let socket = ns.run_in(|| UdpSocket::bind("0.0.0.0:0"))??;
            socket.connect((address, port))?;
            End::spawn(move |flow| flow.send_datagrams(&socket, seed, PPS))
        }
    })
}
