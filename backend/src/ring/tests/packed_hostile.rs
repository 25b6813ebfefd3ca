//! Every way to break a packed ring ends in an error that says how, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::super::{Access, PackedRing, RingError, RingSetup, Virtqueue};
use super::guest::{AVAIL, BASE, BUFFERS, Desc, INDIRECT, NEXT, RingDriver, SIZE, USED, WRITE, desc};
use super::packed_driver::{Cursor, Driver, F_AVAIL, F_USED};

const LAST: Cursor = Cursor { index: 7, wrap: true };

/// Offers descriptors at the end of a ring of eight and says what taking them brings.
fn take(descs: &[Desc]) -> Result<usize, RingError> {
    let driver = Driver::new(8, LAST);
    let setup = driver.setup(Access::Read, false);
    take_with(driver, descs, setup)
}

fn take_with(mut driver: Driver, descs: &[Desc], setup: RingSetup) -> Result<usize, RingError> {
    driver.offer(descs);
    driver.packed_ring(setup).take_burst(64, 1 << 20)
}

/// The same for a chain that is a table of these descriptors.
fn take_table(descs: &[Desc]) -> Result<usize, RingError> {
    let driver = Driver::new(8, LAST);
    for (i, desc) in descs.iter().enumerate() {
        driver.desc_at(BUFFERS, i as u16, *desc);
    }
    let setup = driver.setup(Access::Read, false);
    take_with(driver, &[desc(BUFFERS, descs.len() as u32 * 16, INDIRECT, 0)], setup)
}

#[test]
fn a_chain_longer_than_the_ring() {
    let endless = [desc(BUFFERS, 16, NEXT, 0); 8];
    assert!(matches!(take(&endless), Err(RingError::ChainTooLong { head: 7, limit: 8 })));
    let empty = [desc(BUFFERS, 0, NEXT, 0); 8];
    assert!(matches!(take(&empty), Err(RingError::ChainTooLong { .. })));
    let mut whole = endless;
    whole[7].flags = 0;
    assert_eq!(take(&whole).unwrap(), 1);
}

#[test]
fn a_chain_that_runs_into_taken_descriptors() {
    let mut driver = Driver::new(8, LAST);
    let mut ring = driver.packed_ring(driver.setup(Access::Read, false));
    driver.offer(&[desc(BUFFERS, 16, 0, 0)]);
    assert_eq!(ring.take_burst(64, 1 << 20).unwrap(), 1);
    driver.offer(&[desc(BUFFERS, 16, NEXT, 0); 7]);
    assert!(matches!(ring.take_burst(64, 1 << 20), Err(RingError::ChainTooLong { head: 0, .. })));
    assert_eq!(ring.taken().len(), 1, "what was taken before is still good");
    assert_eq!(ring.taken().slices(1).len(), 1);
}

#[test]
fn buffers_outside_guest_memory() {
    for (address, len) in [(0, 1), (BASE + SIZE, 1), (BASE + SIZE - 8, 9), (u64::MAX, 2), (BUFFERS, u32::MAX)] {
        assert!(matches!(take(&[desc(address, len, 0, 0)]), Err(RingError::Memory(_))), "{address:#x} {len}");
        let second = [desc(BUFFERS, 8, NEXT, 0), desc(address, len, 0, 0)];
        assert!(matches!(take(&second), Err(RingError::Memory(_))), "{address:#x} {len}");
        assert!(matches!(take_table(&second), Err(RingError::Memory(_))), "{address:#x} {len}");
    }
}

#[test]
fn indirect_tables_that_are_none() {
    for len in [0, 8, 17, 16 * 9, u32::MAX] {
        let taken = take(&[desc(BUFFERS, len, INDIRECT, 0)]);
        assert!(matches!(taken, Err(RingError::IndirectLength { size: 8, .. })), "{len}");
    }
    let crosses_the_end = take(&[desc(BASE + SIZE - 16, 32, INDIRECT, 0)]);
    assert!(matches!(crosses_the_end, Err(RingError::Memory(_))));
}

