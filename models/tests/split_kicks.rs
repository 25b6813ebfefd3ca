//! Kicks of a split ring: a device that sleeps hears of every chain.
//!
//! The device is `SplitRing::{arm_kicks, suppress_kicks, take_burst}` in `backend/src/ring/split.rs` under the loop of
//! `backend/src/worker/run.rs`. The driver follows virtio 1.3, 2.7.13: what it does before its index (2.7.13.3.1), the
//! barrier behind it (2.7.13.4.1), and when it must kick (2.7.10.1).

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::atomic::AtomicUsize as Count;

use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::fence;
use loom::thread;
use models::{EventFd, Plain, holds, loses_a_wakeup, passes};

const CHAINS: u16 = 3;
/// The index wraps on the way.
const START: u16 = u16::MAX;
const END: u16 = START.wrapping_add(CHAINS);

const F_NO_NOTIFY: u16 = 1;

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
    chains: [Plain; CHAINS as usize],
    avail_idx: AtomicU16,
    used_flags: AtomicU16,
    avail_event: AtomicU16,
    kick: EventFd,
    kicks: Count,
}

impl Ring {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            chains: Default::default(),
            avail_idx: AtomicU16::new(START),
            used_flags: AtomicU16::new(0),
            avail_event: AtomicU16::new(START.wrapping_sub(1)),
            kick: EventFd::new(),
            kicks: Count::new(0),
        }
    }

    fn chain(&self, idx: u16) -> &Plain {
        &self.chains[usize::from(idx.wrapping_sub(START))]
    }

    /// The worker: rounds until nothing is left, kicks armed, asleep. Says how often it armed them.
    fn device(&self) -> usize {
        let mut next_avail = START;
        let mut armed = 0;
        loop {
            self.suppress_kicks();
            self.drain(&mut next_avail);
            if next_avail == END {
                return armed;
            }
            armed += 1;
            if !self.arm_kicks(next_avail) {
                self.kick.sleep();
            }
        }
    }

    fn drain(&self, next_avail: &mut u16) {
        loop {
            let avail_idx = self.avail_idx.load(Acquire);
            if avail_idx == *next_avail {
                return;
            }
            while *next_avail != avail_idx {
                self.chain(*next_avail).read();
                *next_avail = next_avail.wrapping_add(1);
            }
        }
    }

    fn suppress_kicks(&self) {
        if !self.protocol.event_idx {
            self.used_flags.store(F_NO_NOTIFY, Relaxed);
        }
    }

    fn arm_kicks(&self, next_avail: u16) -> bool {
        if self.protocol.event_idx {
            self.avail_event.store(next_avail, Relaxed);
        } else {
            self.used_flags.store(0, Relaxed);
        }
        if self.protocol.device_fence {
            fence(SeqCst);
        }
        self.avail_idx.load(Acquire) != next_avail
    }

    fn driver(&self) {
        let mut idx = START;
        while idx != END {
            let old = idx;
            self.chain(idx).write();
            idx = idx.wrapping_add(1);
            self.avail_idx.store(idx, Release);
            if self.protocol.driver_fence {
                fence(SeqCst);
            }
            let wanted = if self.protocol.event_idx {
                passes(self.avail_event.load(Relaxed), idx, old)
            } else {
                self.used_flags.load(Relaxed) & F_NO_NOTIFY == 0
            };
            if wanted {
                self.kicks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.kick.write();
            }
        }
    }
}

fn model(protocol: Protocol) -> impl Fn() + Send + Sync + 'static {
    move || {
        let ring = Rc::new(Ring::new(protocol));
        let device = thread::spawn({
            let ring = ring.clone();
            move || ring.device()
        });
        ring.driver();
        let armed = device.join().unwrap();
        if protocol.event_idx {
            let kicks = ring.kicks.load(std::sync::atomic::Ordering::Relaxed);
            assert!(kicks <= armed, "{kicks} kicks, armed {armed} times: a busy device was kicked");
        }
    }
}

#[test]
fn with_flags_no_chain_is_slept_over() {
    holds(model(FLAGS));
}

#[test]
fn with_event_idx_no_chain_is_slept_over_and_no_busy_device_is_kicked() {
    holds(model(EVENT_IDX));
}

#[test]
fn both_fences_are_needed_with_flags() {
    loses_a_wakeup(model(Protocol { device_fence: false, ..FLAGS }));
    loses_a_wakeup(model(Protocol { driver_fence: false, ..FLAGS }));
}

#[test]
fn both_fences_are_needed_with_event_idx() {
    loses_a_wakeup(model(Protocol { device_fence: false, ..EVENT_IDX }));
    loses_a_wakeup(model(Protocol { driver_fence: false, ..EVENT_IDX }));
}
