//! One front end's connection, from the first message to the last.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vhost::vhost_user::Error;

use super::adapter;
use super::refusal::chain;
use super::session::Session;
use crate::nic::Nic;
use crate::record::Peer;

/// How long a front end that made a mistake is kept from making it again: some connect anew at once, for ever, and each
/// time is a line in the log. Not under a fuzzer, which makes little else than mistakes.
const MISTAKE_PAUSE: Duration = Duration::from_millis(if cfg!(fuzzing) { 0 } else { 50 });

/// How long the rings of a front end may take to stop before it learns that its connection ends.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// How long a thread may take to end after that: as long as a worker is waited for, and some more.
const LAST_PATIENCE: Duration = Duration::from_secs(4);

/// Serves the front end at the other end of `stream` until it goes; then its rings are stopped, its memory is let go
/// and the connection is closed. Says whether it ran any. `spoke` is set when its first message has come.
pub(super) fn serve(stream: &UnixStream, nic: Arc<Nic>, spoke: &AtomicBool) -> bool {
    let (device, peer) = (nic.name(), peer(stream));
    let front_ends = nic.front_ends();
    front_ends.counters.served.add(1);
    front_ends.arrivals.tell(|left_out| tracing::info!(%device, pid = peer.pid, left_out, "front end connected"));
    let session = Arc::new(Mutex::new(Session::new(nic.clone(), peer)));
    let result = adapter::serve(stream, &session, spoke);
    let had_rings = {
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let had_rings = session.rings.iter().any(|ring| ring.started);
        session.end();
        had_rings
    };
    match result.err().filter(is_fault) {
        None => front_ends.ends.tell(|left_out| tracing::info!(%device, left_out, "front end gone")),
        Some(e) => {
            // Its rings are stopped and its memory is let go; only the end of the connection waits.
            std::thread::sleep(MISTAKE_PAUSE);
            front_ends.counters.ended_for_fault.add(1);
            front_ends.ends.tell(|left_out| {
                tracing::error!(%device, left_out, "front end gone, its connection ended: {}", chain(&e));
            });
        }
    }
    // The front end learns of it now, though others may still hold the socket.
    let _ = stream.shutdown(Shutdown::Both);
    had_rings
}

/// Whether a connection ended for anything but that the front end ended it: with something unread maybe, or before it let
/// the daemon in.
fn is_fault(error: &Error) -> bool {
    match error {
        Error::Disconnected => false,
        Error::SocketBroken(e) => ![ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&e.kind()),
        _ => true,
    }
}

/// To the thread that serves a connection it looks from now on as if the front end had gone.
pub(super) fn hang_up(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Read);
}

/// Ends a connection that `thread` serves: its rings are stopped first, and only then does the front end learn of it. QEMU
/// works on a guest's rings itself as soon as it has lost their device.
pub(super) fn end(stream: &UnixStream, thread: JoinHandle<()>) {
    hang_up(stream);
    if !ends_within(&thread, END_PATIENCE) {
        // It may wait for a front end that does not read.
        let _ = stream.shutdown(Shutdown::Both);
        if !ends_within(&thread, LAST_PATIENCE) {
            // Or for a file of the front end's that does not let itself be closed.
            return tracing::error!("a front end's thread does not end");
        }
    }
    join(thread);
}

fn ends_within(thread: &JoinHandle<()>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !thread.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(100));
    }
    thread.is_finished()
}

/// Waits for the thread of a front end.
pub(super) fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("the front end's thread panicked");
    }
}

/// Who is at the other end: who made the connection, or who listened for it.
pub(super) fn peer(stream: &impl AsFd) -> Peer {
    let cred = rustix::net::sockopt::socket_peercred(stream);
    cred.map_or(Peer::UNKNOWN, |cred| Peer { pid: cred.pid.as_raw_nonzero().get(), uid: cred.uid.as_raw() })
}
