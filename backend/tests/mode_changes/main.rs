//! A device that goes from polling to waiting and back all the time while a driver sends: nothing is lost, nobody
//! sleeps for ever.
//!
//! A driver in a thread of its own, over its own mapping of the memory, sends numbered chains to a ring of the daemon.
//! Both sides suppress and ask for notifications as often as they can, and sleep now and then. A change counts when a
//! chain moved since the one before. `MODE_CHANGES` says how many there are to be for each kind of ring.
//!
//! `models/` shows the same on paper, for machines with weaker memory order than this one.

#![forbid(unsafe_code)]

mod device;
mod driver;
mod packed;
mod shared;
mod split;

use std::sync::atomic::{AtomicBool, Ordering};

use driver::Driver;
use packed::PackedDriver;
use shared::{Format, Memory, Wake};
use split::SplitDriver;

const MODE_CHANGES: u64 = 200_000;

fn change_modes<D: Driver>(format: Format) {
    let changes = std::env::var("MODE_CHANGES").map_or(MODE_CHANGES, |n| n.parse().unwrap());
    let memory = Memory::new();
    let driver = D::new(&memory.map(), format);
    let ring = device::ring(&memory.map(), format);
    let (kick, call) = (Wake::new(), Wake::new());
    let (enough, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let (served, sent) = std::thread::scope(|scope| {
        let device = scope.spawn(|| device::run(ring, &kick, &call, changes, &enough, &ended));
        let sent = driver::run(driver, &kick, &call, &enough);
        ended.store(true, Ordering::Release);
        kick.wake();
        (device.join().unwrap(), sent)
    });
    println!("{format:?}: {served:?}, {sent:?}");
    assert_eq!(served.chains, sent.chains);
    assert!(served.changes >= changes);
    assert!(served.sleeps > 0 && sent.sleeps > 0, "nobody slept");
}

#[test]
fn split_ring_with_flags() {
    change_modes::<SplitDriver>(Format { packed: false, event_idx: false });
}

#[test]
fn split_ring_with_event_idx() {
    change_modes::<SplitDriver>(Format { packed: false, event_idx: true });
}

#[test]
fn packed_ring_with_flags() {
    change_modes::<PackedDriver>(Format { packed: true, event_idx: false });
}

#[test]
fn packed_ring_with_event_idx() {
    change_modes::<PackedDriver>(Format { packed: true, event_idx: true });
}
