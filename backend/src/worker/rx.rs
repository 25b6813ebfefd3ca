//! Uplink to guest: each frame is received straight into posted buffers.

use std::io;
use std::time::{Duration, Instant};

use super::queue::Queue;
use super::shared::{Features, Shared};
use super::{BURST_BYTES, BURST_PACKETS};
use crate::memory::{copy_to_guest, write_array};
use crate::mode::Direction;
use crate::offload::{HEADER_LEN, NetHeader};
use crate::ring::RingError;
use crate::uplink::{Received, Rx};

/// Room that is offered to the uplink for a frame of a guest that takes segmented frames, in bytes.
const ROOM_SEGMENTED: usize = 65_535 + 18 + HEADER_LEN;
/// The same for a guest that does not: what fits usual MTUs; a longer frame takes the detour over private memory.
const ROOM_PLAIN: usize = 2048;
/// Most chains taken to make that room.
const ROOM_CHAINS: usize = 256;

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
    Delivered(usize),
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
    pub(super) fn round(&mut self, shared: &mut Shared) -> Direction {
        if !self.queue.is_running() || !shared.is_attached() {
            return Direction::Blocked;
        }
        let (mut packets, mut bytes) = (0, 0);
        let state = loop {
            if packets >= BURST_PACKETS || bytes >= BURST_BYTES {
                break Direction::Ready;
            }
            let step = if self.unfinished.is_some() { self.finish_one(shared) } else { self.receive_one(shared) };
            packets += 1;
            match step {
                Step::Delivered(len) => bytes += len,
                Step::Again => {}
                Step::Stop(state) => break state,
            }
        };
        self.queue.publish();
        state
    }

    /// Receives one frame straight into the guest's buffers.
    fn receive_one(&mut self, shared: &mut Shared) -> Step {
        let Features { header_len, mergeable, guest, .. } = shared.features;
        let Some(ring) = &mut self.queue.ring else { return Step::BLOCKED };
        let (max_chains, room) = match (mergeable, guest.segments()) {
            (true, true) => (ROOM_CHAINS, ROOM_SEGMENTED),
            (true, false) => (ROOM_CHAINS, ROOM_PLAIN),
            (false, _) => (1, 1),
        };
        let chains = match ring.take_burst(max_chains, room) {
            Ok(0) => return Step::BLOCKED,
            Ok(n) => n,
            Err(e) => {
                self.queue.break_ring(&e);
                return Step::BLOCKED;
            }
        };
        let (mut header, len, rest) = match self.uplink.receive(ring.slices(0, chains), header_len) {
            Received::Frame { header, len, rest } => (header, len, rest),
            Received::Spoilt => {
                shared.counters.rx_dropped_offload.add(1);
                return Step::Again;
            }
            Received::Empty => return Step::Stop(Direction::Empty),
            Received::Gone => {
                shared.lose_link(&io::Error::from_raw_os_error(libc::EBADFD));
                return Step::BLOCKED;
            }
            Received::Fault => {
                self.queue.break_ring(&RingError::Vanished);
                return Step::BLOCKED;
            }
        };
        if let Err(e) = header.judge_for_guest(len, guest) {
            shared.counters.rx_dropped_offload.add(1);
            tracing::debug!(queue = %self.queue.id, "frame dropped: {e}");
            return Step::Again;
        }
        if shared.features.max_frame.is_some_and(|max| len > max && !header.is_segmented()) {
            shared.counters.rx_dropped_too_large.add(1);
            return Step::Again;
        }
        if rest.is_empty() {
            return self.deliver(shared, header, len);
        }
        if !mergeable {
            shared.counters.rx_dropped_too_large.add(1);
            return Step::Again;
        }
        self.unfinished = Some(Unfinished { header, len, rest: rest.to_vec(), since: Instant::now() });
        Step::Again
    }

    /// Completes a frame that did not fit the buffers posted when it came.
    fn finish_one(&mut self, shared: &Shared) -> Step {
        let Some(Unfinished { header, len, rest, since }) = self.unfinished.take() else { return Step::Again };
        let Some(ring) = &mut self.queue.ring else { return Step::BLOCKED };
        let total = shared.features.header_len + len;
        let chains = match ring.take_burst(usize::MAX, total) {
            Ok(n) => n,
            Err(e) => {
                self.queue.break_ring(&e);
                return Step::BLOCKED;
            }
        };
        if ring.taken_len() < total {
            if ring.is_all_taken() || since.elapsed() >= UNFINISHED_PATIENCE {
                // The whole ring cannot hold it, or the driver posts no more: it may wait for buffers to come back, or
                // have no descriptors left. One frame must not stop all that follow.
                shared.counters.rx_dropped_too_large.add(1);
                return Step::Again;
            }
            self.unfinished = Some(Unfinished { header, len, rest, since });
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
        self.deliver(shared, header, len)
    }

    /// Hands the driver a frame that lies in the first taken buffers, behind the room for its header.
    fn deliver(&mut self, shared: &Shared, mut header: NetHeader, len: usize) -> Step {
        let header_len = shared.features.header_len;
        let Some(ring) = &mut self.queue.ring else { return Step::BLOCKED };
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
        let slices = ring.slices(0, chains.into());
        if header_len != HEADER_LEN || !write_array(&header.0, slices) {
            copy_to_guest(&header.0[..header_len], slices);
        }
        let mut left = header_len + len;
        for _ in 0..chains {
            let filled = ring.taken().front().map_or(0, |chain| chain.len.min(left));
            left -= filled;
            ring.complete(filled as u32);
        }
        shared.counters.rx_packets.add(1);
        shared.counters.rx_bytes.add(len as u64);
        Step::Delivered(len)
    }
}
