//! A queue pair: two rings, two uplink halves, and a round over both directions with equal budgets.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::queue::Queue;
use super::wakeups::{Interest, Wakeups};
use super::{BURST_BYTES, BURST_PACKETS, Direction, Message, PairCounters, QueueId};
use crate::memory::{MemoryTable, copy_from_guest, copy_to_guest};
use crate::mode::{self, Seen};
use crate::offload::{HEADER_LEN, NetHeader, Offloads};
use crate::ring::RingError;
use crate::uplink::{Received, Rx, Sent, Tx, TxFrame};

/// How often a ring is looked at whose driver cannot kick.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Room that is offered to the uplink for a frame of a guest that takes segmented frames, in bytes.
const ROOM_SEGMENTED: usize = 65_535 + 18 + HEADER_LEN;
/// The same for a guest that does not: what fits usual MTUs; a longer frame takes the detour over private memory.
const ROOM_PLAIN: usize = 2048;
/// Most chains taken to make that room.
const ROOM_CHAINS: usize = 256;

/// What the driver acknowledged, as far as it matters to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Bytes of the guest's virtio-net header: 12, or 10 for a legacy guest without mergeable buffers.
    pub header_len: usize,
    /// A frame may fill several receive buffers.
    pub mergeable: bool,
    /// What the guest takes.
    pub guest: Offloads,
    /// What the guest may ask for.
    pub host: Offloads,
}

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
}

/// A queue pair in the hands of its worker.
#[derive(Debug)]
pub struct Pair {
    id: QueueId,
    rx: Queue,
    tx: Queue,
    uplink_tx: Tx,
    uplink_rx: Rx,
    uplink: UplinkState,
    interest: Interest,
    memory: Arc<MemoryTable>,
    features: Features,
    /// A frame that lies partly in receive buffers and waits for more of them.
    unfinished: Option<Unfinished>,
    seen: Seen,
    counters: Arc<PairCounters>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UplinkState {
    Detached,
    Up,
    /// It refused a frame because it is down; tried again with the next.
    Down,
    Gone,
}

#[derive(Debug)]
struct Unfinished {
    header: NetHeader,
    len: usize,
    rest: Vec<u8>,
}

impl Pair {
    /// A pair whose rings are not started.
    #[must_use]
    pub fn new(setup: PairSetup) -> Self {
        let PairSetup { id, tx, rx, counters } = setup;
        Self {
            id,
            rx: Queue::new(id.with(Direction::Rx), counters.clone()),
            tx: Queue::new(id.with(Direction::Tx), counters.clone()),
            uplink_tx: tx,
            uplink_rx: rx,
            uplink: UplinkState::Detached,
            interest: Interest::default(),
            memory: Arc::default(),
            features: Features::default(),
            unfinished: None,
            seen: Seen { rx: mode::Direction::Blocked, tx: mode::Direction::Blocked },
            counters,
        }
    }

    pub(super) fn id(&self) -> QueueId {
        self.id
    }

    pub(super) fn counters(&self) -> &PairCounters {
        &self.counters
    }

    /// Acts on a message for this pair.
    pub(super) fn handle(&mut self, message: Message, wakeups: &Wakeups) {
        match message {
            Message::RingUp(id, setup, fds, answer) => {
                if id.direction == Direction::Rx {
                    self.unfinished = None;
                }
                let memory = self.memory.clone();
                self.queue(id).up(&memory, setup, fds, wakeups);
                self.attach_as_needed(wakeups);
                let _ = answer.send(());
                tracing::info!(queue = %id, size = setup.size, event_idx = setup.event_idx, "ring started");
            }
            Message::RingDown(id, answer) => {
                if id.direction == Direction::Rx {
                    self.unfinished = None;
                }
                let base = self.queue(id).down(wakeups);
                self.attach_as_needed(wakeups);
                let _ = answer.send(base);
                tracing::info!(queue = %id, base, "ring stopped");
            }
            Message::RingEnable(id, enabled, answer) => {
                self.queue(id).enabled = enabled;
                self.attach_as_needed(wakeups);
                let _ = answer.send(());
            }
            Message::Features(features) => {
                if features != self.features {
                    self.unfinished = None;
                    self.features = features;
                    self.detach(wakeups);
                    self.attach_as_needed(wakeups);
                }
            }
            Message::MemoryTable(table, answer) => {
                self.unfinished = None;
                let old = std::mem::replace(&mut self.memory, table);
                self.rx.move_to(&self.memory);
                self.tx.move_to(&self.memory);
                let _ = answer.send(old);
            }
            Message::Kick(id, fd) => self.queue(id).set_kick(fd, wakeups),
            Message::Call(id, fd) => self.queue(id).set_call(fd),
            Message::Err(id, fd) => self.queue(id).set_err(fd),
            Message::Stop => {}
        }
    }

