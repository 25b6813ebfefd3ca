//! Every way to break a ring ends in an error that says how, and nothing else.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::{Access, RingError, RingSetup, SplitRing, Virtqueue};
use super::guest::{BASE, BUFFERS, INDIRECT, NEXT, RingDriver, SIZE, WRITE, desc};
use super::split_driver::Driver;
use crate::memory::RegionInfo;

/// Offers the chain at `head` in a ring of eight and says what taking it brings.
fn take(driver: &mut Driver, head: u16) -> Result<usize, RingError> {
    take_with(driver, head, driver.setup(Access::Read, false))
}

fn take_with(driver: &mut Driver, head: u16, setup: RingSetup) -> Result<usize, RingError> {
    driver.offer(head);
    driver.publish();
    SplitRing::new(&driver.table, setup).unwrap().take_burst(64, 1 << 20)
}

#[test]
fn available_index_jumps() {
    let mut driver = Driver::new(8, 0);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, false)).unwrap();
    driver.avail_idx = 9;
    driver.publish();
    assert!(matches!(ring.take_burst(8, 1), Err(RingError::AvailIndex { avail_idx: 9, next_used: 0, size: 8 })));
    driver.avail_idx = 65_535;
    driver.publish();
    assert!(matches!(ring.take_burst(8, 1), Err(RingError::AvailIndex { .. })));
    assert!(matches!(ring.arm_kicks(), Err(RingError::AvailIndex { .. })));
}

#[test]
fn available_index_goes_back_behind_what_is_taken() {
    let mut driver = Driver::new(8, 0);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, false)).unwrap();
    for _ in 0..4 {
        let head = driver.chain(&[(BUFFERS, 64)], 0);
        driver.offer(head);
    }
    driver.publish();
    assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 4);
    driver.avail_idx = 2;
    driver.publish();
    assert!(matches!(ring.take_burst(8, 1 << 20), Err(RingError::AvailIndex { avail_idx: 2, .. })));
}

#[test]
fn chain_that_loops() {
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 16, NEXT, 1));
    driver.desc(1, desc(BUFFERS, 16, NEXT, 0));
    assert!(matches!(take(&mut driver, 0), Err(RingError::ChainTooLong { head: 0, limit: 8 })));
    let mut driver = Driver::new(8, 0);
    driver.desc(3, desc(BUFFERS, 0, NEXT, 3));
    assert!(matches!(take(&mut driver, 3), Err(RingError::ChainTooLong { head: 3, .. })));
}

/// Buffers that lie over the borders of many small regions make more slices than a chain has descriptors.
#[test]
#[cfg_attr(miri, ignore = "it maps few regions")]
fn chain_over_region_after_region() {
    const PAGE: u64 = 4096;
    const SMALL: u64 = 300;
    const FAR: u64 = 1 << 32;
    let mut driver = Driver::new(8, 0);
    let mut table = (*driver.table).clone();
    for n in 0..SMALL {
        let info =
            RegionInfo { guest_address: FAR + n * PAGE, size: PAGE, user_address: FAR + n * PAGE, mmap_offset: 0 };
        table = table.with_region(info, driver.file.try_clone().unwrap()).unwrap();
    }
    let table = Arc::new(table);
    let all = (FAR, (SMALL * PAGE) as u32);
    for (parts, is_taken) in [(3, true), (4, false)] {
        let head = driver.chain(&vec![all; parts], 0);
        driver.offer(head);
        driver.publish();
        let mut ring = SplitRing::new(&table, driver.setup(Access::Read, false)).unwrap();
        let taken = ring.take_burst(8, usize::MAX);
        if is_taken {
            assert_eq!(taken.unwrap(), 1);
            assert!(!ring.taken().has_walked_enough());
            ring.complete(0);
            ring.publish();
        } else {
            assert!(matches!(taken, Err(RingError::TooScattered { limit: 1032, .. })), "{taken:?}");
        }
    }
}

