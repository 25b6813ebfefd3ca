//! Someone who scrapes: what has come from it, and what it has still to read.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::http;

/// A client that is not done after this time is dropped.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes that are read and thrown away after the answer.
const MAX_UNWANTED: usize = 64 << 10;

/// A client of the metrics' port.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    phase: Phase,
    deadline: Instant,
}

#[derive(Debug)]
enum Phase {
    /// So much of its request has come.
    Request(Vec<u8>),
    /// It has so much to read, of which so many bytes are sent.
    Answer(String, usize),
    /// It has its answer. To close while it still sends would take the answer from it (RFC 9112, 9.6), so it may send
    /// so much more.
    Goodbye(usize),
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    Write,
    Drop,
}

impl Client {
    /// One that has just come.
    pub(super) fn new(stream: TcpStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, phase: Phase::Request(Vec::new()), deadline: now + PATIENCE })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether its time is over.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// Goes on as far as it can without waiting: one read or one write.
    pub(super) fn advance(&mut self, metrics: impl FnOnce() -> String) -> Next {
        match self.step(metrics) {
            Ok(next) => next,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => self.waits_for(),
            Err(_) => Next::Drop,
        }
    }

    fn step(&mut self, metrics: impl FnOnce() -> String) -> io::Result<Next> {
        let mut bytes = [0; 4096];
        match &mut self.phase {
            Phase::Request(request) => match self.stream.read(&mut bytes)? {
                0 => return Ok(Next::Drop),
                n => {
                    request.extend(&bytes[..n]);
                    if let http::Next::Answer(answer) = http::answer(request, metrics) {
                        self.phase = Phase::Answer(answer, 0);
                    }
                }
            },
            Phase::Answer(answer, sent) => {
                *sent += self.stream.write(answer.as_bytes().get(*sent..).unwrap_or_default())?;
                if *sent >= answer.len() {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.phase = Phase::Goodbye(MAX_UNWANTED);
                }
            }
            Phase::Goodbye(left) => match (self.stream.read(&mut bytes)?, *left) {
                (read @ 1.., 1..) => *left = left.saturating_sub(read),
                _ => return Ok(Next::Drop),
            },
        }
        Ok(self.waits_for())
    }

    fn waits_for(&self) -> Next {
        match self.phase {
            Phase::Answer(..) => Next::Write,
            Phase::Request(_) | Phase::Goodbye(_) => Next::Read,
        }
    }
}
