//! A client of the control socket: what it sent that is not answered yet, and what it has not read yet, both bounded.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use vmm_sys_util::epoll::EventSet;

use super::events::lost_line;
use super::rpc::{self, RpcError};

/// Longest request in bytes.
const MAX_REQUEST: usize = 64 << 10;
/// Most bytes of events kept for a subscriber that does not read them.
const MAX_UNREAD: usize = 256 << 10;
/// A client that did nothing for so long may have to leave for another: one that has read all it was sent, and one that
/// has not.
const GRACE: Duration = Duration::from_millis(100);
const DEAF_GRACE: Duration = Duration::from_secs(10);

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Nothing more will be sent by it; it goes when it has read its answers.
    is_finished: bool,
    is_subscribed: bool,
    /// Events that it was too slow for and has not been told of.
    lost: u64,
    has_asked: bool,
    /// What goes with the first bytes that are written next.
    to_pass: Option<OwnedFd>,
    /// When it last sent or read something.
    active: Instant,
}

/// A client has gone, or breaks off.
#[derive(Debug)]
pub(super) struct Gone;

impl Client {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            is_finished: false,
            is_subscribed: false,
            lost: 0,
            has_asked: false,
            to_pass: None,
            active: Instant::now(),
        }
    }

    /// Its next request, a line. One that has not read its last answer is not listened to.
    pub(super) fn request(&mut self) -> Result<Option<Vec<u8>>, Gone> {
        if !self.output.is_empty() {
            return Ok(None);
        }
        if self.end_of_line().is_none() && !self.is_finished {
            self.receive()?;
        }
        let line = self.end_of_line().map(|end| self.input.drain(..=end).collect());
        if line.is_none() && self.input.len() > MAX_REQUEST {
            self.put(&rpc::failure(&Value::Null, &RpcError::too_long(MAX_REQUEST)));
            self.input = Vec::new();
            self.is_finished = true;
        }
        self.has_asked |= line.is_some();
        Ok(line)
    }

    fn end_of_line(&self) -> Option<usize> {
        self.input.iter().position(|byte| *byte == b'\n')
    }

    fn receive(&mut self) -> Result<(), Gone> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.is_finished = true,
            Ok(n) => {
                self.input.extend(&bytes[..n]);
                self.active = Instant::now();
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Err(Gone),
        }
        Ok(())
    }

    /// Keeps a line for it.
    pub(super) fn put(&mut self, line: &str) {
        self.output.extend(line.as_bytes());
    }

    /// Passes it an open file, with the answer that is put next.
    pub(super) fn pass(&mut self, file: OwnedFd) {
        self.to_pass = Some(file);
    }

    /// What it is known by, as long as it is there.
    pub(super) fn id(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Its process; 0 if the kernel does not tell.
    pub(super) fn pid(&self) -> i32 {
        socket_peercred(&self.stream).map_or(0, |peer| peer.pid.as_raw_nonzero().get())
    }

    /// It is told of events from now on.
    pub(super) fn subscribe(&mut self) {
        self.is_subscribed = true;
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.is_subscribed
    }

    /// Whether it has read enough for another line to be kept for it.
    pub(super) fn has_room_for(&self, line: &str) -> bool {
        self.output.len() + line.len() <= MAX_UNREAD
    }

    /// Keeps an event for it, or counts it as lost.
    pub(super) fn tell(&mut self, event: &str) {
        if !self.has_room_for(event) {
            self.lose(1);
            return;
        }
        self.tell_of_losses();
        self.put(event);
    }

    /// Counts events that it will not be told.
    pub(super) fn lose(&mut self, events: u64) {
        self.lost += events;
    }

    fn tell_of_losses(&mut self) {
        if self.lost > 0 {
            let line = lost_line(std::mem::take(&mut self.lost));
            self.put(&line);
        }
    }

    /// Writes some of what is kept for it.
    fn write(&mut self) -> io::Result<usize> {
        let Some(file) = &self.to_pass else { return self.stream.write(&self.output) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        message.push(SendAncillaryMessage::ScmRights(&files));
        let sent = sendmsg(&self.stream, &[IoSlice::new(&self.output)], &mut message, SendFlags::NOSIGNAL)?;
        self.to_pass = None;
        Ok(sent)
    }

    /// Writes what it takes. Says what to wait for then.
    pub(super) fn send(&mut self) -> Result<EventSet, Gone> {
        loop {
            if self.output.is_empty() {
                self.tell_of_losses();
            }
            if self.output.is_empty() {
                break;
            }
            match self.write() {
                Ok(n) => {
                    self.output.drain(..n);
                    self.active = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(EventSet::OUT),
                Err(_) => return Err(Gone),
            }
        }
        // Another request waits: it is its turn after everybody else's.
        if self.end_of_line().is_some() {
            return Ok(EventSet::OUT);
        }
        match (self.is_finished, self.is_subscribed) {
            (true, false) => Err(Gone),
            (true, true) => Ok(EventSet::empty()),
            (false, _) => Ok(EventSet::IN),
        }
    }

    /// Whether nothing that it sent is left to be answered once it has hung up.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether it may have to leave for another, and in which order: first those that never asked for anything, then
    /// those that did nothing for longest.
    pub(super) fn idleness(&self, now: Instant) -> Option<(bool, Duration)> {
        let idle = now.duration_since(self.active);
        let grace = if self.output.is_empty() { GRACE } else { DEAF_GRACE };
        (!self.is_subscribed && idle >= grace).then_some((!self.has_asked, idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Client::new(ours), theirs)
    }

    fn read_all(stream: &mut UnixStream) -> String {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn requests_come_one_by_one_and_wait_for_answers_to_be_read() {
        let (mut client, mut peer) = pair();
        peer.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(client.request().unwrap().unwrap(), b"one\n");
        client.put("answer\n");
        assert!(client.request().unwrap().is_none(), "an answer is unread");
        assert_eq!(client.send().unwrap(), EventSet::OUT, "two waits");
        assert_eq!(client.request().unwrap().unwrap(), b"two\n");
        assert_eq!(client.send().unwrap(), EventSet::IN);
        assert_eq!(read_all(&mut peer), "answer\n");
        drop(peer);
        assert!(client.request().unwrap().is_none());
        assert!(client.send().is_err(), "half a request is none");
    }

    #[test]
    fn a_request_without_end_is_refused_before_it_fills_the_memory() {
        let (mut client, mut peer) = pair();
        let mut sent = 0;
        while !client.is_finished() {
            sent += peer.write(&[b'x'; 1000]).unwrap();
            assert!(client.request().unwrap().is_none());
        }
        assert!(sent < MAX_REQUEST + 8192, "{sent} bytes were taken");
        assert!(client.send().is_err());
        assert!(read_all(&mut peer).contains("at most 65536 bytes"));
    }

    #[test]
    fn a_subscriber_that_does_not_read_loses_events_and_is_told_how_many() {
        let (mut client, mut peer) = pair();
        client.subscribe();
        let event = "x".repeat(999) + "\n";
        for _ in 0..2000 {
            client.tell(&event);
            client.send().unwrap();
        }
        assert!(client.output.len() <= MAX_UNREAD);
        let mut heard = String::new();
        while !client.output.is_empty() {
            heard += &read_all(&mut peer);
            client.send().unwrap();
        }
        heard += &read_all(&mut peer);
        let told: Vec<_> = heard.lines().filter(|line| line.contains("events.lost")).collect();
        let [told] = told.as_slice() else { panic!("{told:?}") };
        let told: Value = serde_json::from_str(told).unwrap();
        let lost = told["params"]["events"].as_u64().unwrap();
        assert_eq!((lost + heard.matches(&event).count() as u64, lost > 0), (2000, true));
        client.tell(&event);
        client.send().unwrap();
        assert_eq!(read_all(&mut peer), event, "it is told once");
    }

    #[test]
    fn who_is_idle_may_have_to_leave() {
        let (mut client, mut peer) = pair();
        let later = |ms| Instant::now() + Duration::from_millis(ms);
        assert_eq!(client.idleness(Instant::now()), None);
        assert!(client.idleness(later(200)).is_some_and(|(never_asked, _)| never_asked));
        peer.write_all(b"one\n").unwrap();
        client.request().unwrap();
        assert!(client.idleness(later(200)).is_some_and(|(never_asked, _)| !never_asked));
        client.put("unread\n");
        assert_eq!(client.idleness(later(5000)), None, "it may read yet");
        assert!(client.idleness(later(11_000)).is_some());
        client.send().unwrap();
        client.subscribe();
        assert_eq!(client.idleness(later(1_000_000)), None, "it waits for events");
    }
}
