//! Something that one thread sees and another waits for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd that is readable while what it stands for is so. Whoever sets it holds the lock of what it stands for.
#[derive(Debug)]
pub(super) struct Bell {
    is_set: AtomicBool,
    /// None if the kernel gave none: then nobody is woken, and frames wait for whatever else wakes the other thread.
    fd: Option<OwnedFd>,
}

impl Bell {
    pub(super) fn new(set: bool) -> Self {
        let fd = eventfd(u32::from(set), EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Self { is_set: AtomicBool::new(set), fd: fd.inspect_err(|e| tracing::error!("eventfd: {e}")).ok() }
    }

    /// Makes it readable or not. Costs a system call where that is a change.
    pub(super) fn set(&self, on: bool) {
        if self.is_set.swap(on, Ordering::Relaxed) == on {
            return;
        }
        if let Some(fd) = &self.fd {
            // Neither blocks, and neither fails while it changes between 0 and 1.
            let _ = if on { rustix::io::write(fd, &1u64.to_ne_bytes()) } else { rustix::io::read(fd, &mut [0; 8]) };
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn it_is_readable_while_it_is_set() {
        let bell = Bell::new(true);
        let readable =
            || poll(&mut [PollFd::from_borrowed_fd(bell.fd().unwrap(), PollFlags::IN)], Some(&Timespec::default()));
        assert_eq!(readable(), Ok(1));
        bell.set(true);
        bell.set(false);
        assert_eq!(readable(), Ok(0));
        bell.set(false);
        bell.set(true);
        assert_eq!(readable(), Ok(1));
    }
}
