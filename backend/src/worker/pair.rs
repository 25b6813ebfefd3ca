//! A queue pair: its two halves, its memory, and when it may sleep.

use std::sync::Arc;
use std::time::Duration;

use super::cycles::cycles;
use super::moved::Moved;
use super::queue::Queue;
use super::rx::RxHalf;
use super::shared::{Features, Link, Shared};
use super::tx::TxHalf;
use super::wakeups::{Interest, Wakeups};
use super::{BURST_PACKETS, Direction, Message, PairCounters, QueueId};
use crate::memory::MemoryTable;
use crate::mode::{self, Decision, Seen, Setting};
use crate::offload::rarp;
use crate::ring::RingError;
use crate::uplink::{Rx, Tx};

/// How often a ring is looked at whose driver cannot kick.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What a pair is made of.
#[derive(Debug)]
pub struct PairSetup {
    /// Its name.
    pub id: QueueId,
    /// Its way out.
    pub tx: Tx,
    /// Its way in.
    pub rx: Rx,
    /// Where it counts.
    pub counters: Arc<PairCounters>,
    /// The address that the guest must send from for answers to reach it.
    pub uplink_mac: Option<[u8; 6]>,
    /// Who chooses its mode.
    pub mode: Setting,
}

/// A queue pair in the hands of its worker.
#[derive(Debug)]
pub struct Pair {
    shared: Shared,
    rx: RxHalf,
    tx: TxHalf,
    memory: Arc<MemoryTable>,
    mode: Setting,
    seen: Seen,
    interest: Interest,
}

impl Pair {
    /// A pair whose rings are not started.
    #[must_use]
    pub fn new(setup: PairSetup) -> Self {
        let PairSetup { id, tx, rx, counters, uplink_mac, mode } = setup;
        let queue = |direction| Queue::new(id.with(direction), counters.clone());
        Self {
            rx: RxHalf::new(queue(Direction::Rx), rx),
            tx: TxHalf::new(queue(Direction::Tx), tx, uplink_mac),
            memory: Arc::default(),
            mode,
            seen: Seen { rx: mode::Direction::Blocked, tx: mode::Direction::Blocked },
            interest: Interest::default(),
            shared: Shared { id, features: Features::default(), link: Link::Detached, counters },
        }
    }

    pub(super) fn id(&self) -> QueueId {
        self.shared.id
    }

    pub(super) fn counters(&self) -> &PairCounters {
        &self.shared.counters
    }

    /// Acts on a message for this pair.
    pub(super) fn handle(&mut self, message: Message, wakeups: &Wakeups) {
        match message {
            Message::RingUp(id, start, fds, answer) => {
                let (memory, setup) = (self.memory.clone(), start.setup);
                self.queue(id).up(&memory, start, fds, wakeups);
                self.attach_as_needed(wakeups);
                let _ = answer.send(());
                tracing::info!(queue = %id, size = setup.size, packed = setup.packed, event_idx = setup.event_idx, "ring started");
            }
            Message::RingDown(id, answer) => {
                if id.direction == Direction::Rx {
                    self.rx.forget_unfinished();
                }
                let base = self.queue(id).down(wakeups);
                self.attach_as_needed(wakeups);
                let _ = answer.send(base);
                tracing::info!(queue = %id, base, "ring stopped");
            }
            Message::RingEnable(id, enabled, answer) => {
                self.queue(id).set_enabled(enabled);
                self.attach_as_needed(wakeups);
                let _ = answer.send(());
            }
            Message::Features(features) => {
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
            Message::Log(id, log, answer) => {
                self.queue(id).set_log(log);
                let _ = answer.send(());
            }
            Message::Kick(id, fd) => self.queue(id).set_kick(fd, wakeups),
            Message::Call(id, fd) => self.queue(id).set_call(fd),
            Message::Err(id, fd) => self.queue(id).set_err(fd),
            Message::Announce(mac) => {
                let sent = self.tx.uplink().send_private(&rarp(mac));
                tracing::info!(queue = %self.id(), "announced the guest by RARP: {sent:?}");
            }
            Message::Stop => {}
        }
    }

    fn queue(&mut self, id: QueueId) -> &mut Queue {
        if id.direction == Direction::Rx { &mut self.rx.queue } else { &mut self.tx.queue }
    }

    /// The uplink's queue gets frames while a ring of the pair runs, and none otherwise: none waits where nobody reads.
    fn attach_as_needed(&mut self, wakeups: &Wakeups) {
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

    fn watch(&mut self, wanted: Interest, wakeups: &Wakeups) {
        if let Some(fd) = self.rx.uplink.fd()
            && let Err(e) = wakeups.watch(fd, wanted, &mut self.interest)
        {
            tracing::error!(queue = %self.id(), "the uplink cannot be watched: {e}");
        }
    }

    /// Arms or suppresses the kicks of one or both rings. Arming says whether work slipped in meanwhile that no kick
    /// will tell of.
    ///
    /// A driver kicks for what its device waits for: new packets, and receive buffers only when they ran out.
    pub(super) fn change_interrupt(&mut self, id: QueueId, on: bool) -> bool {
        use mode::Direction::{Blocked, Empty};
        let (rx, tx) = (id.direction != Direction::Tx, id.direction != Direction::Rx);
        let tx = tx && (!on || self.seen.tx == Empty) && self.tx.queue.change_interrupt(on);
        let rx = rx && (!on || self.seen.rx == Blocked) && self.rx.queue.change_interrupt(on);
        tx || (rx && self.rx.queue.is_running() && self.shared.is_attached())
    }

    /// Has the worker woken by the uplink for what the pair can move, before it sleeps. Says how long it may sleep.
    pub(super) fn before_sleep(&mut self, wakeups: &Wakeups) -> Option<Duration> {
        self.rx.queue.ignore_kick_if_broken(wakeups);
        self.tx.queue.ignore_kick_if_broken(wakeups);
        self.attach_as_needed(wakeups);
        let attached = self.shared.is_attached();
        let wanted = Interest {
            readable: attached && self.seen.rx == mode::Direction::Empty,
            writable: attached && self.tx.queue.is_running() && self.seen.tx == mode::Direction::Blocked,
        };
        self.watch(wanted, wakeups);
        let looking = (self.rx.queue.needs_looking() || self.tx.queue.needs_looking()).then_some(POLL_INTERVAL);
        looking.into_iter().chain(self.rx.patience_left().filter(|_| attached)).min()
    }

    /// A round: each direction moves at most one burst.
    pub(super) fn round(&mut self) -> Decision {
        let start = cycles();
        let tx = self.tx.round(&mut self.shared);
        let rx = self.rx.round(&mut self.shared);
        self.count(tx, rx, start);
        self.seen = Seen { tx: tx.state, rx: rx.state };
        if self.memory.is_poisoned() {
            self.rx.queue.break_ring(&RingError::Vanished);
            self.tx.queue.break_ring(&RingError::Vanished);
        }
        mode::decide(self.mode, self.seen)
    }

    fn count(&mut self, tx: Moved, rx: Moved, start: u64) {
        let counters = &self.shared.counters;
        counters.rounds.add(1);
        if tx.packets.max(rx.packets) >= BURST_PACKETS as u64 {
            counters.full_burst_packets.add(tx.packets + rx.packets);
            counters.full_burst_cycles.add(cycles().wrapping_sub(start));
        }
        if let Some(sum) = self.tx.uplink().discarded_bytes_sum() {
            counters.discarded_bytes_sum.set(sum);
        }
    }
}
