//! Front ends that come to a socket: one front end at a time, the next when it has gone.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::connection::{end, hang_up, join, peer, serve};
use crate::nic::Nic;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Most connections taken in a row.
const MAX_ACCEPTS: usize = 16;

/// Accepts front ends for a device and serves them, each on a thread of its own. Nothing here waits for such a thread but
/// the server's end: one may have to wait for a worker that its front end keeps from answering.
#[derive(Debug)]
pub struct Server {
    nic: Arc<Nic>,
    connection: Option<Connection>,
    /// Came while the one before was ending.
    next: Option<UnixStream>,
    /// Written when a connection has ended.
    ended: Arc<OwnedFd>,
}

/// What became of a connection that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is served.
    Served,
    /// It will be, as soon as the one before has ended.
    Waits,
    /// Another front end is there, and has said something.
    TurnedAway,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// It has sent a message. One that has not gives way to another.
    spoke: Arc<AtomicBool>,
    /// Its rings are stopped and its memory is let go.
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Server {
    /// A server without a front end.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new(nic: Arc<Nic>) -> io::Result<Self> {
        let ended = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self { nic, connection: None, next: None, ended })
    }

    /// Becomes readable when a connection has ended.
    #[must_use]
    pub fn ended(&self) -> &OwnedFd {
        &self.ended
    }

    /// Lets go of a connection that has ended, and serves the one that waits for its place.
    ///
    /// # Errors
    /// When the kernel gives no thread for that.
    pub fn reap(&mut self) -> io::Result<()> {
        if let Some(connection) = self.connection.take_if(|it| it.is_over.load(Ordering::Acquire)) {
            // It has nothing left to do.
            join(connection.thread);
        }
        match self.next.take_if(|_| self.connection.is_none()) {
            Some(stream) => self.serve(stream),
            None => Ok(()),
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

    /// Serves the front end at the other end of `stream`, unless another one is there. One that has hung up, or has not said
    /// anything, gives way.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn offer(&mut self, stream: UnixStream) -> io::Result<Outcome> {
        self.reap()?;
        let Some(connection) = &self.connection else { return self.serve(stream).map(|()| Outcome::Served) };
        let is_taken = connection.spoke.load(Ordering::Relaxed) && is_there(&connection.stream)
            || self.next.as_ref().is_some_and(|next| is_there(next) && has_spoken(next));
        // Whoever came before and has said nothing waits no more.
        let turned_away = if is_taken {
            Some(stream)
        } else {
            hang_up(&connection.stream);
            self.next.replace(stream)
        };
        if let Some(stream) = turned_away {
            self.nic.front_ends().counters.turned_away.add(1);
            self.nic.front_ends().complaints.tell(|left_out| {
                let (device, pid) = (self.nic.name(), peer(&stream).pid);
                tracing::warn!(%device, pid, left_out, "another front end is connected: this one is turned away");
            });
        }
        Ok(if is_taken { Outcome::TurnedAway } else { Outcome::Waits })
    }

    /// Has the front end go, if there is one, without waiting until it has: [`Server`]'s end does.
    pub fn part(&self) {
        if let Some(connection) = &self.connection {
            hang_up(&connection.stream);
        }
    }

    fn serve(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        let clone = stream.try_clone()?;
        let (nic, ended) = (self.nic.clone(), self.ended.clone());
        let (spoke, is_over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (speaks, over) = (spoke.clone(), is_over.clone());
        let thread = std::thread::Builder::new().name("front-end".into()).spawn(move || {
            serve(&clone, nic, &speaks);
            over.store(true, Ordering::Release);
            // Nobody listens any more only when the daemon ends.
            let _ = rustix::io::write(&*ended, &1u64.to_ne_bytes());
        })?;
        self.connection = Some(Connection { stream, spoke, is_over, thread });
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(Connection { stream, thread, .. }) = self.connection.take() {
            end(&stream, thread);
        }
    }
}

/// Whether the front end has not hung up. One that was killed may have come back before its thread noticed.
fn is_there(stream: &UnixStream) -> bool {
    !is(stream, PollFlags::RDHUP)
}

/// Whether the front end of a connection that nobody has read from has said anything.
fn has_spoken(stream: &UnixStream) -> bool {
    is(stream, PollFlags::IN)
}

fn is(stream: &UnixStream, state: PollFlags) -> bool {
    let mut fds = [PollFd::new(stream, state)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}
