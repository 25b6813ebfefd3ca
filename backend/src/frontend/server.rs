//! Front ends that come to a socket: one front end at a time, the next when it has gone.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::connection::{end, peer, serve};
use crate::nic::Nic;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Most connections taken in a row.
const MAX_ACCEPTS: usize = 16;

/// Accepts front ends for a device and serves them, each on a thread of its own.
#[derive(Debug)]
pub struct Server {
    nic: Arc<Nic>,
    connection: Option<Connection>,
    /// Written when a connection has ended.
    ended: Arc<OwnedFd>,
}

/// What became of a connection that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is served.
    Served,
    /// Another front end is there, and has said something.
    TurnedAway,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// It has sent a message. One that has not gives way to another.
    spoke: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Server {
    /// A server without a front end.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new(nic: Arc<Nic>) -> io::Result<Self> {
        let ended = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self { nic, connection: None, ended })
    }

    /// Becomes readable when a connection has ended.
    #[must_use]
    pub fn ended(&self) -> &OwnedFd {
        &self.ended
    }

    /// Lets go of a connection that has ended.
    pub fn reap(&mut self) {
        if let Some(connection) = self.connection.take_if(|connection| !connection.is_alive()) {
            connection.end();
        }
    }

    /// Takes connections that wait at a non-blocking listener: not all of them if they never end, for the thread has
    /// more to look after. The listener stays readable then.
    ///
    /// # Errors
    /// When the kernel gives no thread, or the listener fails.
    pub fn accept_from(&mut self, listener: &UnixListener) -> io::Result<()> {
        for _ in 0..MAX_ACCEPTS {
            match listener.accept() {
                Ok((stream, _)) => self.offer(stream).map(drop)?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Serves the front end at the other end of `stream`, unless another one is there.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn offer(&mut self, stream: UnixStream) -> io::Result<Outcome> {
        if let Some(connection) = self.connection.take() {
            if connection.is_alive() && connection.spoke.load(Ordering::Relaxed) {
                tracing::warn!(pid = peer(&stream).pid, "another front end is connected: this one is turned away");
                self.connection = Some(connection);
                return Ok(Outcome::TurnedAway);
            }
            connection.end();
        }
        stream.set_nonblocking(false)?;
        tracing::info!(pid = peer(&stream).pid, "front end connected");
        let clone = stream.try_clone()?;
        let (nic, ended) = (self.nic.clone(), self.ended.clone());
        let spoke = Arc::<AtomicBool>::default();
        let speaks = spoke.clone();
        let thread = std::thread::Builder::new().name("front-end".into()).spawn(move || {
            serve(&clone, nic, &speaks);
            // Nobody listens any more only when the daemon ends.
            let _ = rustix::io::write(&*ended, &1u64.to_ne_bytes());
        })?;
        self.connection = Some(Connection { stream, spoke, thread });
        Ok(Outcome::Served)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.end();
        }
    }
}

impl Connection {
    /// Whether the front end is still there. One that was killed may have come back before its thread noticed.
    fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let hung_up = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0);
        !hung_up && !self.thread.is_finished()
    }

    /// Closes the connection and waits until its rings are stopped.
    fn end(self) {
        end(&self.stream, self.thread);
    }
}
