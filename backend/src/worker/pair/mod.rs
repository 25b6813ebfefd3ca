//! A queue pair, or one direction of it: its two halves, its memory, its rounds, and when it may sleep.

mod account;
mod messages;

use std::sync::Arc;

use super::clock::now;
use super::cycles::cycles;
use super::moved::Moved;
use super::queue::Queue;
use super::rx::RxHalf;
use super::shared::{Features, Link, Shared};
use super::tx::TxHalf;
use super::wakeups::{Interest, Slot, Wakeups};
use super::{Direction, Guard, ModeEvents, Moderation, PairCounters, PairGauges, QueueId};
use crate::memory::MemoryTable;
use crate::mode::{self, Cause, Governor, Mode, Policy, Report, Time, Usage, Verdict};
use crate::ring::RingError;
use crate::uplink::{Rx, Tx};

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
    /// When it sleeps and when it polls.
    pub policy: Policy,
    /// When its driver is called.
    pub moderation: Moderation,
    /// What it may send, and how much may move.
    pub guard: Guard,
    /// Where it shows its mode.
    pub gauges: Arc<PairGauges>,
    /// Who is told of changes of its mode.
    pub events: ModeEvents,
}

/// A queue pair in the hands of its worker.
#[derive(Debug)]
pub struct Pair {
    shared: Shared,
    rx: RxHalf,
    tx: TxHalf,
    memory: Arc<MemoryTable>,
    governor: Governor,
    moderation: Moderation,
    gauges: Arc<PairGauges>,
    events: ModeEvents,
    /// What the last round left in each direction.
    seen: Seen,
    /// What is to come next.
    verdict: Verdict,
    /// When it last looked, or was woken.
    looked: Time,
    /// A kick woke the worker, and no round has followed.
    is_kicked: bool,
    /// What is watched of the uplink, and of the room to send where that tells itself.
    interest: Interest,
    room_interest: Interest,
    slot: Slot,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    rx: mode::Direction,
    tx: mode::Direction,
}

impl Pair {
    /// A pair whose rings are not started.
    #[must_use]
    pub fn new(setup: PairSetup) -> Self {
        let PairSetup { id, tx, rx, counters, uplink_mac, policy, moderation, guard, gauges, events } = setup;
        let now = now();
        let queue = |direction| Queue::new(id.with(direction), counters.clone());
        let mut pair = Self {
            rx: RxHalf::new(queue(Direction::Rx), rx, &guard),
            tx: TxHalf::new(queue(Direction::Tx), tx, uplink_mac, &guard),
            memory: Arc::default(),
            governor: Governor::new(&policy, now),
            moderation,
            gauges,
            events,
            seen: Seen { rx: mode::Direction::Blocked, tx: mode::Direction::Blocked },
            verdict: Verdict::Wait { until: None },
            looked: now,
            is_kicked: false,
            interest: Interest::default(),
            room_interest: Interest::default(),
            slot: Slot::default(),
            shared: Shared {
                id,
                features: Features::default(),
                link: Link::Detached,
                has_carrier: true,
                counters,
                recorder: None,
            },
        };
        pair.mode_changed();
        pair
    }

    pub(in crate::worker) fn id(&self) -> QueueId {
        self.shared.id
    }

    /// Gives it its place in its worker.
    pub(in crate::worker) fn set_slot(&mut self, slot: Slot) {
        self.slot = slot;
        self.rx.queue.slot = slot;
        self.tx.queue.slot = slot;
    }

    pub(in crate::worker) fn slot(&self) -> Slot {
        self.slot
    }

    fn watch(&mut self, wanted: Interest, wakeups: &Wakeups) {
        if let Some(fd) = self.rx.uplink.fd()
            && let Err(e) = wakeups.watch(fd, self.slot, wanted, &mut self.interest)
        {
            tracing::error!(queue = %self.id(), "the uplink cannot be watched: {e}");
        }
    }

    fn watch_room(&mut self, wanted: bool, wakeups: &Wakeups) {
        let wanted = Interest { readable: wanted, writable: false };
        if let Some(fd) = self.tx.uplink().room_fd()
            && let Err(e) = wakeups.watch(fd, self.slot, wanted, &mut self.room_interest)
        {
            tracing::error!(queue = %self.id(), "the uplink cannot be watched: {e}");
        }
    }

    /// Arms or suppresses the kicks of one or both rings. Arming says whether work slipped in meanwhile that no kick
    /// will tell of.
    ///
    /// A driver kicks for what its device waits for: new packets, and receive buffers only when they ran out.
    pub(in crate::worker) fn change_interrupt(&mut self, id: QueueId, on: bool) -> bool {
        use mode::Direction::{Blocked, Empty};
        let (rx, tx) = (id.direction != Direction::Tx, id.direction != Direction::Rx);
        let tx = tx && (!on || self.seen.tx == Empty) && self.tx.queue.change_interrupt(on);
        let rx = rx
            && (!on || (self.seen.rx == Blocked && self.rx.budget.opens_at().is_none()))
            && self.rx.queue.change_interrupt(on);
        tx || (rx && self.rx.queue.is_running() && self.shared.is_attached())
    }