    fn queue(&mut self, id: QueueId) -> &mut Queue {
        if id.direction == Direction::Rx { &mut self.rx } else { &mut self.tx }
    }

    /// The uplink's queue gets frames while a ring of the pair runs, and none otherwise: none waits where nobody reads.
    fn attach_as_needed(&mut self, wakeups: &Wakeups) {
        let wanted = self.rx.is_running() || self.tx.is_running();
        match (self.uplink, wanted) {
            (UplinkState::Detached, true) => match self.uplink_rx.attach(Some(self.features.guest)) {
                Ok(()) => self.uplink = UplinkState::Up,
                Err(e) => self.lose_uplink(&e),
            },
            (UplinkState::Up | UplinkState::Down, false) => self.detach(wakeups),
            _ => {}
        }
    }

    fn detach(&mut self, wakeups: &Wakeups) {
        self.watch(Interest::default(), wakeups);
        if !self.uplink_is_attached() {
            return;
        }
        self.uplink = UplinkState::Detached;
        if let Err(e) = self.uplink_rx.attach(None) {
            self.lose_uplink(&e);
        }
    }

    fn lose_uplink(&mut self, error: &io::Error) {
        self.uplink = UplinkState::Gone;
        tracing::error!(queue = %self.id, "the uplink has gone: {error}; frames of the guest are dropped");
    }

    fn watch(&mut self, wanted: Interest, wakeups: &Wakeups) {
        if let Err(e) = wakeups.watch(self.uplink_rx.fd(), wanted, &mut self.interest) {
            tracing::error!(queue = %self.id, "the uplink cannot be watched: {e}");
        }
    }

    /// Arms or suppresses the kicks of the pair's rings (patent-map row 6). Arming says whether work slipped in
    /// meanwhile that no kick will tell of.
    ///
    /// A driver kicks for what its device waits for: new packets, and receive buffers only when they ran out.
    pub(super) fn change_interrupt(&mut self, id: QueueId, on: bool) -> bool {
        use mode::Direction::{Blocked, Empty};
        let (rx, tx) = (id.direction != Direction::Tx, id.direction != Direction::Rx);
        let tx = tx && (!on || self.seen.tx == Empty) && self.tx.change_interrupt(on);
        let rx = rx && (!on || self.seen.rx == Blocked) && self.rx.change_interrupt(on);
        tx || (rx && self.rx.is_running() && self.uplink_is_attached())
    }

    fn uplink_is_attached(&self) -> bool {
        matches!(self.uplink, UplinkState::Up | UplinkState::Down)
    }

    /// Has the worker woken by the uplink for what the pair can move, before it sleeps. Says how long it may sleep.
    pub(super) fn before_sleep(&mut self, wakeups: &Wakeups) -> Option<Duration> {
        self.rx.drop_kick_if_broken(wakeups);
        self.tx.drop_kick_if_broken(wakeups);
        self.attach_as_needed(wakeups);
        let attached = self.uplink_is_attached();
        let wanted = Interest {
            readable: attached && self.seen.rx == mode::Direction::Empty,
            writable: attached && self.tx.is_running() && self.seen.tx == mode::Direction::Blocked,
        };
        self.watch(wanted, wakeups);
        (self.rx.needs_looking() || self.tx.needs_looking()).then_some(POLL_INTERVAL)
    }

    /// A round: each direction moves at most one burst.
    pub(super) fn round(&mut self) -> Seen {
        self.counters.rounds.add(1);
        self.seen = Seen { tx: self.tx_round(), rx: self.rx_round() };
        self.seen
    }