#[test]
fn descriptor_numbers_outside_the_table() {
    let mut driver = Driver::new(8, 0);
    assert!(matches!(take(&mut driver, 8), Err(RingError::DescIndex { index: 8, len: 8 })));
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 16, NEXT, 65_535));
    assert!(matches!(take(&mut driver, 0), Err(RingError::DescIndex { index: 65_535, len: 8 })));
    let mut driver = Driver::new(8, 0);
    driver.desc_at(BUFFERS, 0, desc(BUFFERS, 16, NEXT, 2));
    driver.desc(0, desc(BUFFERS, 32, INDIRECT, 0));
    assert!(matches!(take(&mut driver, 0), Err(RingError::DescIndex { index: 2, len: 2 })));
}

#[test]
fn buffers_outside_guest_memory() {
    for (address, len) in [(0, 1), (BASE + SIZE, 1), (BASE + SIZE - 8, 9), (u64::MAX, 2), (BUFFERS, u32::MAX)] {
        let mut driver = Driver::new(8, 0);
        driver.desc(0, desc(address, len, 0, 0));
        assert!(matches!(take(&mut driver, 0), Err(RingError::Memory(_))), "{address:#x} {len}");
    }
}

#[test]
fn indirect_tables_that_are_none() {
    for (len, flags) in [(0, INDIRECT), (8, INDIRECT), (17, INDIRECT), (16 * 9, INDIRECT), (u32::MAX, INDIRECT)] {
        let mut driver = Driver::new(8, 0);
        driver.desc(0, desc(BUFFERS, len, flags, 0));
        assert!(matches!(take(&mut driver, 0), Err(RingError::IndirectLength { .. })), "{len}");
    }
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BASE + SIZE - 16, 32, INDIRECT, 0));
    assert!(matches!(take(&mut driver, 0), Err(RingError::Memory(_))), "crosses the end of memory");
}

#[test]
fn indirect_tables_where_none_may_be() {
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 16, INDIRECT | NEXT, 1));
    assert!(matches!(take(&mut driver, 0), Err(RingError::IndirectNotAllowed { head: 0 })));
    let mut driver = Driver::new(8, 0);
    driver.desc_at(BUFFERS, 0, desc(BUFFERS, 16, INDIRECT, 0));
    driver.desc(0, desc(BUFFERS, 16, INDIRECT, 0));
    assert!(matches!(take(&mut driver, 0), Err(RingError::IndirectNotAllowed { head: 0 })), "nested");
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 16, INDIRECT, 0));
    let setup = RingSetup { indirect: false, ..driver.setup(Access::Read, false) };
    assert!(matches!(take_with(&mut driver, 0, setup), Err(RingError::IndirectNotAllowed { .. })), "not negotiated");
}

#[test]
fn an_indirect_table_may_end_a_chain() {
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 12, NEXT, 1));
    driver.desc(1, desc(BUFFERS + 4096, 16, INDIRECT, 0));
    driver.desc_at(BUFFERS + 4096, 0, desc(BUFFERS + 64, 100, 0, 0));
    driver.offer(0);
    driver.publish();
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, false)).unwrap();
    assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 1);
    assert_eq!(ring.taken().chains()[0].len, 112);
}

#[test]
fn descriptors_for_the_other_direction() {
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 16, NEXT, 1));
    driver.desc(1, desc(BUFFERS, 16, WRITE, 0));
    assert!(matches!(take(&mut driver, 0), Err(RingError::WrongDirection { head: 0 })));
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 16, 0, 0));
    let setup = driver.setup(Access::Write, false);
    assert!(matches!(take_with(&mut driver, 0, setup), Err(RingError::WrongDirection { head: 0 })));
}

