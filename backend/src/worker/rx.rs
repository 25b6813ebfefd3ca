//! Uplink to guest: each frame is received straight into posted buffers.

use std::io;
use std::time::Duration;

use super::clock::now;
use super::guard::Budget;
use super::moderation::Priorities;
use super::moved::Moved;
use super::observers::Observers;
use super::queue::Queue;
use super::shared::{Features, Shared};
use super::{BURST_PACKETS, Guard};
use crate::guard::Allowance;
use crate::memory::{copy_from_guest, copy_to_guest, refresh_in_guest};
use crate::mode::{Direction, Time};
use crate::offload::{HEADER_LEN, NetHeader, Offloads};
use crate::ring::{Ring, RingError, Taken, Virtqueue};
use crate::uplink::{Receive, Received, Rx};

/// Room that is offered to the uplink for a frame of a guest that takes segmented frames, in bytes.
const ROOM_SEGMENTED: usize = 65_535 + 18 + HEADER_LEN;
/// The same for a guest that does not, with mergeable buffers: what fits usual MTUs; a longer frame takes the detour over
/// private memory.
const ROOM_PLAIN: usize = 2048;

/// How long a frame waits for the driver to post the buffers that it lacks.
const UNFINISHED_PATIENCE: Duration = Duration::from_secs(1);

/// The receive half of a pair.
#[derive(Debug)]
pub(super) struct RxHalf {
    pub(super) queue: Queue,
    pub(super) uplink: Rx,
    pub(super) budget: Budget,
    state: State,
}

/// What lies between the uplink and the ring.
#[derive(Debug, Default)]
struct State {
    /// A frame that lies partly in receive buffers and waits for more of them.
    unfinished: Option<Unfinished>,
    /// Bytes written to the oldest taken chains, which are to be completed. Empty between rounds.
    filled: Vec<u32>,
    /// Bytes of these chains.
    filled_room: usize,
    observers: Observers,
}

#[derive(Debug)]
struct Unfinished {
    header: NetHeader,
    len: usize,
    rest: Vec<u8>,
    since: Time,
}

/// What the features of the driver mean to the frames of a round.
#[derive(Clone, Copy)]
struct Terms {
    header_len: usize,
    mergeable: bool,
    guest: Offloads,
    /// Bytes of the largest frame that need not be segmented.
    max_frame: usize,
    /// Bytes that are offered to the uplink for a frame.
    room: usize,
    /// Bytes that must be taken before a frame is received. Without mergeable buffers a frame has one chain, whatever its
    /// size.
    need: usize,
}

impl Terms {
    fn of(features: &Features) -> Self {
        let Features { header_len, mergeable, guest, max_frame, .. } = *features;
        // A chain that must hold the frame alone is offered whole.
        let room = if mergeable && !guest.segments() { ROOM_PLAIN } else { ROOM_SEGMENTED };
        let need = if mergeable { room } else { 1 };
        Self { header_len, mergeable, guest, max_frame: max_frame.unwrap_or(usize::MAX), room, need }
    }
}

/// What became of a frame.
enum Step {
    /// It lies in chains that are to be completed: so many bytes and segments.
    Delivered(usize, usize),
    /// It was dropped, or waits for more chains.
    Again,
    /// Nothing more can be moved.
    Stop(Direction),
}

impl RxHalf {
    pub(super) fn new(queue: Queue, uplink: Rx, guard: &Guard) -> Self {
        Self { queue, uplink, budget: Budget::new(guard.rx_gate.clone()), state: State::default() }
    }

    /// Looks for packets that are urgent from now on, or no more.
    pub(super) fn look_for_urgent(&mut self, urgent: Option<Priorities>) {
        self.state.observers.look_for_urgent(urgent);
    }

    /// Has frames copied from now on, or no more.
    pub(super) fn set_captured(&mut self, on: bool) {
        self.state.observers.set_captured(on);
    }

    /// Drops a frame that waits for buffers: the ring or its features change.
    pub(super) fn forget_unfinished(&mut self) {
        self.state.unfinished = None;
    }

