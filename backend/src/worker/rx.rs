//! Uplink to guest: each frame is received straight into posted buffers.

use std::io;
use std::time::{Duration, Instant};

use super::moved::Moved;
use super::queue::Queue;
use super::shared::{Features, Shared};
use super::{BURST_BYTES, BURST_PACKETS};
use crate::memory::{copy_to_guest, write_array};
use crate::mode::Direction;
use crate::offload::{HEADER_LEN, NetHeader};
use crate::ring::{Ring, RingError, Virtqueue};
use crate::uplink::{Receive, Received, Rx};

/// Room that is offered to the uplink for a frame of a guest that takes segmented frames, in bytes.
const ROOM_SEGMENTED: usize = 65_535 + 18 + HEADER_LEN;
/// The same for a guest that does not: what fits usual MTUs; a longer frame takes the detour over private memory.
const ROOM_PLAIN: usize = 2048;

/// How long a frame waits for the driver to post the buffers that it lacks.
const UNFINISHED_PATIENCE: Duration = Duration::from_secs(1);

/// The receive half of a pair.
#[derive(Debug)]
pub(super) struct RxHalf {
    pub(super) queue: Queue,
    pub(super) uplink: Rx,
    /// A frame that lies partly in receive buffers and waits for more of them.
    pub(super) unfinished: Option<Unfinished>,
}

#[derive(Debug)]
pub(super) struct Unfinished {
    header: NetHeader,
    len: usize,
    rest: Vec<u8>,
    since: Instant,
}

/// What became of one step towards the guest.
enum Step {
    /// A frame of so many bytes and segments.
    Delivered(usize, usize),
    Again,
    Stop(Direction),
}

impl Step {
    const BLOCKED: Self = Self::Stop(Direction::Blocked);
}

impl RxHalf {
    /// How long the worker may sleep before it gives a frame up.
    pub(super) fn patience_left(&self) -> Option<Duration> {
        let unfinished = self.unfinished.as_ref().filter(|_| self.queue.is_running())?;
        Some(UNFINISHED_PATIENCE.saturating_sub(unfinished.since.elapsed()))
    }

    /// Moves at most a burst.
    pub(super) fn round(&mut self, shared: &mut Shared) -> Moved {
        if !self.queue.is_running() || !shared.is_attached() {
            return Moved::BLOCKED;
        }
        let Self { queue, uplink, unfinished } = self;
        let Some(ring) = &mut queue.ring else { return Moved::BLOCKED };
        let (moved, error) = match (ring, uplink) {
            (_, Rx::Discard) => (Moved { state: Direction::Empty, ..Moved::BLOCKED }, None),
            (Ring::Split(ring), Rx::Tap(uplink)) => round_on(ring, uplink, unfinished, shared),
            (Ring::Packed(ring), Rx::Tap(uplink)) => round_on(ring, uplink, unfinished, shared),
            (Ring::Split(ring), Rx::Loopback(uplink)) => round_on(ring, uplink, unfinished, shared),
            (Ring::Packed(ring), Rx::Loopback(uplink)) => round_on(ring, uplink, unfinished, shared),
            (Ring::Split(ring), Rx::Generate(uplink)) => round_on(ring, uplink, unfinished, shared),
            (Ring::Packed(ring), Rx::Generate(uplink)) => round_on(ring, uplink, unfinished, shared),
        };
        self.queue.publish();
        if let Some(error) = error {
            self.queue.break_ring(&error);
        }
        moved
    }
}

fn round_on<R: Virtqueue, U: Receive>(
    ring: &mut R,
    uplink: &mut U,
    unfinished: &mut Option<Unfinished>,
    shared: &mut Shared,
) -> (Moved, Option<RingError>) {
    let mut moved = Moved::BLOCKED;
    let mut delivered = 0;
    let error = loop {
        if moved.packets >= BURST_PACKETS as u64 || moved.bytes >= BURST_BYTES as u64 {
            moved.state = Direction::Ready;
            break None;
        }
        let step = match unfinished.take() {
            Some(frame) => finish_one(ring, frame, unfinished, shared),
            None => receive_one(ring, uplink, unfinished, shared),
        };
        moved.packets += 1;
        match step {
            Ok(Step::Delivered(len, segments)) => {
                delivered += 1;
                moved.segments += segments as u64;
                moved.bytes += len as u64;
            }
            Ok(Step::Again) => {}
            Ok(Step::Stop(state)) => {
                moved.packets -= 1;
                moved.state = state;
                break None;
            }
            Err(e) => {
                moved.state = Direction::Blocked;
                break Some(e);
            }
        }
    };
    shared.counters.rx_packets.add(delivered);
    shared.counters.rx_segments.add(moved.segments);
    shared.counters.rx_bytes.add(moved.bytes);
    (moved, error)
}

