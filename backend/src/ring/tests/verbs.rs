//! What each verb promises to a driver that keeps the rules, in both formats.

use super::super::{Access, Ring, RingSetup};
use super::guest::{BUFFERS, RingDriver, WRITE};
use super::packed_driver::{self, Cursor};
use super::split_driver;
use crate::memory::{copy_from_guest, total_len};

/// Sizes of packed rings; a split ring has the power of two above.
const SIZES: &[u16] = if cfg!(miri) { &[1, 3] } else { &[1, 3, 100, 255, 32_768] };

/// Runs a test with drivers of both formats whose rings have `size` entries and stand shortly before a wrap.
fn both(size: u16, test: impl Fn(&mut dyn RingDriver)) {
    test(&mut split_driver::Driver::new(size.next_power_of_two(), 65_533));
    for start in [Cursor::FIRST, Cursor { index: size - 1, wrap: true }, Cursor { index: size / 2, wrap: false }] {
        test(&mut packed_driver::Driver::new(size, start));
    }
}

fn setup(driver: &dyn RingDriver, access: Access, in_order: bool) -> RingSetup {
    RingSetup { in_order, ..driver.setup(access, true) }
}

#[test]
fn chains_come_in_order_with_their_bytes_across_the_wrap() {
    both(8, |driver| {
        let mut ring = driver.ring(setup(driver, Access::Read, false));
        for n in 0..20u8 {
            let at = BUFFERS + 64 * u64::from(n);
            driver.guest().write(at, [n; 64]);
            let table = (n % 3 == 0).then_some(BUFFERS + 0x1_0000);
            let id = driver.add(&[(at, 10), (at + 10, 22)], 0, table);
            assert_eq!(ring.take_burst(64, 1 << 20).unwrap(), 1);
            let mut bytes = [0; 64];
            assert_eq!(copy_from_guest(ring.taken().slices_of(0), 0, &mut bytes), 32);
            assert_eq!(bytes[..32], [n; 32]);
            ring.complete(0);
            assert_eq!(driver.reap(false), [], "nothing is seen before it is published");
            assert!(ring.publish() && !ring.publish());
            assert_eq!(driver.reap(false), [(id, 0)]);
        }
    });
}

#[test]
fn rings_of_any_size_are_filled_and_emptied_again_and_again() {
    for (size, in_order) in SIZES.iter().flat_map(|size| [(*size, false), (*size, true)]) {
        both(size, |driver| {
            let mut ring = driver.ring(setup(driver, Access::Write, in_order));
            for round in 0..3u32 {
                let mut offered = Vec::new();
                while driver.free() > 0 {
                    let id = driver.add(&[(BUFFERS, 64)], WRITE, None);
                    offered.push((id, round));
                }
                assert_eq!(ring.take_burst(usize::MAX, usize::MAX).unwrap(), offered.len());
                assert!(ring.is_all_taken() && !ring.arm_kicks().unwrap());
                for _ in &offered {
                    ring.complete(round);
                }
                assert_eq!(driver.reap(in_order), []);
                assert!(ring.publish() && !ring.is_all_taken());
                assert_eq!(driver.reap(in_order), offered);
                assert!(!ring.arm_kicks().unwrap());
            }
        });
    }
}

#[test]
fn a_burst_is_bounded_by_chains_and_bytes_and_a_reserve_is_not() {
    both(64, |driver| {
        let mut ring = driver.ring(setup(driver, Access::Read, false));
        for _ in 0..40 {
            driver.add(&[(BUFFERS, 1000)], 0, None);
        }
        assert_eq!(ring.take_burst(8, usize::MAX).unwrap(), 8);
        assert_eq!(ring.take_burst(64, 10_500).unwrap(), 11);
        assert_eq!(ring.taken().bytes(), 11_000);
        assert_eq!(ring.reserve(5, 12_001).unwrap(), 13);
        assert_eq!(ring.reserve(20, 1).unwrap(), 20);
        assert_eq!(ring.reserve(1, usize::MAX).unwrap(), 40);
    });
}

#[test]
fn buffers_in_a_row_stay_right_while_the_front_is_completed() {
    let (size, rounds, offers) = if cfg!(miri) { (64, 4, 12) } else { (2048, 40, 60) };
    both(size, |driver| {
        let mut ring = driver.ring(setup(driver, Access::Write, false));
        let mut offered = 0u64;
        for _ in 0..rounds {
            for _ in 0..offers {
                let at = BUFFERS + (offered % 4096) * 128;
                driver.add(&[(at, 64), (at + 64, 32)], WRITE, None);
                offered += 1;
            }
            ring.take_burst(usize::MAX, usize::MAX).unwrap();
            let n = offers - offers / 6;
            assert_eq!(total_len(ring.taken().slices(n)), n * 96);
            assert_eq!(ring.taken().slices(n).len(), n * 2);
            for _ in 0..n {
                ring.complete(96);
            }
            ring.publish();
            assert_eq!(driver.reap(false).len(), n);
        }
    });
}

