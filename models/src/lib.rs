//! Models of the protocols by which the daemon, its guests and its threads wait for each other.
//!
//! Each file in `tests/` writes one protocol down once more, with the loads, stores and fences of the code that its
//! first lines name. loom tries the interleavings of its threads up to a number of preemptions, and with each the
//! values that a load may see on a machine with weak memory order, though none that is stored only after the load. A
//! model says nothing of code that it does not mirror: whoever changes an order there changes it here. What must be
//! there is shown twice: with it nothing is lost, and without it the loss is found.
//!
//! loom takes a `SeqCst` load or store for an acquire or release one, so wherever a full barrier is meant it is a
//! fence, as in the daemon. Its threads take turns on one thread of the machine, so what they share may be an `Rc`.

#![forbid(unsafe_code)]

pub mod packed;
pub mod split;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::{Condvar, Mutex};

/// Preemptions in an interleaving, at most; switches where a thread sleeps or ends do not count. Every loss in `tests/`
/// is found with one. `LOOM_MAX_PREEMPTIONS` asks for more; each costs about six times the time.
const PREEMPTIONS: usize = 3;

/// Tries the interleavings of `model`, and prints how many there are.
///
/// # Panics
/// When one of them fails: an assertion, a data race, or threads that all wait for each other.
pub fn holds(model: impl Fn() + Send + Sync + 'static) {
    holds_within(PREEMPTIONS, model);
}

/// The same with so many preemptions: for a model with many threads and steps.
///
/// # Panics
/// As [`holds`].
pub fn holds_within(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    match check(preemptions, model) {
        Ok(tried) => println!("all {tried} interleavings hold"),
        Err(failure) => panic!("{failure}"),
    }
}

/// How many interleavings there are, or what was said of the first that fails.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> Result<usize, String> {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = {
        let tried = tried.clone();
        move || {
            tried.fetch_add(1, Ordering::Relaxed);
            model();
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| builder.check(counted)));
    let tried = tried.load(Ordering::Relaxed);
    result.map(|()| tried).map_err(|failure| {
        let text = failure.downcast_ref::<String>().map(String::as_str).or(failure.downcast_ref::<&str>().copied());
        println!("interleaving {tried} fails");
        text.unwrap_or_default().to_owned()
    })
}

/// Finds an interleaving of `model` that fails; what was said of it.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn failure(model: impl Fn() + Send + Sync + 'static) -> String {
    check(PREEMPTIONS, model).expect_err("no interleaving fails")
}

/// Finds an interleaving of `model` in which a thread sleeps for ever.
///
/// # Panics
/// When there is none, or something else is wrong first.
pub fn loses_a_wakeup(model: impl Fn() + Send + Sync + 'static) {
    let failure = failure(model);
    assert!(failure.starts_with("deadlock"), "{failure}");
}

/// Finds an interleaving of `model` in which two threads touch [`Plain`] memory unordered.
///
/// # Panics
/// When there is none, or something else is wrong first.
pub fn races(model: impl Fn() + Send + Sync + 'static) {
    let failure = failure(model);
    assert!(failure.starts_with("Causality violation"), "{failure}");
}

/// An eventfd in an edge-triggered epoll set that is never read: what is written before a sleep ends it, once, however
/// often it was written.
#[derive(Debug)]
pub struct EventFd {
    edge: Mutex<bool>,
    written: Condvar,
}

impl EventFd {
    /// One that was not written.
    #[must_use]
    pub fn new() -> Self {
        Self { edge: Mutex::new(false), written: Condvar::new() }
    }

    /// Wakes whoever sleeps, or will sleep next.
    ///
    /// # Panics
    /// Never, unless a thread of the model panicked.
    pub fn write(&self) {
        *self.edge.lock().unwrap() = true;
        self.written.notify_one();
    }

    /// Sleeps until it is written, unless that happened since the last sleep.
    ///
    /// # Panics
    /// Never, unless a thread of the model panicked.
    pub fn sleep(&self) {
        let mut edge = self.edge.lock().unwrap();
        while !*edge {
            edge = self.written.wait(edge).unwrap();
        }
        *edge = false;
    }
}

impl Default for EventFd {
    fn default() -> Self {
        Self::new()
    }
}

/// The most of what any interleaving counted: that a model holds says little if nobody sleeps in it.
#[derive(Clone, Debug, Default)]
pub struct Most(Arc<AtomicUsize>);

impl Most {
    /// What one interleaving counted.
    pub fn add(&self, count: usize) {
        self.0.fetch_max(count, Ordering::Relaxed);
    }

    /// Sees to it that an interleaving came to `count`. More may be: a kick that was looked for late ends a sleep for
    /// nothing.
    ///
    /// # Panics
    /// When none did.
    pub fn reaches(&self, count: usize) {
        let most = self.0.load(Ordering::Relaxed);
        assert!(most >= count, "{most} at most, {count} expected");
    }
}

/// Memory that is read and written plainly: descriptors, ring entries, packets. Two threads that touch it unordered,
/// one of them writing, fail the model; so a read that passes sees what was written before it.
#[derive(Debug)]
pub struct Plain(UnsafeCell<()>);

impl Plain {
    /// Memory that nobody has touched.
    #[must_use]
    pub fn new() -> Self {
        Self(UnsafeCell::new(()))
    }

    /// Reads it.
    pub fn read(&self) {
        self.0.with(|_| ());
    }

    /// Writes it.
    pub fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

impl Default for Plain {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether entry `event` is one of those that brought an index from `old` to `new` (virtio 1.3, 2.7.7.2 and 2.7.10.1).
#[must_use]
pub fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