    /// What is to come next.
    pub(in crate::worker) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Before the worker sleeps: has it woken by what the pair waits for, and by nothing else. Says whether there is
    /// something to be moved already.
    pub(in crate::worker) fn before_sleep(&mut self, wakeups: &Wakeups) -> bool {
        self.rx.queue.ignore_kick_if_broken(wakeups);
        self.tx.queue.ignore_kick_if_broken(wakeups);
        self.attach_as_needed(wakeups);
        let waits = matches!(self.verdict, Verdict::Wait { .. });
        let slipped_in = waits && self.change_interrupt(self.id(), true);
        let attached = waits && self.shared.is_attached();
        let for_frames = attached && self.seen.rx == mode::Direction::Empty;
        let full = self.seen.tx == mode::Direction::Blocked && self.tx.budget.opens_at().is_none();
        let for_room = attached && self.tx.queue.is_running() && full;
        let room_tells = self.tx.uplink().tells_of_room();
        self.watch(Interest { readable: for_frames, writable: for_room && !room_tells }, wakeups);
        self.watch_room(for_room && room_tells, wakeups);
        self.show(self.looked);
        slipped_in
    }

    /// After the worker slept, or was to: suppresses kicks.
    pub(in crate::worker) fn woke(&mut self, cause: Cause, now: Time) {
        if matches!(self.verdict, Verdict::Wait { .. }) {
            self.change_interrupt(self.id(), false);
        }
        self.shared.counters.wakeups.add_some((cause != Cause::Nothing).into());
        if cause == Cause::Kick {
            self.shared.counters.kicks.add(1);
            self.is_kicked = true;
        }
        self.governor.woke(now, cause);
        self.verdict = Verdict::Again;
        self.looked = now;
    }

    /// When it last looked, or was woken.
    pub(in crate::worker) fn looked(&self) -> Time {
        self.looked
    }

    /// A round: each direction moves at most one burst. Says how many packets the busier one moved.
    pub(in crate::worker) fn round(&mut self, usage: Option<Usage>) -> u64 {
        if self.verdict != Verdict::Again {
            // Another pair of the worker keeps it awake.
            self.governor.woke(self.looked, Cause::Mailbox);
        }
        let start = cycles();
        if let Some(recorder) = &mut self.shared.recorder {
            recorder.set_time(now());
        }
        let tx = self.tx.round(&mut self.shared);
        let rx = self.rx.round(&mut self.shared);
        let now = now();
        self.count(tx, rx, start, now);
        self.seen = Seen { tx: tx.state, rx: rx.state };
        self.call_drivers(tx, rx, now);
        if self.memory.is_poisoned() {
            self.rx.queue.break_ring(&RingError::Vanished);
            self.tx.queue.break_ring(&RingError::Vanished);
        }
        let report = Report {
            now,
            rx: rx.way(self.rx.queue.needs_looking()),
            tx: tx.way(self.tx.queue.needs_looking()),
            uplink: self.shared.uplink(),
            deadline: self.deadline(),
            usage,
        };
        let mode = self.governor.mode();
        self.verdict = self.governor.after_round(&report);
        self.looked = now;
        if self.governor.mode() != mode {
            self.mode_changed();
        }
        if usage.is_some() || self.governor.mode() != mode {
            self.show(now);
        }
        rx.packets.max(tx.packets)
    }

    /// Calls the drivers for what the round published: at once, or later in polling mode if that is wanted.
    #[inline]
    fn call_drivers(&mut self, tx: Moved, rx: Moved, now: Time) {
        let holds = self.holds_calls();
        for (queue, moved) in [(&mut self.rx.queue, rx), (&mut self.tx.queue, tx)] {
            if holds {
                let packets = if moved.published { moved.packets.max(1) } else { 0 };
                queue.call_moderated(packets, moved.urgent, now, &self.moderation);
            } else if moved.published {
                queue.call_for_published();
            }
        }
    }

    fn holds_calls(&self) -> bool {
        self.moderation.holds() && self.governor.mode() == Mode::Polling
    }

    /// When it must be looked at again for a reason of its own.
    fn deadline(&self) -> Option<Time> {
        let given_up = self.rx.gives_up_at().filter(|_| self.shared.is_attached());
        let [rx, tx] = [&self.rx.queue, &self.tx.queue].map(|queue| queue.call_due(&self.moderation));
        let held = self.rx.budget.opens_at().into_iter().chain(self.tx.budget.opens_at());
        given_up.into_iter().chain(rx).chain(tx).chain(held).min()
    }

    fn mode_changed(&mut self) {
        let holds = self.holds_calls();
        if !holds {
            self.rx.queue.release_calls();
            self.tx.queue.release_calls();
        }
        self.rx.uplink.set_polling(self.governor.mode() == Mode::Polling);
        self.rx.look_for_urgent(holds.then_some(self.moderation.urgent_priorities));
    }
}