    /// When a frame that waits for buffers is given up. Not before there may be a round.
    pub(super) fn gives_up_at(&self) -> Option<Time> {
        let may_move = self.queue.is_running() && self.budget.opens_at().is_none();
        let unfinished = self.state.unfinished.as_ref().filter(|_| may_move)?;
        Some(Time::from_nanos(unfinished.since.as_nanos() + UNFINISHED_PATIENCE.as_nanos() as u64))
    }

    /// Moves at most a burst.
    pub(super) fn round(&mut self, shared: &mut Shared) -> Moved {
        if !self.queue.is_running() || !shared.is_attached() {
            self.budget.rest();
            return Moved::BLOCKED;
        }
        let Self { queue, uplink, budget, state } = self;
        let Some(most) = budget.allowance(&shared.counters.rx_held) else { return Moved::BLOCKED };
        let Some(ring) = &mut queue.ring else { return Moved::BLOCKED };
        let (moved, error) = match (ring, uplink) {
            (_, Rx::Discard) => (Moved { state: Direction::Empty, ..Moved::BLOCKED }, None),
            (Ring::Split(ring), Rx::Tap(uplink)) => state.round(ring, &mut **uplink, shared, most),
            (Ring::Packed(ring), Rx::Tap(uplink)) => state.round(ring, &mut **uplink, shared, most),
            (Ring::Split(ring), Rx::AfXdp(uplink)) => state.round(ring, &mut **uplink, shared, most),
            (Ring::Packed(ring), Rx::AfXdp(uplink)) => state.round(ring, &mut **uplink, shared, most),
            (Ring::Split(ring), Rx::Wire(uplink)) => state.round(ring, uplink, shared, most),
            (Ring::Packed(ring), Rx::Wire(uplink)) => state.round(ring, uplink, shared, most),
            (Ring::Split(ring), Rx::Piped(piped)) => state.round(ring, &mut piped.wire, shared, most),
            (Ring::Packed(ring), Rx::Piped(piped)) => state.round(ring, &mut piped.wire, shared, most),
            (Ring::Split(ring), Rx::Generate(uplink)) => state.round(ring, uplink, shared, most),
            (Ring::Packed(ring), Rx::Generate(uplink)) => state.round(ring, uplink, shared, most),
        };
        self.budget.moved(moved.segments, moved.bytes);
        let moved = Moved { published: self.queue.publish(), urgent: self.state.observers.take_urgent(), ..moved };
        if let Some(error) = error {
            if moved.published {
                self.queue.call_for_published();
            }
            self.queue.break_ring(&error);
            return Moved { published: false, ..moved };
        }
        moved
    }
}

impl State {
    fn round<R: Virtqueue, U: Receive>(
        &mut self,
        ring: &mut R,
        uplink: &mut U,
        shared: &mut Shared,
        most: Allowance,
    ) -> (Moved, Option<RingError>) {
        let terms = Terms::of(&shared.features);
        let mut moved = Moved::BLOCKED;
        let mut delivered = 0;
        let error = loop {
            let is_whole = moved.packets >= most.packets as u64 || moved.bytes >= most.bytes as u64;
            if is_whole || ring.taken().has_walked_enough() {
                moved.state = Direction::Ready;
                break None;
            }
            let step = if self.unfinished.is_some() {
                self.finish_one(ring, &terms, shared)
            } else {
                match self.reserve(ring, BURST_PACKETS, terms.need) {
                    Ok(0) => Ok(Step::Stop(Direction::Blocked)),
                    Ok(_) => {
                        let taken = ring.taken();
                        let (frames, bytes) = self.deliver_plain(taken, &terms, uplink, shared, &moved, most);
                        if frames > 0 {
                            delivered += frames;
                            moved.packets += frames;
                            moved.segments += frames;
                            moved.bytes += bytes;
                            continue;
                        }
                        let first = self.filled.len();
                        let chains = if terms.mergeable { taken.len() - first } else { 1 };
                        match uplink.receive(taken.slices_from(first, chains), terms.header_len, terms.room) {
                            Received::Frame { header, len, rest } => {
                                Ok(self.judge(ring, &terms, shared, header, len, rest))
                            }
                            Received::Empty => Ok(Step::Stop(Direction::Empty)),
                            other => self.receive_failed(ring, shared, &other),
                        }
                    }
                    Err(e) => Err(e),
                }
            };
            match step {
                Ok(Step::Delivered(len, segments)) => {
                    delivered += 1;
                    moved.segments += segments as u64;
                    moved.bytes += len as u64;
                }
                Ok(Step::Again) => {}
                Ok(Step::Stop(state)) => {
                    moved.state = state;
                    break None;
                }
                Err(e) => break Some(e),
            }
            moved.packets += 1;
        };
        self.complete(ring);
        shared.counters.rx_packets.add_some(delivered);
        shared.counters.rx_segments.add_some(moved.segments);
        shared.counters.rx_bytes.add_some(moved.bytes);
        (moved, error)
    }

