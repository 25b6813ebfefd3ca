//! Kicks of a packed ring: a device that sleeps hears of every chain.
//!
//! The device is `PackedRing::{arm_kicks, suppress_kicks, take_burst}` in `backend/src/ring/packed.rs` under the loop
//! of `backend/src/worker/run.rs`. The driver follows virtio 1.3, 2.8.21: the barrier before the flags of a descriptor
//! (2.8.21.1.1), the one before its look at the device's event area (2.8.21.3.1).
//!
//! Length, id and flags of a descriptor are one word here, as the device reads them. Drivers write the flags alone and
//! last; that one aligned load of eight bytes that sees them sees the rest as well is a matter of the machine.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::atomic::AtomicUsize as Count;

use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::fence;
use loom::thread;
use models::packed::{ENABLE, EventArea, Place, SIZE};
use models::{EventFd, Most, Plain, holds, loses_a_wakeup};

const CHAINS: usize = 3;

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
    descriptors: [(Plain, AtomicU16); SIZE as usize],
    device_event: EventArea,
    kick: EventFd,
    armed: Count,
    kicks: Count,
}

impl Ring {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            descriptors: Default::default(),
            device_event: EventArea::new(ENABLE),
            kick: EventFd::new(),
            armed: Count::new(0),
            kicks: Count::new(0),
        }
    }

    /// The worker: rounds with kicks off until `empty_rounds` found nothing, kicks armed, asleep. Says how often it
    /// slept.
    fn device(&self, empty_rounds: usize) -> usize {
        let (mut next_avail, mut taken, mut slept) = (Place::START, 0, 0);
        loop {
            self.suppress_kicks();
            for _ in 0..empty_rounds {
                while self.look(next_avail) {
                    self.descriptors[next_avail.index()].0.read();
                    next_avail = next_avail.next();
                    taken += 1;
                }
            }
            if taken == CHAINS {
                return slept;
            }
            if !self.arm_kicks(next_avail) {
                self.kick.sleep();
                slept += 1;
            }
        }
    }

    fn look(&self, place: Place) -> bool {
        self.descriptors[place.index()].1.load(Acquire) == place.avail_flags()
    }

    /// With EVENT_IDX it is written only until a place is asked for.
    fn suppress_kicks(&self) {
        if !self.protocol.event_idx || self.device_event.read_in(Relaxed).0 == ENABLE {
            self.device_event.suppress();
        }
    }

    fn arm_kicks(&self, next_avail: Place) -> bool {
        self.armed.fetch_add(1, Relaxed);
        if self.protocol.event_idx {
            self.device_event.ask_for(next_avail);
        } else {
            self.device_event.ask();
        }
        if self.protocol.device_fence {
            fence(SeqCst);
        }
        self.look(next_avail)
    }

    fn driver(&self) {
        let mut place = Place::START;
        for _ in 0..CHAINS {
            let (rest, flags) = &self.descriptors[place.index()];
            rest.write();
            flags.store(place.avail_flags(), Release);
            if self.protocol.driver_fence {
                fence(SeqCst);
            }
            if self.device_event.wants(place.next(), Some(place)) {
                self.kicks.fetch_add(1, Relaxed);
                self.kick.write();
            }
            place = place.next();
        }
    }
}

fn model(protocol: Protocol, empty_rounds: usize, slept: &Most) -> impl Fn() + Send + Sync + 'static {
    let slept = slept.clone();
    move || {
        let ring = Rc::new(Ring::new(protocol));
        // As when it is set up, before its driver is told.
        ring.suppress_kicks();
        let device = thread::spawn({
            let ring = ring.clone();
            move || ring.device(empty_rounds)
        });
        ring.driver();
        slept.add(device.join().unwrap());
        let (kicks, armed) = (ring.kicks.load(Relaxed), ring.armed.load(Relaxed));
        assert!(!protocol.event_idx || kicks <= armed, "{kicks} kicks, armed {armed} times: a busy device was kicked");
    }
}

fn no_chain_is_slept_over(protocol: Protocol) {
    // Draining alone, and polling as well.
    for empty_rounds in [1, 2] {
        let slept = Most::default();
        holds(model(protocol, empty_rounds, &slept));
        slept.reaches(CHAINS);
    }
}

#[test]
fn with_flags_no_chain_is_slept_over() {
    no_chain_is_slept_over(FLAGS);
}

#[test]
fn with_event_idx_no_chain_is_slept_over_and_no_busy_device_is_kicked() {
    no_chain_is_slept_over(EVENT_IDX);
}

#[test]
fn both_fences_are_needed() {
    for protocol in [FLAGS, EVENT_IDX] {
        loses_a_wakeup(model(Protocol { device_fence: false, ..protocol }, 1, &Most::default()));
        loses_a_wakeup(model(Protocol { driver_fence: false, ..protocol }, 1, &Most::default()));
    }
}
