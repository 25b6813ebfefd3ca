//! Calls of a packed ring: a driver that sleeps hears of every chain that comes back.
//!
//! The device is `PackedRing::{complete, publish, needs_call}` in `backend/src/ring/packed.rs` as `Queue::{publish,
//! call_for_published}` in `backend/src/worker/queue.rs` use them, here with bursts of two. The driver works off a
//! burst with calls off and asks for the next call when nothing is left, with the barrier and the second look that
//! virtio 1.3, 2.8.22 shows.

#![forbid(unsafe_code)]

use std::rc::Rc;

use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::fence;
use loom::thread;
use models::packed::{ENABLE, EventArea, Place, SIZE};
use models::{EventFd, Most, Plain, holds, loses_a_wakeup};

const BURSTS: usize = 2;

#[derive(Clone, Copy)]
struct Protocol {
    event_idx: bool,
    device_fence: bool,
    driver_fence: bool,
}

const FLAGS: Protocol = Protocol { event_idx: false, device_fence: true, driver_fence: true };
const EVENT_IDX: Protocol = Protocol { event_idx: true, ..FLAGS };

struct Ring {
    protocol: Protocol,
    /// Packets, and the second halves of their descriptors.
    chains: [(Plain, AtomicU16); SIZE as usize],
    driver_event: EventArea,
    call: EventFd,
}

impl Ring {
    fn new(protocol: Protocol) -> Self {
        let mut place = Place::START;
        let mut chains: [(Plain, AtomicU16); SIZE as usize] = Default::default();
        for _ in 0..SIZE {
            chains[place.index()].1 = AtomicU16::new(place.avail_flags());
            place = place.next();
        }
        Self { protocol, chains, driver_event: EventArea::new(ENABLE), call: EventFd::new() }
    }

    fn device(&self) {
        let mut next_used = Place::START;
        let mut signalled = None;
        for _ in 0..BURSTS {
            let (first, second) = (next_used, next_used.next());
            next_used = second.next();
            self.chains[first.index()].0.write();
            self.chains[second.index()].0.write();
            self.chains[second.index()].1.store(second.used_flags(), Relaxed);
            self.publish(first);
            self.call_for_published(next_used, &mut signalled);
        }
    }

    /// The first descriptor of the burst was kept back.
    fn publish(&self, first: Place) {
        self.chains[first.index()].1.store(first.used_flags(), Release);
    }

    fn call_for_published(&self, published: Place, signalled: &mut Option<Place>) {
        if self.needs_call(published, signalled) {
            self.call.write();
        }
    }

    fn needs_call(&self, new: Place, signalled: &mut Option<Place>) -> bool {
        if self.protocol.device_fence {
            fence(SeqCst);
        }
        let old = signalled.replace(new);
        self.driver_event.wants(new, old)
    }

    /// Works off what is there with calls off, asks to be called, sleeps. Says how often it slept.
    fn driver(&self) -> usize {
        let (mut next_used, mut left, mut slept) = (Place::START, 2 * BURSTS, 0);
        loop {
            self.driver_event.suppress();
            while left > 0 && self.is_used(next_used) {
                self.chains[next_used.index()].0.read();
                next_used = next_used.next();
                left -= 1;
            }
            if left == 0 {
                return slept;
            }
            if !self.arm_calls(next_used) {
                self.call.sleep();
                slept += 1;
            }
        }
    }

    fn is_used(&self, place: Place) -> bool {
        self.chains[place.index()].1.load(Acquire) == place.used_flags()
    }

    fn arm_calls(&self, next_used: Place) -> bool {
        if self.protocol.event_idx {
            self.driver_event.ask_for(next_used);
        } else {
            self.driver_event.ask();
        }
        if self.protocol.driver_fence {
            fence(SeqCst);
        }
        self.is_used(next_used)
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
    let slept = Most::default();
    holds(model(protocol, &slept));
    slept.reaches(BURSTS);
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