#[test]
fn indirect_tables_where_none_may_be() {
    let not_allowed = |taken| matches!(taken, Err(RingError::IndirectNotAllowed { head: 7 }));
    let table = desc(BUFFERS, 16, INDIRECT, 0);
    assert!(not_allowed(take(&[Desc { flags: INDIRECT | NEXT, ..table }, desc(BUFFERS, 16, 0, 0)])));
    assert!(not_allowed(take(&[desc(BUFFERS, 16, NEXT, 0), table])), "at the end of a chain");
    assert!(not_allowed(take_table(&[table])), "nested");
    assert!(not_allowed(take_table(&[desc(BUFFERS, 16, 0, 0), table])), "nested at the end");
    let driver = Driver::new(8, LAST);
    let setup = RingSetup { indirect: false, ..driver.setup(Access::Read, false) };
    assert!(not_allowed(take_with(driver, &[table], setup)), "not negotiated");
}

#[test]
fn the_length_of_a_table_counts_and_not_its_flags() {
    let mut table = [desc(BUFFERS, 16, 0, 0); 8];
    assert_eq!(take_table(&table).unwrap(), 1);
    table.iter_mut().for_each(|desc| desc.flags = NEXT | F_AVAIL | F_USED);
    assert_eq!(take_table(&table).unwrap(), 1);
}

#[test]
fn descriptors_for_the_other_direction() {
    let wrong = |taken| matches!(taken, Err(RingError::WrongDirection { head: 7 }));
    let (reads, writes) = (desc(BUFFERS, 16, 0, 0), desc(BUFFERS, 16, WRITE, 0));
    assert!(wrong(take(&[writes])));
    assert!(wrong(take(&[Desc { flags: NEXT, ..reads }, writes])));
    let driver = Driver::new(8, LAST);
    let setup = driver.setup(Access::Write, false);
    assert!(wrong(take_with(driver, &[reads], setup)));

    // In a table, DPDK's driver marks what the device reads as writable.
    assert_eq!(take_table(&[reads, writes]).unwrap(), 1);
    let driver = Driver::new(8, LAST);
    driver.desc_at(BUFFERS, 0, writes);
    driver.desc_at(BUFFERS, 1, reads);
    let setup = driver.setup(Access::Write, false);
    assert!(wrong(take_with(driver, &[desc(BUFFERS, 32, INDIRECT, 0)], setup)));
}

#[test]
fn chains_without_room_for_the_header() {
    let with_header = |descs: &[Desc]| {
        let driver = Driver::new(16, LAST);
        let setup = RingSetup { min_chain_len: 12, ..driver.setup(Access::Read, false) };
        take_with(driver, descs, setup)
    };
    let too_short =
        |taken, bytes| matches!(taken, Err(RingError::NoRoomForHeader { min: 12, len, .. }) if len == bytes);
    assert!(too_short(with_header(&[desc(BUFFERS, 11, 0, 0)]), 11));
    assert!(too_short(with_header(&[desc(BUFFERS, 0, 0, 0)]), 0));
    assert!(too_short(with_header(&[desc(BUFFERS, 5, NEXT, 0), desc(BUFFERS, 6, 0, 0)]), 11));
    // A header over twelve descriptors is odd but allowed.
    let mut parts = [desc(BUFFERS, 1, NEXT, 0); 12];
    parts[11].flags = 0;
    assert_eq!(with_header(&parts).unwrap(), 1);
}

#[test]
fn a_chain_of_no_bytes_is_no_harm_where_no_header_is_asked_for() {
    let mut driver = Driver::new(8, LAST);
    let mut ring = driver.packed_ring(driver.setup(Access::Read, false));
    driver.offer(&[desc(u64::MAX, 0, 0, 5)]);
    assert_eq!(ring.take_burst(64, 1 << 20).unwrap(), 1);
    assert!(ring.taken().slices_of(0).is_empty());
    ring.complete(0);
    ring.publish();
    assert_eq!(driver.used(LAST).map(|(id, len, _)| (id, len)), Some((5, 0)));
}

