//! A split ring as far as kicks concern it (virtio 1.3, 2.7.6, 2.7.8 and 2.7.10).
//!
//! The device's side is `SplitRing::{take_burst, arm_kicks, suppress_kicks}` in `backend/src/ring/split.rs`. The driver
//! follows virtio 1.3, 2.7.13: what it does before its index (2.7.13.3.1), the barrier behind it (2.7.13.4.1), and when
//! it must kick (2.7.10.1).

use std::sync::atomic::AtomicUsize as Count;

use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::fence;

use crate::{Plain, passes};

/// Where both sides start. The index wraps on the way.
pub const START: u16 = u16::MAX;

const F_NO_NOTIFY: u16 = 1;

/// How the two sides wait for each other.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// The device's full barrier stands.
    pub device_fence: bool,
    /// The driver's full barrier stands.
    pub driver_fence: bool,
}

/// Kicks are suppressed by a flag.
pub const FLAGS: Protocol = Protocol { event_idx: false, device_fence: true, driver_fence: true };
/// Kicks are asked for one at a time.
pub const EVENT_IDX: Protocol = Protocol { event_idx: true, ..FLAGS };

/// A ring through which `CHAINS` chains go.
#[derive(Debug)]
pub struct Ring<const CHAINS: usize> {
    protocol: Protocol,
    chains: [Plain; CHAINS],
    avail_idx: AtomicU16,
    used_flags: AtomicU16,
    avail_event: AtomicU16,
    armed: Count,
    kicks: Count,
}

impl<const CHAINS: usize> Ring<CHAINS> {
    /// Where both sides end.
    pub const END: u16 = START.wrapping_add(CHAINS as u16);

    /// A ring whose driver has offered nothing.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            chains: std::array::from_fn(|_| Plain::new()),
            avail_idx: AtomicU16::new(START),
            used_flags: AtomicU16::new(0),
            avail_event: AtomicU16::new(START.wrapping_sub(1)),
            armed: Count::new(0),
            kicks: Count::new(0),
        }
    }

    fn chain(&self, idx: u16) -> &Plain {
        &self.chains[usize::from(idx.wrapping_sub(START))]
    }

    /// The device takes chains, at most `max`, until there are no more; says how many.
    pub fn take_burst(&self, next_avail: &mut u16, max: u16) -> u16 {
        let mut taken = 0;
        while taken < max {
            let offered = self.avail_idx.load(Acquire).wrapping_sub(*next_avail);
            if offered == 0 {
                break;
            }
            for _ in 0..offered.min(max - taken) {
                self.chain(*next_avail).read();
                *next_avail = next_avail.wrapping_add(1);
                taken += 1;
            }
        }
        taken
    }

    /// The device need not be kicked. With EVENT_IDX there is nothing to write.
    pub fn suppress_kicks(&self) {
        if !self.protocol.event_idx {
            self.used_flags.store(F_NO_NOTIFY, Relaxed);
        }
    }

    /// The device asks for the next kick, and looks again: whether a chain slipped in.
    pub fn arm_kicks(&self, next_avail: u16) -> bool {
        self.armed.fetch_add(1, Relaxed);
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

    /// The driver offers its next chain; whether it must kick.
    pub fn offer(&self, idx: &mut u16) -> bool {
        let old = *idx;
        self.chain(old).write();
        *idx = old.wrapping_add(1);
        self.avail_idx.store(*idx, Release);
        if self.protocol.driver_fence {
            fence(SeqCst);
        }
        let wanted = if self.protocol.event_idx {
            passes(self.avail_event.load(Relaxed), *idx, old)
        } else {
            self.used_flags.load(Relaxed) & F_NO_NOTIFY == 0
        };
        self.kicks.fetch_add(wanted.into(), Relaxed);
        wanted
    }

    /// With EVENT_IDX a busy device is left alone: each kick was asked for. (A flag may be seen late.)
    ///
    /// # Panics
    /// When there were more kicks than were asked for.
    pub fn check_kicks(&self) {
        let (kicks, armed) = (self.kicks.load(Relaxed), self.armed.load(Relaxed));
        assert!(
            !self.protocol.event_idx || kicks <= armed,
            "{kicks} kicks, armed {armed} times: a busy device was kicked"
        );
    }
}