#[test]
fn chains_without_room_for_the_header() {
    let with_header = |driver: &Driver| RingSetup { min_chain_len: 12, ..driver.setup(Access::Read, false) };
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 11, 0, 0));
    let setup = with_header(&driver);
    assert!(matches!(take_with(&mut driver, 0, setup), Err(RingError::NoRoomForHeader { len: 11, min: 12, .. })));
    let mut driver = Driver::new(8, 0);
    driver.desc(0, desc(BUFFERS, 0, 0, 0));
    let setup = with_header(&driver);
    assert!(matches!(take_with(&mut driver, 0, setup), Err(RingError::NoRoomForHeader { len: 0, .. })), "empty");

    // A header over twelve descriptors is odd but allowed.
    let mut driver = Driver::new(16, 0);
    let parts: Vec<_> = (0..12).map(|n| (BUFFERS + n * 64, 1)).collect();
    let head = driver.chain(&parts, 0);
    let setup = with_header(&driver);
    assert_eq!(take_with(&mut driver, head, setup).unwrap(), 1);
}

#[test]
fn good_chains_before_a_broken_one_are_still_good() {
    let mut driver = Driver::new(8, 0);
    let good = driver.chain(&[(BUFFERS, 64)], 0);
    driver.offer(good);
    driver.offer(7);
    driver.desc(7, desc(0, 64, 0, 0));
    driver.publish();
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, false)).unwrap();
    assert!(ring.take_burst(8, 1 << 20).is_err());
    assert_eq!(ring.taken().len(), 1);
    assert_eq!(ring.taken().slices_of(0).len(), 1);
}

#[test]
fn rings_that_are_not_in_memory_or_not_aligned() {
    let driver = Driver::new(8, 0);
    let setup = driver.setup(Access::Read, false);
    for bad in [
        RingSetup { size: 0, ..setup },
        RingSetup { size: 6, ..setup },
        RingSetup { size: 32_769, ..setup },
        RingSetup { desc: BASE + 8, ..setup },
        RingSetup { avail: BASE + 1, ..setup },
        RingSetup { used: BASE + 2, ..setup },
        RingSetup { desc: BASE + SIZE - 16, ..setup },
        RingSetup { avail: 0, ..setup },
        RingSetup { used: u64::MAX - 3, ..setup },
    ] {
        assert!(SplitRing::new(&driver.table, bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(super::cases(256))]

    /// Whatever lies in the ring, taking ends and slices stay inside guest memory.
    #[test]
    fn random_rings_do_no_harm(
        descs in prop::collection::vec((0u64..SIZE + 0x20_000, 0u32..0x3000, 0u16..8, 0u16..10), 8),
        table in prop::collection::vec((0u64..SIZE + 0x20_000, 0u32..0x3000, 0u16..8, 0u16..10), 8),
        heads in prop::collection::vec(0u16..10, 8),
        avail_idx in 0u16..10,
        start in any::<u16>(),
        write in any::<bool>(),
        event_idx in any::<bool>(),
    ) {
        let mut driver = Driver::new(8, start);
        for (i, (address, len, flags, next)) in descs.into_iter().enumerate() {
            // Half of the indirect descriptors point at a table.
            let address = if flags & INDIRECT != 0 && address % 2 == 0 { BUFFERS } else { address };
            driver.desc(i as u16, desc(address, len, flags, next));
        }
        for (i, (address, len, flags, next)) in table.into_iter().enumerate() {
            driver.desc_at(BUFFERS, i as u16, desc(address, len, flags, next));
        }
        for head in heads {
            driver.offer(head);
        }
        driver.avail_idx = start.wrapping_add(avail_idx);
        driver.publish();
        let access = if write { Access::Write } else { Access::Read };
        let mut ring = SplitRing::new(&driver.table, driver.setup(access, event_idx)).unwrap();
        let _ = ring.take_burst(64, 1 << 20);
        let taken = ring.taken().len();
        prop_assert!(taken <= 8);
        driver.assert_holds(ring.taken());
        for _ in 0..taken {
            ring.complete(0);
        }
        ring.publish();
        ring.needs_call();
        let _ = ring.arm_kicks();
        prop_assert_eq!(driver.used_idx(), start.wrapping_add(taken as u16));
    }
}
