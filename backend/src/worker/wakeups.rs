//! What may wake a worker: an epoll set whose members change rarely.
//!
//! Kick eventfds and the mailbox are edge-triggered and never read: a write to an eventfd is an edge of its own, so
//! waking up costs one system call, and a guest that kicks without end wakes a busy worker not at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::mode::Cause;

/// Most events that one sleep tells of.
const EVENTS: usize = 64;

/// A worker's epoll set.
#[derive(Debug)]
pub(super) struct Wakeups {
    epoll: OwnedFd,
}

/// A pair's place among those of its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u32);

/// What woke a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A message.
    Mailbox,
    /// A ring of a pair.
    Kick(Slot),
    /// The uplink of a pair.
    Uplink(Slot),
}

impl Source {
    /// What it means to the pair in `slot`.
    pub(super) fn cause_for(self, slot: Slot) -> Option<Cause> {
        match self {
            Self::Kick(at) => (at == slot).then_some(Cause::Kick),
            Self::Uplink(at) => (at == slot).then_some(Cause::Uplink),
            Self::Mailbox => Some(Cause::Mailbox),
        }
    }

    fn data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Mailbox => 0,
            Self::Kick(slot) => u64::from(slot.0) << 2 | 1,
            Self::Uplink(slot) => u64::from(slot.0) << 2 | 2,
        })
    }

    fn of(data: EventData) -> Self {
        let slot = Slot((data.u64() >> 2) as u32);
        match data.u64() & 3 {
            1 => Self::Kick(slot),
            2 => Self::Uplink(slot),
            _ => Self::Mailbox,
        }
    }
}

impl Wakeups {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Sleeps until something happens or `timeout` is over, and puts what happened into `sources`.
    pub(super) fn wait(&self, timeout: Option<Duration>, sources: &mut Vec<Source>) -> io::Result<()> {
        sources.clear();
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok(n) => {
                sources.extend(events[..n].iter().map(|event| Source::of(event.data)));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Wakes the worker at each write to an eventfd.
    pub(super) fn add_eventfd(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, source.data(), EventFlags::IN | EventFlags::ET)?)
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // It fails only for a file descriptor that is not in the set, which is what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Wakes the worker while the uplink `fd` of the pair in `slot` is as `wanted`; `current` remembers what was asked for
    /// before. An fd of which nothing is wanted leaves the set, so that not even its errors wake anyone.
    pub(super) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        slot: Slot,
        wanted: Interest,
        current: &mut Interest,
    ) -> io::Result<()> {
        if wanted == *current {
            return Ok(());
        }
        let (flags, data) = (wanted.flags(), Source::Uplink(slot).data());
        if flags.is_empty() {
            self.remove(fd);
        } else if current.flags().is_empty() {
            epoll::add(&self.epoll, fd, data, flags)?;
        } else {
            epoll::modify(&self.epoll, fd, data, flags)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_by_its_number() {
        for source in [Source::Mailbox, Source::Kick(Slot(0)), Source::Uplink(Slot(0)), Source::Kick(Slot(u32::MAX))] {
            assert_eq!(Source::of(source.data()), source);
        }
        assert_eq!(Source::Kick(Slot(3)).cause_for(Slot(3)), Some(Cause::Kick));
        assert_eq!(Source::Kick(Slot(3)).cause_for(Slot(2)), None);
        assert_eq!(Source::Mailbox.cause_for(Slot(2)), Some(Cause::Mailbox));
    }
}
