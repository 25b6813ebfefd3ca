//! Traffic that goes on for as long as one likes and is checked as it comes: whoever knows its seed knows every byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::payload::Payload;

/// Bytes of a stream that are made, sent and compared at a time.
const PIECE: usize = 64 << 10;
/// A rest after each: a stream leaves some of the processors to the others.
const REST: Duration = Duration::from_millis(4);
/// Bytes of a datagram: its number, and payload by its number.
const SHORTEST: usize = 16;
const LONGEST: usize = 1472;
/// How far back a datagram that comes once more is known.
const REMEMBERED: u64 = 1 << 16;
/// How often somebody who waits looks whether to stop.
const LOOK: Duration = Duration::from_millis(200);

/// One end of a flow, as others see it while it moves.
#[derive(Debug, Default)]
pub struct Flow {
    moved: AtomicU64,
    corrupt: AtomicU64,
    repeated: AtomicU64,
    stop: AtomicBool,
}

/// The same at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Bytes of a stream, or datagrams, each counted once.
    pub moved: u64,
    /// Those of them that are not as they were sent.
    pub corrupt: u64,
    /// Datagrams that came once more.
    pub repeated: u64,
    /// Whether it has ended.
    pub ended: bool,
    /// Why, if not in order.
    pub failed: Option<String>,
}

impl Flow {
    /// What it has moved so far, in bytes or datagrams.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Tells it to end. A receiver of a stream ends when the sender does.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What is known of it; `end` if it has ended.
    pub fn report(&self, end: Option<&Result<()>>) -> FlowReport {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let failed = end.and_then(|end| end.as_ref().err()).map(|error| format!("{error:#}"));
        let [moved, corrupt, repeated] = [&self.moved, &self.corrupt, &self.repeated].map(get);
        FlowReport { moved, corrupt, repeated, ended: end.is_some(), failed }
    }

