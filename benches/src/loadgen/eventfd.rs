//! An eventfd that both the `vhost` crate and `poll` take.

#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An eventfd that never blocks.
#[derive(Debug)]
pub struct Event(EventFd);

impl Event {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?))
    }
}

impl Deref for Event {
    type Target = EventFd;

    fn deref(&self) -> &EventFd {
        &self.0
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the EventFd owns its descriptor and keeps it open while it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
