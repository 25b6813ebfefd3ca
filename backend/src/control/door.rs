//! Lets clients in, or leaves them waiting for a moment.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use event_manager::{EventOps, Events};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};
use vmm_sys_util::epoll::EventSet;

use crate::opener::Listening;

/// How long a door stays shut at most, in nanoseconds.
const SHUT_NS: i64 = 100_000_000;

/// A listening socket that is watched while it is open.
#[derive(Debug)]
pub(super) struct Door {
    listening: Listening,
    timer: OwnedFd,
    is_open: bool,
}

impl Door {
    /// A door that is not watched yet.
    pub(super) fn new(listening: Listening) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { listening, timer, is_open: false })
    }

    /// Begins to watch.
    pub(super) fn watch(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        ops.add(Events::new(&self.timer, EventSet::IN))?;
        ops.add(Events::new(&self.listening.listener, EventSet::IN))?;
        self.is_open = true;
        Ok(())
    }

    /// Whether an event of this fd says that somebody may be let in, or that the time to stay shut is over.
    pub(super) fn is_mine(&self, fd: RawFd) -> bool {
        fd == self.listening.listener.as_raw_fd() || fd == self.timer.as_raw_fd()
    }

    /// Lets one client in, if one waits.
    pub(super) fn let_in(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.listening.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    return Ok(Some(stream));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Leaves clients waiting, for a moment or until it is opened: the loop would be told of them over and over.
    pub(super) fn shut(&mut self, ops: &mut EventOps) {
        if std::mem::take(&mut self.is_open) {
            let _ = ops.remove(Events::empty(&self.listening.listener));
        }
        let it_value = Timespec { tv_sec: 0, tv_nsec: SHUT_NS };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        if let Err(e) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            tracing::error!("the control socket stays shut until a client leaves: {}", io::Error::from(e));
        }
    }

    /// Opens, if it is shut.
    pub(super) fn open(&mut self, ops: &mut EventOps) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        if !self.is_open {
            self.is_open = ops.add(Events::new(&self.listening.listener, EventSet::IN)).is_ok();
        }
    }
}
