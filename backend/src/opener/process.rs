//! The opener as a process of its own: it is made before anything else happens, keeps the rights, and hears only what the
//! daemon asks for over a socket. It ends with the daemon.
//!
//! Whatever it is asked for by a daemon that was taken over, it opens nothing but what its plan names. So a plan must never
//! come over this socket: one that changes while the daemon runs is to come from where the first one came from, the
//! configuration, which the opener has to read itself.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::CapabilitySet;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::client::Client;
use super::fork::fork;
use super::messages::{Answer, MAX_REQUEST, receive, send};
use super::service::Opener;

/// How to see it among processes.
const NAME: &std::ffi::CStr = c"vnicd-opener";

impl Opener {
    /// Becomes a process of its own, and gives the way to ask it. To be called before any thread is started. `confine` is
    /// called there with the capabilities that it needs, to give up all others.
    ///
    /// # Errors
    /// When the kernel gives no process or socket.
    pub fn into_process(self, confine: impl FnOnce(CapabilitySet) -> io::Result<()>) -> io::Result<Client> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        if let Some(pid) = fork()? {
            return Client::of_process(ours, pid);
        }
        drop(ours);
        let mut needed = self.plan().capabilities();
        if self.may_change() {
            // A TAP may come; what AF_XDP takes is too much to keep for one that may never.
            needed |= CapabilitySet::NET_ADMIN;
        }
        let ended = settle().and_then(|()| confine(needed)).and_then(|()| self.serve(&theirs));
        if let Err(e) = &ended {
            tracing::error!("the opener ends: {e}");
        }
        std::process::exit(i32::from(ended.is_err()));
    }

    /// Answers until the other end closes.
    fn serve(mut self, socket: &OwnedFd) -> io::Result<()> {
        loop {
            let (answer, fds) = match receive(socket, MAX_REQUEST) {
                Ok(None) => return Ok(()),
                Ok(Some((request, _))) => self.answer(&request),
                Err(e) if e.kind() == ErrorKind::InvalidData => {
                    (Answer::refused(format!("no request: {e}")), Vec::new())
                }
                Err(e) => return Err(e),
            };
            match send(socket, &answer, &fds) {
                Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return Ok(()),
                other => other?,
            }
        }
    }
}

/// Signals to the process group are for the daemon, which may still want something removed when it ends.
fn settle() -> io::Result<()> {
    rustix::thread::set_name(NAME)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::<AtomicBool>::default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::SendFlags;

    use super::*;
    use crate::opener::messages::{MAX_ANSWER, Request};

    #[test]
    fn garbage_is_refused_and_the_opener_lives() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let opener = std::thread::spawn(move || Opener::default().serve(&theirs));
        let long = vec![b'x'; 4 * MAX_REQUEST];
        let deep = b"[".repeat(MAX_REQUEST);
        for garbage in [&b"x"[..], b"{}", b"{\"Uplink\":{\"path\":\"/etc/passwd\"}}", &[0; 64], &long, &deep] {
            rustix::net::send(&ours, garbage, SendFlags::empty()).unwrap();
            let (answer, fds) = receive::<Answer>(&ours, MAX_ANSWER).unwrap().unwrap();
            assert!(matches!(answer, Answer::Refused(text) if text.contains("no request")) && fds.is_empty());
        }
        // Descriptors that nobody asked for are let go of.
        let (end, other) = std::os::unix::net::UnixStream::pair().unwrap();
        send(&ours, &Request::Metrics, &[end.into()]).unwrap();
        assert!(matches!(receive::<Answer>(&ours, MAX_ANSWER).unwrap().unwrap().0, Answer::Refused(_)));
        assert_eq!(std::io::Read::read(&mut { other }, &mut [0]).unwrap(), 0);
        drop(ours);
        opener.join().unwrap().unwrap();
    }
}
