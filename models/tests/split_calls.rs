//! Calls of a split ring: a driver that sleeps hears of every chain that comes back.
//!
//! The device is `SplitRing::{complete, publish, needs_call}` in `backend/src/ring/split.rs` as `Queue::{publish,
//! call_for_published, release_calls}` in `backend/src/worker/queue.rs` use them: after each round, or after several
//! where calls are held (`Pair::call_drivers` in `backend/src/worker/pair/`). The driver works off a burst with
//! calls off and asks for the next call when nothing is left, as virtio 1.3, 2.7.14 advises, with the barrier and the
//! second look that it shows; what it may ask for stands in 2.7.7.1.

#![forbid(unsafe_code)]

use std::rc::Rc;

use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::fence;
use loom::thread;
use models::{EventFd, Most, Plain, holds, loses_a_wakeup, passes, races};

const CHAINS: u16 = 3;
/// The index wraps on the way.
const START: u16 = u16::MAX;
const END: u16 = START.wrapping_add(CHAINS);

const F_NO_INTERRUPT: u16 = 1;

#[derive(Clone, Copy)]
struct Protocol {
    event_idx: bool,
    device_fence: bool,
    driver_fence: bool,
    release: bool,
    calls: Calls,
}

#[derive(Clone, Copy, PartialEq)]
enum Calls {
    AtOnce,
    /// For every second chain, and for what is left when calls are held no longer.
    Held,
    /// For every second chain alone.
    HeldForEver,
}

const FLAGS: Protocol =
    Protocol { event_idx: false, device_fence: true, driver_fence: true, release: true, calls: Calls::AtOnce };
const EVENT_IDX: Protocol = Protocol { event_idx: true, ..FLAGS };

struct Ring {
    protocol: Protocol,
    elements: [Plain; CHAINS as usize],
    used_idx: AtomicU16,
    avail_flags: AtomicU16,
    used_event: AtomicU16,
    call: EventFd,
}

impl Ring {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            elements: Default::default(),
            used_idx: AtomicU16::new(START),
            avail_flags: AtomicU16::new(0),
            used_event: AtomicU16::new(START.wrapping_sub(1)),
            call: EventFd::new(),
        }
    }

    fn element(&self, idx: u16) -> &Plain {
        &self.elements[usize::from(idx.wrapping_sub(START))]
    }

    fn device(&self) {
        let mut next_used = START;
        let (mut signalled, mut held) = (None, false);
        while next_used != END {
            self.element(next_used).write();
            next_used = next_used.wrapping_add(1);
            self.publish(next_used);
            held = self.protocol.calls != Calls::AtOnce && !held;
            if !held {
                self.call_for_published(next_used, &mut signalled);
            }
        }
        if held && self.protocol.calls == Calls::Held {
            // `Queue::release_calls`.
            self.call_for_published(next_used, &mut signalled);
        }
    }

    fn publish(&self, next_used: u16) {
        self.used_idx.store(next_used, if self.protocol.release { Release } else { Relaxed });
    }

    fn call_for_published(&self, published: u16, signalled: &mut Option<u16>) {
        if self.needs_call(published, signalled) {
            self.call.write();
        }
    }

    fn needs_call(&self, new: u16, signalled: &mut Option<u16>) -> bool {
        if self.protocol.device_fence {
            fence(SeqCst);
        }
        let old = signalled.replace(new);
        if !self.protocol.event_idx {
            return self.avail_flags.load(Relaxed) & F_NO_INTERRUPT == 0;
        }
        let used_event = self.used_event.load(Relaxed);
        old.is_none_or(|old| passes(used_event, new, old))
    }

    /// Works off what is there with calls off, asks to be called, sleeps. Says how often it slept.
    fn driver(&self) -> usize {
        let (mut last_used, mut slept) = (START, 0);
        loop {
            if !self.protocol.event_idx {
                self.avail_flags.store(F_NO_INTERRUPT, Relaxed);
            }
            let used_idx = self.used_idx.load(Acquire);
            while last_used != used_idx {
                self.element(last_used).read();
                last_used = last_used.wrapping_add(1);
            }
            if last_used == END {
                return slept;
            }
            if !self.arm_calls(last_used) {
                self.call.sleep();
                slept += 1;
            }
        }
    }

    fn arm_calls(&self, last_used: u16) -> bool {
        if self.protocol.event_idx {
            self.used_event.store(last_used, Relaxed);
        } else {
            self.avail_flags.store(0, Relaxed);
        }
        if self.protocol.driver_fence {
            fence(SeqCst);
        }
        self.used_idx.load(Acquire) != last_used
    }
}

fn model(protocol: Protocol, slept: &Most) -> impl Fn() + Send + Sync + 'static {
    let slept = slept.clone();
    move || {
        let ring = Rc::new(Ring::new(protocol));
        let driver = thread::spawn({
            let ring = ring.clone();
            move || ring.driver()
        });
        ring.device();
        slept.add(driver.join().unwrap());
    }
}

fn no_chain_is_slept_over(protocol: Protocol) {
    for (calls, sleeps) in [(Calls::AtOnce, CHAINS.into()), (Calls::Held, 2)] {
        let slept = Most::default();
        holds(model(Protocol { calls, ..protocol }, &slept));
        slept.reaches(sleeps);
    }
}

#[test]
fn with_flags_no_chain_is_slept_over() {
    no_chain_is_slept_over(FLAGS);
}

#[test]
fn with_event_idx_no_chain_is_slept_over() {
    no_chain_is_slept_over(EVENT_IDX);
}

#[test]
fn both_fences_are_needed() {
    for protocol in [FLAGS, EVENT_IDX] {
        loses_a_wakeup(model(Protocol { device_fence: false, ..protocol }, &Most::default()));
        loses_a_wakeup(model(Protocol { driver_fence: false, ..protocol }, &Most::default()));
    }
}

#[test]
fn held_calls_are_released() {
    for protocol in [FLAGS, EVENT_IDX] {
        loses_a_wakeup(model(Protocol { calls: Calls::HeldForEver, ..protocol }, &Most::default()));
    }
}

#[test]
fn elements_are_published_by_a_release() {
    // The fence comes after the index, too late for the elements that the index covers.
    races(model(Protocol { release: false, ..FLAGS }, &Most::default()));
}