#[inline]
fn receive_one<R: Virtqueue, U: Receive>(
    ring: &mut R,
    uplink: &mut U,
    unfinished: &mut Option<Unfinished>,
    shared: &mut Shared,
) -> Result<Step, RingError> {
    let Features { header_len, mergeable, guest, .. } = shared.features;
    let room = if mergeable && guest.segments() { ROOM_SEGMENTED } else { ROOM_PLAIN };
    if ring.taken().is_empty() || (mergeable && ring.taken().bytes() < room) {
        match ring.reserve(BURST_PACKETS, room) {
            Ok(0) => return Ok(Step::BLOCKED),
            Err(e) if ring.taken().is_empty() => return Err(e),
            // What was taken before a broken chain is still good; the chain will be met again.
            Ok(_) | Err(_) => {}
        }
    }
    let chains = if mergeable { ring.taken().len() } else { 1 };
    let (mut header, len, rest) = match uplink.receive(ring.taken().slices(chains), header_len, room) {
        Received::Frame { header, len, rest } => (header, len, rest),
        Received::Spoilt => {
            shared.counters.rx_dropped_offload.add(1);
            return Ok(Step::Again);
        }
        Received::Empty => return Ok(Step::Stop(Direction::Empty)),
        Received::Gone => {
            shared.lose_link(&io::Error::from_raw_os_error(libc::EBADFD));
            return Ok(Step::BLOCKED);
        }
        Received::Fault => {
            ring.mark_written(usize::MAX);
            return Err(RingError::Vanished);
        }
    };
    let judged = header.judge_for_guest(len, guest);
    let too_large = shared.features.max_frame.is_some_and(|max| len > max && !header.is_segmented())
        || (!rest.is_empty() && !mergeable);
    if judged.is_err() || too_large {
        // It lies in the guest's buffers all the same.
        ring.mark_written(header_len + len);
        let counters = &shared.counters;
        if judged.is_err() { &counters.rx_dropped_offload } else { &counters.rx_dropped_too_large }.add(1);
        return Ok(Step::Again);
    }
    if rest.is_empty() {
        return Ok(deliver(ring, shared, header, len));
    }
    *unfinished = Some(Unfinished { header, len, rest: rest.to_vec(), since: Instant::now() });
    Ok(Step::Again)
}

/// Completes a frame that did not fit the buffers posted when it came.
fn finish_one<R: Virtqueue>(
    ring: &mut R,
    frame: Unfinished,
    unfinished: &mut Option<Unfinished>,
    shared: &Shared,
) -> Result<Step, RingError> {
    let total = shared.features.header_len + frame.len;
    if let Err(e) = ring.reserve(0, total)
        && ring.taken().bytes() < total
    {
        return Err(e);
    }
    let landed = total - frame.rest.len();
    if ring.taken().bytes() < total {
        if ring.is_all_taken() || frame.since.elapsed() >= UNFINISHED_PATIENCE {
            // The whole ring cannot hold it, or the driver posts no more: it may wait for buffers to come back, or
            // have no descriptors left. One frame must not stop all that follow.
            ring.mark_written(landed);
            shared.counters.rx_dropped_too_large.add(1);
            return Ok(Step::Again);
        }
        *unfinished = Some(frame);
        return Ok(Step::BLOCKED);
    }
    copy_to_guest(&frame.rest, ring.taken().slices(ring.taken().len()), landed);
    Ok(deliver(ring, shared, frame.header, frame.len))
}

/// Hands the driver a frame that lies in the first taken buffers, behind the room for its header.
#[inline]
fn deliver<R: Virtqueue>(ring: &mut R, shared: &Shared, mut header: NetHeader, len: usize) -> Step {
    let header_len = shared.features.header_len;
    let mut left = header_len + len;
    let mut chains = 0;
    for chain in ring.taken().chains() {
        chains += 1;
        left = left.saturating_sub(chain.len as usize);
        if left == 0 {
            break;
        }
    }
    let segments = header.segments(len);
    header.set_num_buffers(chains);
    let slices = ring.taken().slices(chains.into());
    if header_len != HEADER_LEN || !write_array(&header.0, slices) {
        copy_to_guest(&header.0[..header_len], slices, 0);
    }
    let mut left = header_len + len;
    for _ in 0..chains {
        let filled = ring.taken().chains().first().map_or(0, |chain| (chain.len as usize).min(left));
        left -= filled;
        ring.complete(filled as u32);
    }
    Step::Delivered(len, segments)
}