    /// Hands back the chains that were filled.
    #[inline]
    fn complete<R: Virtqueue>(&mut self, ring: &mut R) {
        ring.complete_burst(&self.filled);
        self.filled.clear();
        self.filled_room = 0;
    }

    /// Sees to it that chains of `room` bytes are taken and not filled, as far as the driver has posted them; says how
    /// many bytes there are.
    #[inline]
    fn reserve<R: Virtqueue>(&mut self, ring: &mut R, chains: usize, room: usize) -> Result<usize, RingError> {
        let free = ring.taken().bytes() - self.filled_room;
        if free >= room && ring.taken().len() > self.filled.len() {
            return Ok(free);
        }
        self.complete(ring);
        match ring.reserve(chains, room) {
            // What was taken before a broken chain is still good; the chain will be met again.
            Err(e) if ring.taken().is_empty() => Err(e),
            Ok(_) | Err(_) => Ok(ring.taken().bytes()),
        }
    }

    /// Notes that so many bytes were written to chain number `at`, the first that was not filled.
    #[inline]
    fn fill(&mut self, taken: &Taken, at: usize, written: usize) {
        self.filled.push(written as u32);
        self.filled_room += taken.chains().get(at).map_or(0, |chain| chain.len as usize);
    }

    /// Delivers frames that lie in private memory and need no work, each into a chain of its own, until one is another or the
    /// burst is whole; says how many they were and their bytes.
    #[inline]
    fn deliver_plain<U: Receive>(
        &mut self,
        taken: &Taken,
        terms: &Terms,
        uplink: &mut U,
        shared: &mut Shared,
        moved: &Moved,
        most: Allowance,
    ) -> (u64, u64) {
        let header = &NetHeader::PLAIN.0[..terms.header_len];
        let (mut frames, mut bytes) = (0, 0);
        for chain in &taken.chains()[self.filled.len()..] {
            if moved.packets + frames >= most.packets as u64 || moved.bytes + bytes >= most.bytes as u64 {
                break;
            }
            let room = (chain.len as usize).saturating_sub(header.len()).min(terms.max_frame);
            let Some(frame) = uplink.next_plain(room) else { break };
            let slices = taken.buffers().get(chain.slices());
            refresh_in_guest(header, slices);
            copy_to_guest(frame, slices, header.len());
            if self.observers.any() {
                self.observers.look(shared.recorder.as_mut(), frame.len(), |to| {
                    to.copy_from_slice(&frame[..to.len()]);
                    to.len()
                });
            }
            self.filled.push((header.len() + frame.len()) as u32);
            self.filled_room += chain.len as usize;
            frames += 1;
            bytes += frame.len() as u64;
        }
        (frames, bytes)
    }

    /// What to do when the uplink gave no frame.
    #[cold]
    fn receive_failed<R: Virtqueue>(
        &mut self,
        ring: &mut R,
        shared: &mut Shared,
        received: &Received<'_>,
    ) -> Result<Step, RingError> {
        match received {
            Received::Spoilt => {
                shared.counters.rx_dropped_offload.add(1);
                Ok(Step::Again)
            }
            Received::Fault => {
                self.complete(ring);
                ring.mark_written(usize::MAX);
                Err(RingError::Vanished)
            }
            _ => {
                shared.lose_link(&io::Error::from_raw_os_error(libc::EBADFD));
                Ok(Step::Stop(Direction::Blocked))
            }
        }
    }

