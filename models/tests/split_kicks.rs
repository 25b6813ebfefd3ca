//! Kicks of a split ring: a device that sleeps hears of every chain.
//!
//! The ring is `models::split`, under the loop of `backend/src/worker/run.rs`, of which a pair's part is in
//! `change_interrupt.rs`.

#![forbid(unsafe_code)]

use std::rc::Rc;

use loom::thread;
use models::split::{EVENT_IDX, FLAGS, Protocol, Ring, START};
use models::{EventFd, Most, holds, loses_a_wakeup};

const CHAINS: usize = 3;
const END: u16 = Ring::<CHAINS>::END;

/// The worker: rounds with kicks off until `empty_rounds` found nothing, kicks armed, asleep. Says how often it slept.
fn device(ring: &Ring<CHAINS>, kick: &EventFd, empty_rounds: usize) -> usize {
    let (mut next_avail, mut slept) = (START, 0);
    loop {
        ring.suppress_kicks();
        for _ in 0..empty_rounds {
            while ring.take_burst(&mut next_avail, u16::MAX) > 0 {}
        }
        if next_avail == END {
            return slept;
        }
        if !ring.arm_kicks(next_avail) {
            kick.sleep();
            slept += 1;
        }
    }
}

fn driver(ring: &Ring<CHAINS>, kick: &EventFd) {
    let mut idx = START;
    while idx != END {
        if ring.offer(&mut idx) {
            kick.write();
        }
    }
}

fn model(protocol: Protocol, empty_rounds: usize, slept: &Most) -> impl Fn() + Send + Sync + 'static {
    let slept = slept.clone();
    move || {
        let shared = Rc::new((Ring::new(protocol), EventFd::new()));
        let device = thread::spawn({
            let shared = shared.clone();
            move || device(&shared.0, &shared.1, empty_rounds)
        });
        driver(&shared.0, &shared.1);
        slept.add(device.join().unwrap());
        shared.0.check_kicks();
    }
}

fn no_chain_is_slept_over(protocol: Protocol) {
    // Draining alone, and polling as well.
    for empty_rounds in [1, 2] {
        let slept = Most::default();
        holds(model(protocol, empty_rounds, &slept));
        slept.reaches(CHAINS);
    }
}

fn both_fences_are_needed(protocol: Protocol) {
    for protocol in [Protocol { device_fence: false, ..protocol }, Protocol { driver_fence: false, ..protocol }] {
        loses_a_wakeup(model(protocol, 1, &Most::default()));
    }
}

#[test]
fn with_flags_no_chain_is_slept_over() {
    no_chain_is_slept_over(FLAGS);
}

#[test]
fn with_event_idx_no_chain_is_slept_over_and_no_busy_device_is_kicked() {
    no_chain_is_slept_over(EVENT_IDX);
}

#[test]
fn both_fences_are_needed_with_flags() {
    both_fences_are_needed(FLAGS);
}

#[test]
fn both_fences_are_needed_with_event_idx() {
    both_fences_are_needed(EVENT_IDX);
}