#[test]
fn rings_that_are_not_in_memory_or_not_aligned() {
    let driver = Driver::new(8, LAST);
    let setup = driver.setup(Access::Read, false);
    for bad in [
        RingSetup { size: 0, ..setup },
        RingSetup { size: 32_769, ..setup },
        RingSetup { desc: BASE + 8, ..setup },
        RingSetup { avail: AVAIL + 2, ..setup },
        RingSetup { used: USED + 1, ..setup },
        RingSetup { desc: BASE + SIZE - 16, ..setup },
        RingSetup { avail: BASE + SIZE, ..setup },
        RingSetup { used: u64::MAX - 3, ..setup },
    ] {
        assert!(PackedRing::new(&driver.table, bad, driver.start()).is_err(), "{bad:?}");
    }
}

/// What is judged is what is used, whatever the driver writes meanwhile.
#[test]
#[cfg_attr(miri, ignore = "reads that race with the guest are what Miri forbids and volatile reads are for")]
fn a_descriptor_that_is_rewritten_while_it_is_read() {
    let driver = Driver::new(2, Cursor::FIRST);
    let setup = RingSetup { min_chain_len: 12, ..driver.setup(Access::Read, false) };
    let done = AtomicBool::new(false);
    let (mut served, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let faces = [
                (BUFFERS, 64, 0),
                (BASE + SIZE - 16, 16, 0),
                (BUFFERS, u32::MAX, 0),
                (BASE, 8, 0),
                (BUFFERS, 16, WRITE),
            ];
            for (address, len, flags) in faces.into_iter().cycle() {
                driver.desc(0, desc(address, len, flags | F_AVAIL, 0));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        while served < 1000 || refused < 1000 {
            let mut ring = driver.packed_ring(setup);
            match ring.take_burst(1, 1 << 20) {
                Ok(n) => served += n,
                Err(_) => refused += 1,
            }
            driver.assert_holds(ring.taken());
        }
        done.store(true, Ordering::Relaxed);
    });
}

proptest! {
    #![proptest_config(super::cases(512))]

    /// Whatever lies in the ring, taking ends, slices stay inside guest memory, and what was taken comes back.
    #[test]
    fn random_rings_do_no_harm(
        size in 1u16..12,
        base in any::<[u16; 2]>(),
        descs in prop::collection::vec((0u64..SIZE + 0x20_000, 0u32..0x3000, any::<u16>(), 0u16..8), 12),
        table in prop::collection::vec((0u64..SIZE + 0x20_000, 0u32..0x3000, any::<u16>(), 0u16..8), 12),
        event in any::<[u16; 2]>(),
        steps in prop::collection::vec((0usize..6, 0usize..6), 1..12),
        flags in 0u8..16,
    ) {
        let driver = Driver::new(size, Cursor::FIRST);
        for (i, (address, len, number, flags)) in table.into_iter().enumerate() {
            driver.desc_at(BUFFERS, i as u16, desc(address, len, flags, number));
        }
        for (i, (address, len, number, flags)) in descs.into_iter().take(size.into()).enumerate() {
            // Half of the indirect descriptors point at a table.
            let is_table = flags & INDIRECT != 0 && address % 2 == 0;
            let (address, len) = if is_table { (BUFFERS, len & 0xf0) } else { (address, len) };
            let owner = if number % 3 == 0 { F_USED } else { F_AVAIL };
            driver.desc(i as u16, desc(address, len, flags | owner, number));
        }
        driver.set_event(event[0], event[1]);
        let on = |bit: u8| flags & (1 << bit) != 0;
        let access = if on(0) { Access::Write } else { Access::Read };
        let setup = RingSetup { in_order: on(1), indirect: on(2), ..driver.setup(access, on(3)) };
        let place = |bits: u16| u32::from(bits % 2) << 15 | u32::from(bits / 2 % size);
        let base = place(base[0]) | place(base[1]) << 16;
        let mut ring = PackedRing::new(&driver.table, setup, base).unwrap();
        for (take, complete) in steps {
            let before = ring.taken().len();
            let _ = ring.take_burst(take, 1 << 20);
            prop_assert!(ring.taken().len() <= usize::from(size).min(take.max(before)));
            prop_assert!(ring.taken().buffers().len() <= usize::from(size).pow(2));
            driver.assert_holds(ring.taken());
            for _ in 0..complete {
                ring.complete(1);
            }
            ring.complete_unwritten(complete);
            ring.publish();
            ring.needs_call();
            let _ = ring.arm_kicks();
        }
    }
}
