//! Sleeping without losing a kick: a driver that offers one chain after another, and a device that goes to sleep
//! whenever it finds nothing.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::super::{Access, Ring};
use super::guest::{BUFFERS, RingDriver};
use super::packed_driver::{self, Cursor};
use super::split_driver;

const CHAINS: usize = if cfg!(miri) { 30 } else { 3000 };
/// Far beyond what any machine takes.
const LOST: Duration = Duration::from_secs(60);

/// The device: serves `CHAINS` chains and sleeps when kicks are armed and nothing slipped in.
fn device(ring: &mut Ring, kicks: &Receiver<()>, served: &Sender<()>) {
    let mut left = CHAINS;
    while left > 0 {
        ring.suppress_kicks();
        while ring.take_burst(64, usize::MAX).unwrap() > 0 {
            let n = ring.taken().len();
            ring.complete_unwritten(n);
            ring.publish();
            left -= n;
            served.send(()).unwrap();
        }
        if left > 0 && !ring.arm_kicks().unwrap() {
            kicks.recv_timeout(LOST).expect("a chain came and no kick");
        }
    }
}

fn no_kick_is_lost(driver: &mut dyn RingDriver, event_idx: bool) {
    let mut ring = driver.ring(driver.setup(Access::Read, event_idx));
    let ((kick, kicks), (serve, served)) = (channel(), channel());
    std::thread::scope(|scope| {
        scope.spawn(move || device(&mut ring, &kicks, &serve));
        for _ in 0..CHAINS {
            while driver.free() == 0 {
                served.recv_timeout(LOST).expect("the device sleeps and the ring is full");
                driver.reap(false);
            }
            driver.add(&[(BUFFERS, 64)], 0, None);
            if driver.wants_kick(event_idx) {
                // It fails when the device has served them all.
                let _ = kick.send(());
            }
        }
    });
    assert!(!driver.reap(false).is_empty());
}

#[test]
fn a_device_that_sleeps_is_woken() {
    for event_idx in [false, true] {
        no_kick_is_lost(&mut split_driver::Driver::new(4, 65_000), event_idx);
        no_kick_is_lost(&mut packed_driver::Driver::new(3, Cursor::FIRST), event_idx);
    }
}
