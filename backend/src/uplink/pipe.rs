//! The end of a wire from the thread that has the uplink, and what the two threads tell each other beside frames.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::{Rx, WireRx};
use crate::offload::Offloads;

/// The other thread is never away for so long, unless it has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the thread with the rings tells the one with the uplink.
#[derive(Debug)]
pub struct Valve {
    wake: OwnedFd,
    is_ended: AtomicBool,
    is_flush_wanted: AtomicBool,
    flushed: Mutex<bool>,
    told: Condvar,
}

impl Valve {
    /// Nothing was said yet.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_ended: AtomicBool::new(false),
            is_flush_wanted: AtomicBool::new(false),
            flushed: Mutex::new(false),
            told: Condvar::new(),
        })
    }

    /// Tells the thread with the uplink to end.
    pub fn end(&self) {
        self.is_ended.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether it was told to end.
    pub fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    /// Has the thread with the uplink send what lies before it and forget what it received, and waits until it did.
    fn flush(&self) {
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        *flushed = false;
        self.is_flush_wanted.store(true, Ordering::Release);
        self.ring();
        drop(self.told.wait_timeout_while(flushed, PATIENCE, |flushed| !*flushed));
    }

    /// Whether that is wanted. Then [`Valve::flushed`] is to follow.
    pub fn is_flush_wanted(&self) -> bool {
        self.is_flush_wanted.load(Ordering::Acquire)
    }

    /// It is done.
    pub fn flushed(&self) {
        self.is_flush_wanted.store(false, Ordering::Relaxed);
        *self.flushed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }

    fn ring(&self) {
        // It fails only when the counter is full, and then the thread is woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl AsFd for Valve {
    /// Written to when something was said.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// What the thread with the rings has in the uplink's place.
#[derive(Debug)]
pub struct Piped {
    /// Where frames come from.
    pub wire: WireRx,
    /// Beside the half that receives: attaches the uplink.
    pub beside: Box<Rx>,
    /// The way to the thread with the uplink.
    pub valve: Arc<Valve>,
}

impl Piped {
    /// Lets frames come or keeps them away. None is left of who was there before. Waits for the other thread, which waits for
    /// nobody, a second at most.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(&mut self, takes: Option<Offloads>) -> io::Result<()> {
        // What a guest was told is sent leaves while the queue is there.
        self.valve.flush();
        let attached = match takes {
            Some(_) => self.beside.attach(None).and_then(|()| self.beside.attach(takes)),
            None => self.beside.attach(None),
        };
        // What was received until then was for another.
        self.valve.flush();
        self.wire.empty();
        attached
    }
}
