//! What may wake a worker: an epoll set whose members change rarely.
//!
//! Kick eventfds and the mailbox are edge-triggered and never read: a write to an eventfd is an edge of its own, so
//! waking up costs one system call, and a guest that kicks without end wakes a busy worker not at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// A worker's epoll set.
#[derive(Debug)]
pub(super) struct Wakeups {
    epoll: OwnedFd,
}

impl Wakeups {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Sleeps until something happens or `timeout` is over.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        // What happened is not asked: a round looks at everything that is not blocked anyway.
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 16];
        match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Wakes the worker at each write to an eventfd.
    pub(super) fn add_eventfd(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?)
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // It fails only for a file descriptor that is not in the set, which is what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Wakes the worker while the uplink `fd` is as `wanted`; `current` remembers what was asked for before. An fd of
    /// which nothing is wanted leaves the set, so that not even its errors wake anyone.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, wanted: Interest, current: &mut Interest) -> io::Result<()> {
        if wanted == *current {
            return Ok(());
        }
        let flags = wanted.flags();
        if flags.is_empty() {
            self.remove(fd);
        } else if current.flags().is_empty() {
            epoll::add(&self.epoll, fd, EventData::new_u64(0), flags)?;
        } else {
            epoll::modify(&self.epoll, fd, EventData::new_u64(0), flags)?;
        }
        *current = wanted;
        Ok(())
    }
}

/// What is wanted of an uplink's file descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Interest {
    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.readable);
        flags.set(EventFlags::OUT, self.writable);
        flags
    }
}
