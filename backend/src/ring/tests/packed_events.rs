//! Kicks, calls, bases and used descriptors of a packed ring, bit by bit.

use proptest::prelude::*;

use super::super::{Access, PackedRing, RingError, RingSetup, Virtqueue};
use super::guest::{BUFFERS, DESC, RingDriver, WRITE, desc};
use super::packed_driver::{AT_PLACE, Cursor, DISABLE, Driver, ENABLE, F_AVAIL, F_USED};

/// Has the device use `n` chains, as one batch if `in_order`.
fn use_chains(driver: &mut Driver, ring: &mut PackedRing, n: u16, in_order: bool) {
    for _ in 0..n {
        driver.add(&[(BUFFERS, 64)], 0, None);
    }
    ring.take_burst(usize::MAX, usize::MAX).unwrap();
    ring.complete_unwritten(n.into());
    assert_eq!(ring.publish(), n > 0);
    assert_eq!(driver.reap(in_order).len(), usize::from(n));
}

#[test]
fn without_event_idx_flags_arm_and_suppress_kicks() {
    let mut driver = Driver::new(3, Cursor::FIRST);
    let mut ring = driver.packed_ring(driver.setup(Access::Read, false));
    ring.suppress_kicks();
    assert_eq!(driver.device_event(), (0, DISABLE));
    assert!(!ring.arm_kicks().unwrap());
    assert_eq!(driver.device_event(), (0, ENABLE));
    driver.add(&[(BUFFERS, 64)], 0, None);
    assert!(ring.arm_kicks().unwrap(), "a chain slipped in");
    ring.take_burst(8, 8).unwrap();
    assert!(!ring.arm_kicks().unwrap());
}

#[test]
fn with_event_idx_arming_asks_for_the_next_place() {
    let start = Cursor { index: 2, wrap: true };
    let mut driver = Driver::new(3, start);
    let mut ring = driver.packed_ring(driver.setup(Access::Read, true));
    for n in 0..7 {
        assert!(!ring.arm_kicks().unwrap());
        assert_eq!(driver.device_event(), (start.after(n, 3).number(), AT_PLACE));
        driver.add(&[(BUFFERS, 64)], 0, None);
        ring.suppress_kicks();
        assert_eq!(driver.device_event().1, AT_PLACE, "the flags stay as they are with EVENT_IDX");
        assert!(ring.arm_kicks().unwrap());
        ring.take_burst(8, 8).unwrap();
        ring.complete(0);
        ring.publish();
    }
}

#[test]
fn the_drivers_flags_say_whether_it_is_called() {
    for event_idx in [false, true] {
        let mut driver = Driver::new(5, Cursor::FIRST);
        let mut ring = driver.packed_ring(driver.setup(Access::Read, event_idx));
        for (flags, called) in [(ENABLE, true), (DISABLE, false), (ENABLE, true), (3, true)] {
            driver.set_event(0, flags);
            use_chains(&mut driver, &mut ring, 1, false);
            assert_eq!(ring.needs_call(), called, "{flags}");
        }
        // A place counts only with EVENT_IDX.
        driver.set_event(Cursor::FIRST.number(), AT_PLACE);
        use_chains(&mut driver, &mut ring, 3, false);
        assert_eq!(ring.needs_call(), !event_idx);
        driver.set_event(5, AT_PLACE);
        use_chains(&mut driver, &mut ring, 1, false);
        assert!(ring.needs_call(), "a place that the ring does not have is no reason to be silent");
    }
}

/// A call is wanted if, and only if, the place asked for is one of those that were used since the last decision.
#[test]
fn a_place_is_passed_or_not_whatever_wraps() {
    for size in if cfg!(miri) { 2..3 } else { 1u16..6 } {
        for (start, place, in_order) in Cursor::all(size)
            .flat_map(|start| Cursor::all(size).map(move |place| (start, place)))
            .flat_map(|(start, place)| [(start, place, false), (start, place, true)])
        {
            for n in 0..=size {
                let mut driver = Driver::new(size, start);
                let setup = RingSetup { in_order, ..driver.setup(Access::Read, true) };
                let mut ring = driver.packed_ring(setup);
                driver.set_event(place.number(), AT_PLACE);
                assert!(ring.needs_call(), "nothing is known before the first decision");
                use_chains(&mut driver, &mut ring, n, in_order);
                let passed = (0..n).any(|back| start.after(back, size) == place);
                assert_eq!(ring.needs_call(), passed, "{start:?} and {n} of {size}, {place:?}");
                assert!(!ring.needs_call(), "nothing was used since");
                ring.forget_calls();
                assert!(ring.needs_call());
            }
        }
    }
}

