//! What each verb promises to a driver that keeps the rules.

use super::super::{Access, SplitRing, Virtqueue};
use super::driver::{BUFFERS, Driver, WRITE};
use crate::memory::{copy_from_guest, total_len};

#[test]
fn chains_come_in_order_with_their_bytes_across_the_index_wrap() {
    let mut driver = Driver::new(8, 65_533);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, true)).unwrap();
    for n in 0..20u8 {
        driver.write(BUFFERS + 64 * u64::from(n), [n; 64]);
        let at = BUFFERS + 64 * u64::from(n);
        let head = driver.chain(&[(at, 10), (at + 10, 22)], 0);
        driver.offer(head);
        driver.publish();
        assert_eq!(ring.take_burst(64, 1 << 20).unwrap(), 1);
        let mut bytes = [0; 64];
        assert_eq!(copy_from_guest(ring.taken().slices_of(0), 0, &mut bytes), 32);
        assert_eq!(bytes[..32], [n; 32]);
        let before = driver.used_idx();
        ring.complete(0);
        assert_eq!(driver.used_idx(), before, "nothing is seen before it is published");
        assert!(ring.publish());
        assert_eq!(driver.used_idx(), before.wrapping_add(1));
        assert_eq!(driver.used(before), (head.into(), 0));
    }
}

#[test]
fn a_burst_is_bounded_by_chains_and_bytes() {
    let mut driver = Driver::new(64, 0);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, false)).unwrap();
    for _ in 0..40 {
        let head = driver.chain(&[(BUFFERS, 1000)], 0);
        driver.offer(head);
    }
    driver.publish();
    assert_eq!(ring.take_burst(8, usize::MAX).unwrap(), 8);
    assert_eq!(ring.take_burst(64, 10_500).unwrap(), 11);
    assert_eq!(ring.taken().bytes(), 11_000);
    assert_eq!(ring.take_burst(64, usize::MAX).unwrap(), 40);
}

#[test]
fn buffers_in_a_row_stay_right_while_the_front_is_completed() {
    let mut driver = Driver::new(2048, 0);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Write, false)).unwrap();
    let mut offered = 0u64;
    for round in 0..40u64 {
        for _ in 0..60 {
            let at = BUFFERS + (offered % 4096) * 128;
            let head = driver.chain(&[(at, 64), (at + 64, 32)], WRITE);
            driver.offer(head);
            offered += 1;
        }
        driver.publish();
        ring.take_burst(100, usize::MAX).unwrap();
        let n = 50.min(ring.taken().len());
        assert_eq!(total_len(ring.taken().slices(n)), n * 96);
        assert_eq!(ring.taken().slices(n).len(), n * 2);
        for _ in 0..n {
            ring.complete(96);
        }
        ring.publish();
        assert_eq!(u64::from(driver.used_idx()), (round + 1) * 50);
    }
}

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
fn untaken_chains_are_taken_again_and_a_new_ring_goes_on_at_the_used_index() {
    let mut driver = Driver::new(8, 65_534);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, true)).unwrap();
    for n in 0..4 {
        let head = driver.chain(&[(BUFFERS, 100 + n)], 0);
        driver.offer(head);
    }
    driver.publish();
    assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 4);
    ring.complete(0);
    ring.publish();
    ring.untake();
    assert_eq!(ring.base(), 65_535);
    assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 3);
    assert_eq!(ring.taken().chains()[0].len, 101);

    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Read, true)).unwrap();
    assert_eq!(ring.base(), 65_535);
    assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 3);
    assert_eq!(ring.taken().chains()[0].len, 101);
}

#[test]
fn the_largest_ring_works() {
    let mut driver = Driver::new(32_768, 40_000);
    let mut ring = SplitRing::new(&driver.table, driver.setup(Access::Write, true)).unwrap();
    for _ in 0..32_768u32 {
        let head = driver.chain(&[(BUFFERS, 64)], WRITE);
        driver.offer(head);
    }
    driver.publish();
    assert_eq!(ring.take_burst(usize::MAX, usize::MAX).unwrap(), 32_768);
    assert!(ring.is_all_taken());
    for _ in 0..32_768u32 {
        ring.complete(64);
    }
    ring.publish();
    assert_eq!(driver.used_idx(), 40_000u16.wrapping_add(32_768));
}
