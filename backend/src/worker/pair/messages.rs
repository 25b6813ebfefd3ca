//! What a pair makes of messages, and when its uplink's queue gets frames.

use super::Pair;
use crate::offload::rarp;
use crate::ring::RingSetup;
use crate::worker::clock::now;
use crate::worker::queue::Queue;
use crate::worker::shared::Link;
use crate::worker::wakeups::{Interest, Wakeups};
use crate::worker::{Direction, Message, QueueId};

impl Pair {
    /// Acts on a message for this pair, or for the ring of it that is called `id`.
    pub(in crate::worker) fn handle(&mut self, id: QueueId, message: Message, wakeups: &Wakeups) {
        match message {
            Message::RingUp(start, fds, answer) => {
                let (memory, setup) = (self.memory.clone(), start.setup);
                self.forget_begun(id);
                self.queue(id).up(&memory, start, fds, wakeups);
                self.attach_as_needed(wakeups);
                let _ = answer.send(());
                let RingSetup { size, packed, event_idx, .. } = setup;
                self.queue(id).news.tell(|left_out| {
                    tracing::info!(queue = %id, size, packed, event_idx, left_out, "ring started");
                });
            }
            Message::RingDown(answer) => {
                self.forget_begun(id);
                let base = self.queue(id).down(wakeups);
                self.attach_as_needed(wakeups);
                let _ = answer.send(base);
                self.queue(id).news.tell(|left_out| tracing::info!(queue = %id, base, left_out, "ring stopped"));
            }
            Message::RingEnable(enabled, answer) => {
                self.queue(id).set_enabled(enabled);
                self.attach_as_needed(wakeups);
                let _ = answer.send(());
            }
            Message::Features(features, answer) => {
                if features != self.shared.features {
                    self.rx.forget_unfinished();
                    // Taken for the frames of the features before.
                    if let Some(ring) = &mut self.rx.queue.ring {
                        ring.untake();
                    }
                    self.shared.features = features;
                    self.detach(wakeups);
                    self.attach_as_needed(wakeups);
                }
                let _ = answer.send(());
            }
            Message::MemoryTable(table, answer) => {
                self.rx.forget_unfinished();
                let old = std::mem::replace(&mut self.memory, table);
                self.rx.queue.move_to(&self.memory, wakeups);
                self.tx.queue.move_to(&self.memory, wakeups);
                // Before the next round, which is to see what waits in the uplink of rings that go on.
                self.attach_as_needed(wakeups);
                let _ = answer.send(old);
            }
            Message::Log(log, answer) => {
                self.queue(id).set_log(log);
                let _ = answer.send(());
            }
            Message::Kick(fd, answer) => {
                self.queue(id).set_kick(fd, wakeups);
                let _ = answer.send(());
            }
            Message::Call(fd, answer) => {
                self.queue(id).set_call(fd);
                let _ = answer.send(());
            }
            Message::Err(fd, answer) => {
                self.queue(id).set_err(fd);
                let _ = answer.send(());
            }
            Message::Announce(mac, answer) => {
                let _ = answer.send(self.tx.send_for_guest(&rarp(mac), &self.shared.counters));
            }
            Message::Carrier(carries) => self.shared.set_carrier(carries),
            Message::Capture(recorder, answer) => {
                self.rx.set_captured(recorder.is_some());
                let old = std::mem::replace(&mut self.shared.recorder, recorder);
                let _ = answer.send(old);
            }
            Message::Mode(order, answer) => {
                let done = self.governor.order(order, now());
                self.mode_changed();
                // Whoever has the answer sees what was ordered.
                self.show(now());
                let _ = answer.send(done);
            }
        }
    }

    /// Lets go of everything that others may want: rings, memory, eventfds, the uplink's queue.
    pub(in crate::worker) fn close(mut self, wakeups: &Wakeups) {
        self.rx.queue.down(wakeups);
        self.tx.queue.down(wakeups);
        self.detach(wakeups);
        tracing::info!(queue = %self.id(), "let go");
    }

    /// Forgets what was begun with the chains of a ring.
    fn forget_begun(&mut self, id: QueueId) {
        if id.direction == Direction::Rx { self.rx.forget_unfinished() } else { self.tx.forget_leftover() }
    }

    fn queue(&mut self, id: QueueId) -> &mut Queue {
        if id.direction == Direction::Rx { &mut self.rx.queue } else { &mut self.tx.queue }
    }

    /// The uplink's queue gets frames while a ring of the pair runs, and none otherwise: none waits where nobody reads.
    pub(super) fn attach_as_needed(&mut self, wakeups: &Wakeups) {
        let wanted = self.rx.queue.is_running() || self.tx.queue.is_running();
        if wanted && self.shared.link == Link::Detached {
            match self.rx.uplink.attach(Some(self.shared.features.guest)) {
                Ok(()) => self.shared.link = Link::Up,
                Err(e) => self.shared.lose_link(&e),
            }
        } else if !wanted {
            self.detach(wakeups);
        }
    }

    fn detach(&mut self, wakeups: &Wakeups) {
        self.watch(Interest::default(), wakeups);
        if self.shared.is_attached() {
            self.shared.link = Link::Detached;
            if let Err(e) = self.rx.uplink.attach(None) {
                self.shared.lose_link(&e);
            }
        }
    }
}
