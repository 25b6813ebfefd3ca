//! A pair goes from polling to waiting and back: whoever ends the sleep of one ring ends that of both.
//!
//! The loop is `Worker::{run, move_packets}` in `backend/src/worker/run.rs`, the pair's part `Pair::{round,
//! before_sleep, change_interrupt, woke}` in `backend/src/worker/pair/`, and what comes next `Governor::verdict` in
//! `backend/src/mode/governor/mod.rs`; polling ends after some rounds. A rest, which a time-out ends, is an empty
//! round here. The uplink holds frames for which buffers are missing, and its own wake-ups are not needed.

#![forbid(unsafe_code)]

use std::rc::Rc;

use loom::thread;
use models::split::{self, EVENT_IDX, FLAGS, START};
use models::{EventFd, Most, holds_within, loses_a_wakeup};

const CHAINS: usize = 2;
const FRAMES: usize = 1;
/// One more than there are frames: nobody waits for it.
const BUFFERS: usize = FRAMES + 1;

#[derive(Clone, Copy)]
struct Protocol {
    ring: split::Protocol,
    /// Empty rounds before polling ends.
    polls: usize,
    /// What slipped in while kicks were armed is served before the sleep.
    look_again: bool,
    /// The receive ring is armed while buffers are what is missing.
    arm_rx: bool,
    /// Kicks are armed when polling ends.
    arm_after_polling: bool,
}

const INTERRUPT: Protocol = Protocol { ring: FLAGS, polls: 0, look_again: true, arm_rx: true, arm_after_polling: true };
const POLLING: Protocol = Protocol { polls: 2, ..INTERRUPT };

/// What a pair shares with its driver. The kicks of both rings wake one worker.
struct Shared {
    tx: split::Ring<CHAINS>,
    rx: split::Ring<BUFFERS>,
    kick: EventFd,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Ready,
    Empty,
    Blocked,
}
use Direction::{Blocked, Empty, Ready};

#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Again,
    Wait,
}

struct Pair {
    protocol: Protocol,
    shared: Rc<Shared>,
    next_tx: u16,
    next_rx: u16,
    frames: usize,
    polls: usize,
    seen_tx: Direction,
    seen_rx: Direction,
    verdict: Verdict,
}

impl Pair {
    fn new(protocol: Protocol, shared: Rc<Shared>) -> Self {
        let Protocol { polls, .. } = protocol;
        let (next_tx, next_rx, frames) = (START, START, FRAMES);
        Self {
            protocol,
            shared,
            next_tx,
            next_rx,
            frames,
            polls,
            seen_tx: Blocked,
            seen_rx: Blocked,
            verdict: Verdict::Again,
        }
    }

    fn is_done(&self) -> bool {
        self.next_tx == split::Ring::<CHAINS>::END && self.frames == 0
    }

    /// The worker, woken by the message that its rings have started. Says how often it slept after that.
    fn run(mut self) -> usize {
        let mut slept = 0;
        loop {
            self.move_packets();
            if self.is_done() {
                return slept;
            }
            if !self.before_sleep() {
                self.shared.kick.sleep();
                slept += 1;
            }
            self.woke();
        }
    }

    fn move_packets(&mut self) {
        self.round();
        while self.verdict == Verdict::Again {
            self.round();
        }
    }

    /// Kicks on, as far as the protocol has it. Says whether the worker is not to sleep.
    fn before_sleep(&self) -> bool {
        let polled = self.polls < self.protocol.polls;
        let arms = self.protocol.arm_after_polling || !polled;
        let slipped_in = arms && self.change_interrupt(true);
        slipped_in && self.protocol.look_again
    }

    fn woke(&mut self) {
        self.change_interrupt(false);
        self.verdict = Verdict::Again;
    }

    fn change_interrupt(&self, on: bool) -> bool {
        let Shared { tx, rx, .. } = &*self.shared;
        if !on {
            tx.suppress_kicks();
            rx.suppress_kicks();
            return false;
        }
        let tx = self.seen_tx == Empty && tx.arm_kicks(self.next_tx);
        let rx = self.seen_rx == Blocked && self.protocol.arm_rx && rx.arm_kicks(self.next_rx);
        tx || rx
    }