    /// Delivers a frame if the guest can have it: now, or when there are chains for what is left of it.
    #[inline(never)]
    fn judge<R: Virtqueue>(
        &mut self,
        ring: &mut R,
        terms: &Terms,
        shared: &mut Shared,
        mut header: NetHeader,
        len: usize,
        rest: &[u8],
    ) -> Step {
        let judged = header.judge_for_guest(len, terms.guest);
        let too_large = (len > terms.max_frame && !header.is_segmented()) || (!rest.is_empty() && !terms.mergeable);
        if judged.is_err() || too_large {
            // It lies in the guest's buffers all the same.
            self.complete(ring);
            ring.mark_written(terms.header_len + len);
            let counters = &shared.counters;
            if judged.is_err() { &counters.rx_dropped_offload } else { &counters.rx_dropped_too_large }.add(1);
            return Step::Again;
        }
        if rest.is_empty() {
            return self.deliver(ring, terms, shared, header, len);
        }
        self.unfinished = Some(Unfinished { header, len, rest: rest.to_vec(), since: now() });
        Step::Again
    }

    /// Completes a frame that did not fit the buffers posted when it came.
    #[cold]
    fn finish_one<R: Virtqueue>(
        &mut self,
        ring: &mut R,
        terms: &Terms,
        shared: &mut Shared,
    ) -> Result<Step, RingError> {
        let Some(frame) = self.unfinished.take() else { return Ok(Step::Again) };
        let total = terms.header_len + frame.len;
        let landed = total - frame.rest.len();
        self.complete(ring);
        // A broken chain that comes next would never be got past.
        ring.reserve(0, total)?;
        if ring.taken().bytes() < total {
            if ring.is_all_taken() || now().duration_since(frame.since) >= UNFINISHED_PATIENCE {
                // The whole ring cannot hold it, or the driver posts no more: it may wait for buffers to come back, or
                // have no descriptors left. One frame must not stop all that follow.
                ring.mark_written(landed);
                shared.counters.rx_dropped_too_large.add(1);
                return Ok(Step::Again);
            }
            self.unfinished = Some(frame);
            return Ok(Step::Stop(Direction::Blocked));
        }
        let first = self.filled.len();
        copy_to_guest(&frame.rest, ring.taken().slices_from(first, ring.taken().len() - first), landed);
        Ok(self.deliver(ring, terms, shared, frame.header, frame.len))
    }

    /// Prepares a frame for the driver that lies in the first chains that are not filled, behind the room for its header.
    fn deliver<R: Virtqueue>(
        &mut self,
        ring: &R,
        terms: &Terms,
        shared: &mut Shared,
        mut header: NetHeader,
        len: usize,
    ) -> Step {
        let (first, mut left) = (self.filled.len(), terms.header_len + len);
        for (at, chain) in ring.taken().chains().iter().enumerate().skip(first) {
            let filled = (chain.len as usize).min(left);
            self.fill(ring.taken(), at, filled);
            left -= filled;
            if left == 0 {
                break;
            }
        }
        let chains = self.filled.len() - first;
        let segments = header.segments(len, |at| {
            let mut byte = [0];
            copy_from_guest(ring.taken().slices_from(first, chains), terms.header_len + at, &mut byte);
            byte[0]
        });
        if self.observers.any() {
            // A driver that changes the frame meanwhile changes what is seen of its own frame only.
            let slices = ring.taken().slices_from(first, chains);
            self.observers.look(shared.recorder.as_mut(), len, |to| copy_from_guest(slices, terms.header_len, to));
        }
        header.set_num_buffers(chains as u16);
        copy_to_guest(&header.0[..terms.header_len], ring.taken().slices_from(first, chains), 0);
        Step::Delivered(len, segments)
    }
}
