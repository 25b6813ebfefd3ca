//! The worker's loop.
//!
//! Waiting: kicks armed, asleep. Woken: kicks off, rounds of bursts until nothing more can be moved, kicks on again.

use std::io;
use std::sync::Arc;

use super::wakeups::Wakeups;
use super::{Direction, Mailbox, Message, Pair};
use crate::mode::Decision;

/// How often a polling worker pauses between two rounds that found nothing. Looking at a ring without a pause takes the
/// cache line away from the driver that is about to write to it.
const PAUSES: u32 = 100;

fn pause() {
    for _ in 0..PAUSES {
        std::hint::spin_loop();
    }
}

/// A worker thread's state.
pub(super) struct Worker {
    pairs: Vec<Pair>,
    mailbox: Arc<Mailbox>,
    wakeups: Wakeups,
    stopped: bool,
}

impl Worker {
    pub(super) fn new(pairs: Vec<Pair>, mailbox: Arc<Mailbox>) -> io::Result<Self> {
        let wakeups = Wakeups::new()?;
        wakeups.add_eventfd(&*mailbox)?;
        Ok(Self { pairs, mailbox, wakeups, stopped: false })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        while !self.stopped {
            if !self.change_interrupt_of_all(true) {
                self.wait();
            }
            self.change_interrupt_of_all(false);
            while !self.stopped {
                match self.round() {
                    Decision::Drain => {}
                    Decision::Poll => pause(),
                    Decision::Wait => break,
                }
            }
        }
    }

    /// One look at the mailbox and one round over every pair.
    fn round(&mut self) -> Decision {
        if self.mailbox.is_flagged() {
            self.read_mail();
        }
        let mut decision = Decision::Wait;
        for pair in &mut self.pairs {
            match (pair.round(), decision) {
                (Decision::Drain, _) => decision = Decision::Drain,
                (Decision::Poll, Decision::Wait) => decision = Decision::Poll,
                _ => {}
            }
        }
        decision
    }

    /// Sleeps until a kick, a frame, room in an uplink or a message.
    fn wait(&mut self) {
        let timeout = self.pairs.iter_mut().filter_map(|pair| pair.before_sleep(&self.wakeups)).min();
        if let Err(e) = self.wakeups.wait(timeout) {
            tracing::error!("epoll_wait: {e}");
        }
        if let Some(pair) = self.pairs.first() {
            pair.counters().wakeups.add(1);
        }
    }

    /// Arms or suppresses kicks everywhere. Arming says whether work slipped in anywhere.
    fn change_interrupt_of_all(&mut self, on: bool) -> bool {
        self.pairs.iter_mut().fold(false, |slipped, pair| pair.change_interrupt(pair.id(), on) | slipped)
    }

    fn read_mail(&mut self) {
        for message in self.mailbox.take() {
            let id = match &message {
                Message::RingUp(id, ..)
                | Message::RingDown(id, _)
                | Message::RingEnable(id, ..)
                | Message::Log(id, ..)
                | Message::Kick(id, _)
                | Message::Call(id, _)
                | Message::Err(id, _) => Some(*id),
                Message::Features(_) | Message::MemoryTable(..) | Message::Announce(_) => None,
                Message::Stop => {
                    self.stopped = true;
                    return;
                }
            };
            let wanted = id.map(|id| id.with(Direction::Both));
            // With one pair a worker, what is for all pairs is for that one.
            if let Some(pair) = self.pairs.iter_mut().find(|pair| wanted.is_none_or(|id| id == pair.id())) {
                pair.handle(message, &self.wakeups);
            }
        }
    }
}
