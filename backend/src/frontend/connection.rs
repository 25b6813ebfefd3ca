//! One front end's connection, from the first message to the last.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vhost::vhost_user::Error;

use super::adapter;
use super::refusal::chain;
use super::session::Session;
use crate::nic::Nic;

/// How long a front end that made a mistake is kept from making it again: some connect anew at once, for ever, and each
/// time is a line in the log. Not under a fuzzer, which makes little else than mistakes.
const MISTAKE_PAUSE: Duration = Duration::from_millis(if cfg!(fuzzing) { 0 } else { 50 });

/// Serves the front end at the other end of `stream` until it goes; then its rings are stopped, its memory is let go
/// and the connection is closed. `spoke` is set when its first message has come.
pub(super) fn serve(stream: &UnixStream, nic: Arc<Nic>, spoke: &AtomicBool) {
    let session = Arc::new(Mutex::new(Session::new(nic, peer(stream))));
    let result = adapter::serve(stream, &session, spoke);
    session.lock().unwrap_or_else(PoisonError::into_inner).end();
    match result {
        Ok(()) | Err(Error::Disconnected) => tracing::info!("front end gone"),
        Err(e) => {
            // Its rings are stopped and its memory is let go; only the end of the connection waits.
            std::thread::sleep(MISTAKE_PAUSE);
            tracing::error!("front end gone, its connection ended: {}", chain(&e));
        }
    }
    // The front end learns of it now, though others may still hold the socket.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Process number of the other end, 0 if unknown.
pub(super) fn peer(stream: &impl AsFd) -> i32 {
    rustix::net::sockopt::socket_peercred(stream).map_or(0, |cred| cred.pid.as_raw_nonzero().get())
}