    /// Takes a burst of packets from a ring in one step: how many there are now, and what ended it too early.
    fn get_packets(&mut self, id: QueueId) -> (usize, Option<RingError>) {
        let Some(ring) = &mut self.queue(id).ring else { return (0, None) };
        match ring.take_burst(BURST_PACKETS, BURST_BYTES) {
            Ok(n) => (n, None),
            Err(e) => (ring.taken().len(), Some(e)),
        }
    }

    /// Guest to uplink.
    fn tx_round(&mut self) -> mode::Direction {
        if self.tx.ring.is_none() {
            return mode::Direction::Blocked;
        }
        let (packets, mut error) = self.get_packets(self.tx.id);
        let mut full = false;
        for _ in 0..packets {
            match self.send_one() {
                Ok(true) => {}
                Ok(false) => {
                    full = true;
                    break;
                }
                Err(fault) => {
                    error = Some(fault);
                    break;
                }
            }
        }
        self.tx.publish();
        if let Some(error) = error {
            self.tx.break_ring(&error);
        }
        if full || self.tx.ring.is_none() {
            mode::Direction::Blocked
        } else if packets == 0 {
            mode::Direction::Empty
        } else {
            mode::Direction::Ready
        }
    }

    /// Sends or drops the oldest packet taken from the transmit ring. `Ok(false)`: the uplink takes no more now.
    fn send_one(&mut self) -> Result<bool, RingError> {
        let Some(ring) = &mut self.tx.ring else { return Ok(false) };
        let slices = ring.slices(0, 1);
        let skip = self.features.header_len;
        let len = ring.taken().front().map_or(0, |chain| chain.len.saturating_sub(skip));

        let mut header = NetHeader::default();
        copy_from_guest(slices, &mut header.0[..skip]);
        let counters = &self.counters;
        if !self.tx.enabled {
            counters.tx_dropped_disabled.add(1);
        } else if let Err(e) = header.judge_from_guest(len, self.features.host) {
            counters.tx_dropped_header.add(1);
            tracing::debug!(queue = %self.tx.id, "frame dropped: {e}");
        } else if self.uplink == UplinkState::Gone {
            counters.tx_dropped_down.add(1);
        } else {
            match self.uplink_tx.send(TxFrame { header, slices, skip, len }) {
                Sent::Done => {
                    counters.tx_packets.add(1);
                    counters.tx_bytes.add(len as u64);
                    self.uplink_is(UplinkState::Up);
                }
                Sent::Full => return Ok(false),
                Sent::Down => {
                    counters.tx_dropped_down.add(1);
                    self.uplink_is(UplinkState::Down);
                }
                Sent::Refused => counters.tx_dropped_refused.add(1),
                Sent::Fault => return Err(RingError::Vanished),
            }
        }
        if let Some(ring) = &mut self.tx.ring {
            ring.complete(0);
        }
        Ok(true)
    }

    /// Notes what the uplink just showed itself to be, with a line when that is news.
    fn uplink_is(&mut self, state: UplinkState) {
        if self.uplink != state {
            match state {
                UplinkState::Down => {
                    tracing::warn!(queue = %self.id, "uplink is down; frames of the guest are dropped")
                }
                _ => tracing::info!(queue = %self.id, "uplink is up again"),
            }
            self.uplink = state;
        }
    }

    /// Uplink to guest.
    fn rx_round(&mut self) -> mode::Direction {
        if !self.rx.is_running() || !self.uplink_is_attached() {
            return mode::Direction::Blocked;
        }
        let (mut packets, mut bytes) = (0, 0);
        let state = loop {
            if packets >= BURST_PACKETS || bytes >= BURST_BYTES {
                break mode::Direction::Ready;
            }
            let step = if self.unfinished.is_some() { self.finish_one() } else { self.receive_one() };
            match step {
                Step::Delivered(len) => {
                    packets += 1;
                    bytes += len;
                }
                Step::Again => packets += 1,
                Step::Stop(state) => break state,
            }
        };
        self.rx.publish();
        state
    }

