//! The device: a ring of the daemon under a worker's loop that cannot decide between polling and waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vnicd::memory::{MemoryTable, copy_from_guest, copy_to_guest};
use vnicd::ring::{Access, Ring, RingSetup, Virtqueue};

use crate::shared::{BUFFER, DESC, DEVICE, DRIVER, Dice, Format, SIZE, Wake};

/// Most chains of a burst.
const BURST: u64 = 4;

/// The device's side of a new ring.
pub(crate) fn ring(table: &Arc<MemoryTable>, format: Format) -> Ring {
    let setup = RingSetup {
        packed: format.packed,
        in_order: false,
        size: SIZE,
        desc: DESC,
        avail: DRIVER,
        used: DEVICE,
        event_idx: format.event_idx,
        indirect: false,
        access: Access::Write,
        min_chain_len: 0,
    };
    // A packed ring starts at its first place, first time round (virtio 1.3, 2.8.1).
    Ring::new(table, setup, 0x8000_8000).unwrap()
}

#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) chains: u64,
    pub(crate) changes: u64,
    pub(crate) sleeps: u64,
}

/// Serves the ring until `ended`; says by `enough` when it has changed its mode `changes` times.
pub(crate) fn run(
    mut ring: Ring,
    kick: &Wake,
    call: &Wake,
    changes: u64,
    enough: &AtomicBool,
    ended: &AtomicBool,
) -> Served {
    let mut dice = Dice::new(0x1234_5678_9abc_def1);
    let mut served = Served::default();
    let mut chains_at_change = 0;
    ring.suppress_kicks();
    loop {
        let end = ended.load(Ordering::Acquire);
        let n = ring.take_burst(dice.roll(BURST) as usize, usize::MAX).unwrap();
        for _ in 0..n {
            serve(&mut *ring, served.chains);
            served.chains += 1;
        }
        if ring.publish() && ring.needs_call() {
            call.wake();
        }
        if end && n == 0 {
            return served;
        }
        // Most often on to waiting, and back at once unless there is nothing to do.
        if dice.roll(8) == 1 {
            continue;
        }
        if !ring.arm_kicks().unwrap() && dice.roll(4) != 1 {
            served.sleeps += 1;
            assert!(kick.sleep(&mut dice), "the device sleeps for ever: {served:?}");
        }
        ring.suppress_kicks();
        if served.chains != chains_at_change {
            chains_at_change = served.chains;
            served.changes += 1;
            if served.changes == changes {
                enough.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Checks the number in the oldest chain and answers with its complement and a length.
fn serve(ring: &mut dyn Virtqueue, number: u64) {
    let slices = ring.taken().slices_of(0);
    let mut bytes = [0; 8];
    assert_eq!(copy_from_guest(slices, 0, &mut bytes), bytes.len());
    assert_eq!(u64::from_le_bytes(bytes), number, "chain out of order");
    copy_to_guest(&(!number).to_le_bytes(), slices, 0);
    ring.complete(written(number));
}

/// What the device says that it wrote to a chain.
pub(crate) fn written(number: u64) -> u32 {
    8 + (number % (BUFFER as u64 - 7)) as u32
}