    /// Bursts are of one chain, so one that is not empty may have left something.
    fn round(&mut self) {
        let before = self.frames;
        self.seen_tx = if self.shared.tx.take_burst(&mut self.next_tx, 1) > 0 { Ready } else { Empty };
        self.seen_rx = Empty;
        while self.frames > 0 {
            if self.shared.rx.take_burst(&mut self.next_rx, 1) == 0 {
                self.seen_rx = Blocked;
                break;
            }
            self.frames -= 1;
        }
        self.verdict = self.verdict(self.seen_tx == Ready || self.frames < before);
    }

    fn verdict(&mut self, is_busy: bool) -> Verdict {
        if is_busy {
            return Verdict::Again;
        }
        if self.polls > 0 {
            self.polls -= 1;
            return Verdict::Again;
        }
        Verdict::Wait
    }
}

/// A pair, and a driver that sends on one CPU and posts buffers on another.
fn model(protocol: Protocol, slept: &Most) -> impl Fn() + Send + Sync + 'static {
    let slept = slept.clone();
    move || {
        let (tx, rx) = (split::Ring::new(protocol.ring), split::Ring::new(protocol.ring));
        let shared = Rc::new(Shared { tx, rx, kick: EventFd::new() });
        // As when they are set up, before the driver is told.
        shared.tx.suppress_kicks();
        shared.rx.suppress_kicks();
        let pair = Pair::new(protocol, shared.clone());
        let worker = thread::spawn(move || pair.run());
        let posts = thread::spawn({
            let shared = shared.clone();
            move || (0..BUFFERS).fold(START, |idx, _| offer(&shared.rx, idx, &shared.kick))
        });
        (0..CHAINS).fold(START, |idx, _| offer(&shared.tx, idx, &shared.kick));
        posts.join().unwrap();
        slept.add(worker.join().unwrap());
        shared.tx.check_kicks();
        shared.rx.check_kicks();
    }
}

fn offer<const N: usize>(ring: &split::Ring<N>, mut idx: u16, kick: &EventFd) -> u16 {
    if ring.offer(&mut idx) {
        kick.write();
    }
    idx
}

/// Three threads, each with many steps: one preemption less than elsewhere.
const PREEMPTIONS: usize = 2;

fn nothing_is_slept_over(ring: split::Protocol) {
    for mode in [INTERRUPT, POLLING] {
        let slept = Most::default();
        holds_within(PREEMPTIONS, model(Protocol { ring, ..mode }, &slept));
        slept.reaches(CHAINS + FRAMES);
    }
}

#[test]
fn with_flags_nothing_is_slept_over() {
    nothing_is_slept_over(FLAGS);
}

#[test]
fn with_event_idx_nothing_is_slept_over_and_no_ring_is_kicked_unasked() {
    nothing_is_slept_over(EVENT_IDX);
}

#[test]
fn both_fences_are_needed() {
    for ring in [FLAGS, EVENT_IDX] {
        for ring in [split::Protocol { device_fence: false, ..ring }, split::Protocol { driver_fence: false, ..ring }] {
            loses_a_wakeup(model(Protocol { ring, ..INTERRUPT }, &Most::default()));
        }
    }
}

#[test]
fn what_slipped_in_is_served_before_the_sleep() {
    for ring in [FLAGS, EVENT_IDX] {
        loses_a_wakeup(model(Protocol { ring, look_again: false, ..INTERRUPT }, &Most::default()));
    }
}

#[test]
fn missing_buffers_are_asked_for() {
    for ring in [FLAGS, EVENT_IDX] {
        loses_a_wakeup(model(Protocol { ring, arm_rx: false, ..INTERRUPT }, &Most::default()));
    }
}

#[test]
fn polling_ends_with_kicks_armed() {
    for ring in [FLAGS, EVENT_IDX] {
        loses_a_wakeup(model(Protocol { ring, arm_after_polling: false, ..POLLING }, &Most::default()));
    }
}