    /// Receives one frame straight into the guest's buffers.
    fn receive_one(&mut self) -> Step {
        let Features { header_len, mergeable, guest, .. } = self.features;
        let Some(ring) = &mut self.rx.ring else { return Step::BLOCKED };
        let (max_chains, room) = match (mergeable, guest.segments()) {
            (true, true) => (ROOM_CHAINS, ROOM_SEGMENTED),
            (true, false) => (ROOM_CHAINS, ROOM_PLAIN),
            (false, _) => (1, 1),
        };
        let chains = match ring.take_burst(max_chains, room) {
            Ok(0) => return Step::BLOCKED,
            Ok(n) => n,
            Err(e) => {
                self.rx.break_ring(&e);
                return Step::BLOCKED;
            }
        };
        let (mut header, len, rest) = match self.uplink_rx.receive(ring.slices(0, chains), header_len) {
            Received::Frame { header, len, rest } => (header, len, rest),
            Received::Empty => return Step::Stop(mode::Direction::Empty),
            Received::Gone => {
                self.lose_uplink(&io::Error::from_raw_os_error(libc::EBADFD));
                return Step::BLOCKED;
            }
            Received::Fault => {
                self.rx.break_ring(&RingError::Vanished);
                return Step::BLOCKED;
            }
        };
        if let Err(e) = header.judge_for_guest(len, guest) {
            self.counters.rx_dropped_offload.add(1);
            tracing::debug!(queue = %self.rx.id, "frame dropped: {e}");
            return Step::Again;
        }
        if rest.is_empty() {
            return self.deliver(header, len);
        }
        if !mergeable {
            self.counters.rx_dropped_too_large.add(1);
            return Step::Again;
        }
        self.unfinished = Some(Unfinished { header, len, rest: rest.to_vec() });
        Step::Again
    }

    /// Completes a frame that did not fit the buffers posted when it came.
    fn finish_one(&mut self) -> Step {
        let Some(Unfinished { header, len, rest }) = self.unfinished.take() else { return Step::Again };
        let Some(ring) = &mut self.rx.ring else { return Step::BLOCKED };
        let total = self.features.header_len + len;
        let chains = match ring.take_burst(usize::MAX, total) {
            Ok(n) => n,
            Err(e) => {
                self.rx.break_ring(&e);
                return Step::BLOCKED;
            }
        };
        if ring.taken_len() < total {
            if ring.is_all_taken() {
                // The whole ring cannot hold it.
                self.counters.rx_dropped_too_large.add(1);
                return Step::Again;
            }
            self.unfinished = Some(Unfinished { header, len, rest });
            return Step::BLOCKED;
        }
        let landed = total - rest.len();
        let mut skip = landed;
        let mut rest = rest.as_slice();
        for slice in ring.slices(0, chains) {
            let tail = slice.skip(skip);
            skip -= slice.len() - tail.len();
            let n = copy_to_guest(rest, &[tail]);
            rest = &rest[n..];
        }
        self.deliver(header, len)
    }

    /// Hands the driver a frame that lies in the first taken buffers, behind the room for its header.
    fn deliver(&mut self, mut header: NetHeader, len: usize) -> Step {
        let header_len = self.features.header_len;
        let Some(ring) = &mut self.rx.ring else { return Step::BLOCKED };
        let mut left = header_len + len;
        let mut chains = 0;
        for chain in ring.taken() {
            chains += 1;
            left = left.saturating_sub(chain.len);
            if left == 0 {
                break;
            }
        }
        header.set_num_buffers(chains);
        copy_to_guest(&header.0[..header_len], ring.slices(0, chains.into()));
        let mut left = header_len + len;
        for _ in 0..chains {
            let filled = ring.taken().front().map_or(0, |chain| chain.len.min(left));
            left -= filled;
            ring.complete(filled as u32);
        }
        self.counters.rx_packets.add(1);
        self.counters.rx_bytes.add(len as u64);
        Step::Delivered(len)
    }
}

/// What became of one step towards the guest.
enum Step {
    Delivered(usize),
    Again,
    Stop(mode::Direction),
}

impl Step {
    const BLOCKED: Self = Self::Stop(mode::Direction::Blocked);
}
