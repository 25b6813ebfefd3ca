//! Kicks, calls and used elements of a split ring, bit by bit.

use super::super::{Access, RingSetup, SplitRing, Virtqueue};
use super::guest::{BUFFERS, RingDriver};
use super::split_driver::Driver;

#[test]
fn without_event_idx_flags_arm_and_suppress_kicks() {
    let mut driver = Driver::new(8, 0);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, false)).unwrap();
    ring.suppress_kicks();
    assert_eq!(driver.used_flags(), 1);
    assert!(!ring.arm_kicks().unwrap());
    assert_eq!(driver.used_flags(), 0);
    let head = driver.chain(&[(BUFFERS, 64)], 0);
    driver.offer(head);
    driver.publish();
    assert!(ring.arm_kicks().unwrap(), "a chain slipped in");
}

#[test]
fn with_event_idx_arming_asks_for_the_next_chain() {
    let mut driver = Driver::new(8, 5);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, true)).unwrap();
    assert!(!ring.arm_kicks().unwrap());
    assert_eq!(driver.avail_event(), 5);
    let head = driver.chain(&[(BUFFERS, 64)], 0);
    driver.offer(head);
    driver.publish();
    ring.suppress_kicks();
    assert_eq!(driver.used_flags(), 0, "flags stay as they are with EVENT_IDX");
    ring.take_burst(8, 1 << 20).unwrap();
    assert!(!ring.arm_kicks().unwrap());
    assert_eq!(driver.avail_event(), 6);
}

#[test]
fn calls_honour_the_drivers_suppression() {
    let mut driver = Driver::new(8, 0);
    let complete_one = |ring: &mut SplitRing, driver: &mut Driver| {
        let head = driver.chain(&[(BUFFERS, 64)], 0);
        driver.offer(head);
        driver.publish();
        ring.take_burst(8, 1 << 20).unwrap();
        ring.complete(0);
        ring.publish();
        ring.needs_call()
    };
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, false)).unwrap();
    assert!(complete_one(&mut ring, &mut driver));
    driver.set_avail_flags(1);
    assert!(!complete_one(&mut ring, &mut driver));
    driver.set_avail_flags(0);
    assert!(complete_one(&mut ring, &mut driver));

    let mut driver = Driver::new(8, 0);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, true)).unwrap();
    driver.set_used_event(2);
    assert!(complete_one(&mut ring, &mut driver), "nothing is known before the first decision");
    assert!(!complete_one(&mut ring, &mut driver), "used index 2 does not pass event 2");
    assert!(complete_one(&mut ring, &mut driver), "used index 3 does");
    assert!(!complete_one(&mut ring, &mut driver));
}

#[test]
fn a_batch_with_in_order_is_one_used_element_that_names_the_last() {
    let mut driver = Driver::new(8, 65_534);
    let setup = RingSetup { in_order: true, ..driver.setup(Access::Read, true) };
    let mut ring = SplitRing::new(&driver.table, setup).unwrap();
    let heads: Vec<_> = (0..4).map(|_| driver.add(&[(BUFFERS, 64)], 0, None)).collect();
    ring.take_burst(8, 1 << 20).unwrap();
    ring.complete_unwritten(3);
    ring.complete(0);
    ring.publish();
    assert_eq!(driver.used_idx(), 2);
    let used: Vec<_> = (0..4).map(|n| driver.used(65_534u16.wrapping_add(n))).collect();
    assert_eq!(used, [(heads[2].into(), 0), (0, 0), (0, 0), (heads[3].into(), 0)]);
}

#[test]
fn a_new_ring_goes_on_at_the_used_index_whatever_the_base() {
    let driver = Driver::new(8, 65_534);
    let setup = driver.setup(Access::Read, true);
    for base in [0, 5, u32::MAX] {
        assert_eq!(super::super::Ring::new(&driver.table, setup, base).unwrap().base(), 65_534);
    }
}