    /// Sends until it is told to stop, and waits until the receiver has all.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send_stream(&self, mut stream: TcpStream, seed: u64) -> Result<()> {
        let (mut payload, mut piece) = (Payload::new(seed), vec![0; PIECE]);
        while !self.stopped() {
            payload.fill(&mut piece);
            stream.write_all(&piece).with_context(|| format!("broken after {} bytes", self.moved()))?;
            self.moved.fetch_add(PIECE as u64, Ordering::Relaxed);
            thread::sleep(REST);
        }
        stream.shutdown(Shutdown::Write)?;
        ensure!(retried(|| stream.read(&mut [0]))? == 0, "the receiver sent something");
        Ok(())
    }

    /// Receives until the sender ends, and compares.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn receive_stream(&self, mut stream: TcpStream, seed: u64) -> Result<()> {
        let (mut payload, mut piece, mut expected) = (Payload::new(seed), vec![0; PIECE], vec![0; PIECE]);
        loop {
            let mut len = 0;
            payload.fill(&mut expected);
            while len < PIECE {
                let broken = || format!("broken after {} bytes", self.moved());
                let came = retried(|| stream.read(&mut piece[len..])).with_context(broken)?;
                if came == 0 {
                    return Ok(());
                }
                let wrong = piece[len..].iter().zip(&expected[len..]).take(came).filter(|(is, was)| is != was).count();
                self.corrupt.fetch_add(wrong as u64, Ordering::Relaxed);
                self.moved.fetch_add(came as u64, Ordering::Relaxed);
                len += came;
            }
        }
    }

    /// Sends about `pps` datagrams a second until it is told to stop. Those that the kernel does not take are not counted.
    ///
    /// # Errors
    /// Never: a network that is away comes back.
    pub fn send_datagrams(&self, socket: &UdpSocket, seed: u64, pps: u32) -> Result<()> {
        let mut number = 0;
        while !self.stopped() {
            if socket.send(&datagram(seed, number)).is_ok() {
                self.moved.fetch_add(1, Ordering::Relaxed);
            }
            number += 1;
            thread::sleep(Duration::from_secs(1) / pps.max(1));
        }
        Ok(())
    }

    /// Receives until it is told to stop, and compares.
    ///
    /// # Errors
    /// Never: what a socket says of datagrams that were sent is not looked at.
    pub fn receive_datagrams(&self, socket: &UdpSocket, seed: u64) -> Result<()> {
        socket.set_read_timeout(Some(LOOK))?;
        let (mut buffer, mut seen) = (vec![0; 1 << 16], Seen::default());
        while !self.stopped() {
            let Ok(len) = socket.recv(&mut buffer) else { continue };
            let count = match judged(seed, &buffer[..len]) {
                None => &self.corrupt,
                Some(number) if seen.before(number) => &self.repeated,
                Some(_) => &self.moved,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The datagram of this number.
fn datagram(seed: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; SHORTEST + (number.wrapping_mul(0x9e37_79b9) % (LONGEST - SHORTEST) as u64) as usize];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Payload::new(seed ^ number << 16).fill(&mut bytes[8..]);
    bytes
}

/// The number of a datagram that is as it was sent.
fn judged(seed: u64, bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (datagram(seed, number) == bytes).then_some(number)
}

/// Which datagrams have come of late.
#[derive(Debug, Default)]
struct Seen {
    next: u64,
    came: Vec<bool>,
}

impl Seen {
    /// Whether this one has come before; it has now.
    fn before(&mut self, number: u64) -> bool {
        self.came.resize(REMEMBERED as usize, false);
        let place = |number: u64| (number % REMEMBERED) as usize;
        for skipped in self.next.max((number + 1).saturating_sub(REMEMBERED))..=number {
            self.came[place(skipped)] = false;
        }
        let is_forgotten = number + REMEMBERED < self.next;
        self.next = self.next.max(number + 1);
        !is_forgotten && std::mem::replace(&mut self.came[place(number)], true)
    }
}

/// A read that a machine which stood still for a moment does not end.
fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Runs one end, tells of it every second, and stops it when the file `stop` exists.
pub(super) fn told(stop: &Path, end: impl FnOnce(&Flow) -> Result<()> + Send) -> Result<()> {
    let flow = Flow::default();
    let end = thread::scope(|scope| {
        let moving = scope.spawn(|| end(&flow));
        while !moving.is_finished() {
            super::print(&flow.report(None))?;
            thread::sleep(Duration::from_secs(1));
            if stop.exists() {
                flow.stop();
            }
        }
        moving.join().map_err(|_| anyhow::anyhow!("a flow panicked"))
    })?;
    super::print(&flow.report(Some(&end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_known_by_its_seed_and_number() {
        let mut bytes = datagram(7, 40);
        assert_eq!(judged(7, &bytes), Some(40));
        assert_eq!((judged(8, &bytes), judged(7, &bytes[..bytes.len() - 1]), judged(7, &[])), (None, None, None));
        bytes[12] ^= 1;
        assert_eq!(judged(7, &bytes), None);
    }

    #[test]
    fn what_comes_once_more_is_told_from_what_comes_late() {
        let mut seen = Seen::default();
        let came = [0, 1, 3, 2, 3, REMEMBERED + 2, 2, REMEMBERED + 1, REMEMBERED + 2].map(|number| seen.before(number));
        assert_eq!(came, [false, false, false, false, true, false, false, false, true]);
    }

    #[test]
    fn a_stream_is_compared_byte_by_byte() -> Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let (sender, receiver) = (Flow::default(), Flow::default());
        let to = listener.local_addr()?;
        thread::scope(|scope| {
            scope.spawn(|| sender.send_stream(TcpStream::connect(to).unwrap(), 1).unwrap());
            let stream = listener.accept()?.0;
            scope.spawn(|| {
                while sender.moved() < 3 * PIECE as u64 {
                    thread::yield_now();
                }
                sender.stop();
            });
            receiver.receive_stream(stream, 1)
        })?;
        assert_eq!((receiver.moved(), receiver.report(None).corrupt), (sender.moved(), 0));
        Ok(())
    }
}