#[test]
fn a_call_is_decided_on_by_what_was_published() {
    let mut driver = Driver::new(4, Cursor::FIRST);
    let mut ring = driver.packed_ring(driver.setup(Access::Read, true));
    driver.set_event(Cursor::FIRST.number(), AT_PLACE);
    ring.needs_call();
    driver.add(&[(BUFFERS, 64)], 0, None);
    ring.take_burst(1, 1).unwrap();
    ring.complete(0);
    assert!(!ring.needs_call(), "the driver sees nothing yet");
    ring.publish();
    assert!(ring.needs_call());
}

#[test]
fn a_batch_with_in_order_is_one_used_descriptor_that_names_the_last() {
    let mut driver = Driver::new(6, Cursor { index: 4, wrap: true });
    let setup = RingSetup { in_order: true, ..driver.setup(Access::Read, true) };
    let mut ring = driver.packed_ring(setup);
    let parts = [(BUFFERS, 64), (BUFFERS, 32)];
    let ids: Vec<_> = [1, 2, 1].iter().map(|n| driver.add(&parts[..*n], 0, None)).collect();
    ring.take_burst(8, 1 << 20).unwrap();
    let before: Vec<[u8; 16]> = (0..6).map(|n| driver.read(DESC + n * 16)).collect();
    ring.complete_unwritten(3);
    let completed: Vec<_> = (0..6).map(|n| driver.read(DESC + n * 16)).collect();
    assert_eq!(completed, before, "nothing is seen before it is published");
    ring.publish();
    let changed: Vec<_> = (0..6).filter(|n| driver.read::<16>(DESC + n * 16) != before[*n as usize]).collect();
    assert_eq!(changed, [4]);
    assert_eq!(driver.used(driver.seen), Some((ids[2], 0, F_AVAIL | F_USED)));
    assert_eq!(ring.base(), Cursor { index: 2, wrap: false }.base());
}

#[test]
fn a_used_descriptor_says_what_was_written_and_to_which_chain() {
    let mut driver = Driver::new(4, Cursor { index: 3, wrap: false });
    let mut ring = driver.packed_ring(driver.setup(Access::Write, true));
    // The id of a chain stands in its last descriptor.
    driver.offer(&[desc(BUFFERS, 100, WRITE | 1, 111), desc(BUFFERS, 100, WRITE, 222)]);
    driver.offer(&[desc(BUFFERS, 100, WRITE, 65_535)]);
    assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 2);
    ring.complete(150);
    ring.complete(u32::MAX);
    ring.publish();
    let second = driver.seen.after(2, 4);
    assert_eq!(driver.used(driver.seen), Some((222, 150, WRITE)));
    assert_eq!(driver.used(second), Some((65_535, u32::MAX, WRITE | F_AVAIL | F_USED)));
}

#[test]
fn a_base_names_the_used_place_or_else_the_available_one() {
    let driver = Driver::new(100, Cursor::FIRST);
    let setup = driver.setup(Access::Read, false);
    let base = |avail: u16, used: u16| {
        PackedRing::new(&driver.table, setup, u32::from(used) << 16 | u32::from(avail)).map(|ring| ring.base())
    };
    assert_eq!(base(0x8005, 0x8003).unwrap(), 0x8003_8003);
    assert_eq!(base(0x0002, 0x8063).unwrap(), 0x8063_8063);
    assert_eq!(base(0x8005, 0).unwrap(), 0x8005_8005);
    assert_eq!(base(0, 0).unwrap(), 0);
    for (avail, used) in [(0x8064, 0), (0, 0x8064), (0, 100), (0xffff, 0xffff)] {
        assert!(matches!(base(avail, used), Err(RingError::Base { size: 100, .. })), "{avail:#x} {used:#x}");
    }
    // Only the used place counts where there is one.
    assert_eq!(base(0xffff, 1).unwrap(), 0x0001_0001);
    let used_any = |base| PackedRing::new(&driver.table, setup, base).unwrap().used_any();
    assert!(!used_any(Cursor::FIRST.base()) && used_any(0) && used_any(0x8001_8001));
}

proptest! {
    #![proptest_config(super::cases(64))]

    /// The same for large rings, and for chains of several descriptors.
    #[test]
    fn large_rings_pass_places_too(
        size in 100u16..300,
        start in any::<u16>(),
        wrap in any::<bool>(),
        chains in prop::collection::vec(1usize..5, 0..20),
        ahead in 0u16..120,
    ) {
        let start = Cursor { index: start % size, wrap };
        let mut driver = Driver::new(size, start);
        let mut ring = driver.packed_ring(driver.setup(Access::Read, true));
        let place = start.after(ahead, size);
        driver.set_event(place.number(), AT_PLACE);
        ring.needs_call();
        let slots: usize = chains.iter().sum();
        for parts in chains {
            driver.add(&[(BUFFERS, 64); 5][..parts], 0, None);
        }
        ring.take_burst(64, 1 << 20).unwrap();
        ring.complete_unwritten(64);
        ring.publish();
        prop_assert_eq!(ring.needs_call(), usize::from(ahead) < slots);
        prop_assert_eq!(ring.base(), start.after(slots as u16, size).base());
    }
}
