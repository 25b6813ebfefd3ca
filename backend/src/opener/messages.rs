//! What the daemon asks its opener for, and what it gets: a message each way, one packet of a socket each. A message names
//! things that are configured; no path and no interface is ever asked for.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Most bytes of a question and of an answer, and most bytes of an error's text.
pub(super) const MAX_REQUEST: usize = 1 << 10;
pub(super) const MAX_ANSWER: usize = 32 << 10;
const MAX_TEXT: usize = 4 << 10;
/// Most file descriptors of an answer: a socket for each of 32 queues, and what belongs to an XDP program.
const MAX_FDS: usize = 40;

/// What the opener is asked for. A device is given by its name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Request {
    /// The control socket.
    Control,
    /// The end of a listening socket's name in the file system.
    Remove(Place),
    /// The port for metrics.
    Metrics,
    /// What front ends of the device come through.
    Entrance(String),
    /// A connection to the device's front end, which listens.
    Connect(String),
    /// The device's uplink.
    Uplink(String),
    /// The device's state file.
    State(String),
    /// Another MTU for the interface of the device's uplink.
    Mtu(String, u16),
    /// Real-time priority for a thread of the daemon that serves the device; without one, whether that can be had.
    Realtime(String, Option<i32>),
    /// The text of the configuration as it is now. If it makes sense, it is what is opened from now on.
    Reread,
}

/// Whose socket it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash, Serialize)]
pub(super) enum Place {
    /// The daemon's, for control.
    Control,
    /// A device's, for front ends.
    Device(String),
}

/// What the opener says. File descriptors come with it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// A listening socket of ours.
    Listening,
    /// A listening socket of somebody else's.
    Passed,
    /// A connection.
    Connected,
    /// No socket: front ends are to be connected to.
    Connects,
    /// Queues of a TAP.
    Tap { name: String, multi_queue: bool, existed: bool, uso: bool, guest_mac: Option<[u8; 6]> },
    /// Sockets of an interface, then link, sockets' map and rules' map of its program if there is one, then a packet socket
    /// if there is one.
    Xdp { interface: u32, mtu: u32, busy_poll: bool, program: Option<ProgramTerms>, packets: bool },
    /// It cannot be had, or not by this daemon: the reason.
    Refused(String),
}

/// How an XDP program runs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct ProgramTerms {
    pub(super) is_generic: bool,
    pub(super) is_shared: bool,
}

impl Answer {
    /// A refusal with as much of the reason as fits.
    pub(super) fn refused(mut text: String) -> Self {
        let end = (0..=text.len().min(MAX_TEXT)).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        Self::Refused(text)
    }
}

/// Sends a message with file descriptors.
pub(super) fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[OwnedFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message of at most `max` bytes, and the file descriptors that came with it; nothing if the other end has gone.
/// One that is longer, has more descriptors, or is none, is an error of kind `InvalidData`.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd, max: usize) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            got => break got?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let fds: Vec<OwnedFd> = rights.flatten().collect();
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(ErrorKind::InvalidData.into());
    }
    let message = serde_json::from_slice(&bytes[..got.bytes]);
    Ok(Some((message.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?, fds)))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (a, b) = pair();
        let fds: Vec<OwnedFd> = (0..MAX_FDS).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        let answer = Answer::Tap { name: "t".into(), multi_queue: true, existed: false, uso: true, guest_mac: None };
        send(&a, &answer, &fds).unwrap();
        send(&a, &Request::Mtu("nic0".into(), 9000), &[]).unwrap();
        let (got, got_fds) = receive::<Answer>(&b, MAX_ANSWER).unwrap().unwrap();
        assert_eq!((got, got_fds.len()), (answer, MAX_FDS));
        let (got, got_fds) = receive::<Request>(&b, MAX_REQUEST).unwrap().unwrap();
        assert_eq!((got, got_fds.len()), (Request::Mtu("nic0".into(), 9000), 0));
        drop(a);
        assert!(receive::<Request>(&b, MAX_REQUEST).unwrap().is_none());
    }

    #[test]
    fn a_reason_of_any_length_fits() {
        let (a, b) = pair();
        for text in ["\u{1}".repeat(100_000), "ü".repeat(100_000)] {
            send(&a, &Answer::refused(text.clone()), &[]).unwrap();
            let (got, _) = receive::<Answer>(&b, MAX_ANSWER).unwrap().unwrap();
            assert!(matches!(got, Answer::Refused(got) if got.len() > 4000 && text.starts_with(&got)));
        }
    }

    #[test]
    fn what_is_no_message_is_an_error_and_the_next_one_is_read() {
        let (a, b) = pair();
        let long = vec![b' '; MAX_REQUEST + 1];
        for bad in [&b"{"[..], b"\"Everything\"", b"{\"Uplink\":7}", b"\xff", b"{\"Mtu\":[\"a\",65536]}", &long] {
            rustix::net::send(&a, bad, SendFlags::empty()).unwrap();
            let error = receive::<Request>(&b, MAX_REQUEST).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{}", bad.escape_ascii());
        }
        send(&a, &Request::Metrics, &[]).unwrap();
        assert!(receive::<Request>(&b, MAX_REQUEST).unwrap().is_some());
    }
}