/// A driver may have tables as long as the ring, and the device may always hold a chain.
#[test]
fn the_slices_of_completed_chains_are_forgotten_however_many_a_chain_has() {
    let (size, rounds) = if cfg!(miri) { (32u16, 30) } else { (256, 300) };
    let most = if cfg!(miri) { 16 * 32 } else { 16 * 1024 } + 4 * usize::from(size);
    let parts: Vec<_> = (0..u64::from(size)).map(|n| (BUFFERS + n, 1)).collect();
    both(size, |driver| {
        let mut ring = driver.ring(setup(driver, Access::Read, false));
        driver.add(&parts, 0, Some(BUFFERS + 0x1_0000));
        for _ in 0..rounds {
            driver.add(&parts, 0, Some(BUFFERS + 0x1_0000));
            assert_eq!(ring.reserve(2, 0).unwrap(), 2);
            ring.complete(0);
            ring.publish();
            driver.reap(false);
            assert_eq!(total_len(ring.taken().slices(1)), usize::from(size));
            assert!(ring.taken().buffers().len() <= most);
        }
    });
}

#[test]
fn a_driver_with_in_order_accounts_for_what_a_batch_skips() {
    both(8, |driver| {
        let mut ring = driver.ring(setup(driver, Access::Read, true));
        for _ in 0..9 {
            let ids: Vec<_> = [1, 2, 1, 1]
                .iter()
                .map(|parts| driver.add(&[(BUFFERS, 100), (BUFFERS, 50)][..*parts], 0, None))
                .collect();
            ring.take_burst(8, usize::MAX).unwrap();
            ring.complete_unwritten(3);
            ring.complete_unwritten(0);
            // A batch that is larger than what is left is what is left.
            ring.complete_unwritten(7);
            assert_eq!(driver.reap(true), []);
            assert!(ring.publish());
            assert_eq!(driver.reap(true), ids.iter().map(|id| (*id, 0)).collect::<Vec<_>>());
        }
    });
}

#[test]
fn completing_no_chain_leaves_those_that_are_taken() {
    both(8, |driver| {
        let mut ring = driver.ring(setup(driver, Access::Read, false));
        let ids = [100, 200].map(|len| driver.add(&[(BUFFERS, len)], 0, None));
        assert_eq!(ring.take_burst(8, usize::MAX).unwrap(), 2);
        ring.complete_unwritten(0);
        ring.complete_burst(&[]);
        assert!(!ring.publish());
        assert_eq!(ring.taken().bytes(), 300);
        ring.complete_unwritten(2);
        assert!(ring.publish());
        assert_eq!(driver.reap(false), ids.map(|id| (id, 0)));
    });
}

#[test]
fn without_in_order_every_chain_has_its_used_element() {
    both(8, |driver| {
        let mut ring = driver.ring(setup(driver, Access::Read, false));
        for _ in 0..9 {
            let ids: Vec<_> = (0..4).map(|_| driver.add(&[(BUFFERS, 100)], 0, None)).collect();
            ring.take_burst(8, usize::MAX).unwrap();
            ring.complete_unwritten(4);
            assert!(ring.publish());
            assert_eq!(driver.reap(false), ids.iter().map(|id| (*id, 0)).collect::<Vec<_>>());
        }
    });
}

#[test]
fn untaken_chains_are_taken_again_and_a_new_ring_goes_on_at_the_base() {
    both(8, |driver| {
        let setup = setup(driver, Access::Read, false);
        let mut ring = driver.ring(setup);
        let ids: Vec<_> = (0..4).map(|n| driver.add(&[(BUFFERS, 100 + n)], 0, None)).collect();
        assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 4);
        ring.complete(0);
        ring.publish();
        ring.untake();
        assert!(ring.taken().is_empty());
        assert_eq!(driver.reap(false), [(ids[0], 0)]);
        assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 3);
        assert_eq!(ring.taken().chains()[0].len, 101);

        let base = ring.base();
        let mut ring = Ring::new(&driver.guest().table, setup, base).unwrap();
        assert_eq!(ring.base(), base);
        assert_eq!(ring.take_burst(8, 1 << 20).unwrap(), 3);
        assert_eq!(ring.taken().chains()[0].id, ids[1]);
        ring.complete_unwritten(3);
        ring.publish();
        assert_eq!(driver.reap(false).len(), 3);
        assert!(ring.used_any());
    });
}
