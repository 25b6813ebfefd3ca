//! Guest to uplink: a burst of chains, each sent straight from the guest's buffers behind a judged copy of its header.

use std::io;
use std::sync::Arc;

use super::guard::Budget;
use super::moved::Moved;
use super::queue::Queue;
use super::shared::{Link, Shared};
use super::{BURST_PACKETS, Guard, NotSent, PairCounters, QueueId};
use crate::capture::Recorder;
use crate::guard::{Allowance, Filter};
use crate::memory::{GuestSlice, copy_from_guest, read_twelve};
use crate::mode::Direction;
use crate::offload::{HEADER_LEN, NetHeader};
use crate::ring::{Chain, Ring, RingError, Taken, Virtqueue};
use crate::uplink::{Head, Judged, Sent, Tx, TxBurst};

/// The transmit half of a pair.
#[derive(Debug)]
pub(super) struct TxHalf {
    pub(super) queue: Queue,
    pub(super) budget: Budget,
    sender: Sender,
}

/// What happens to the packets of a burst.
#[derive(Debug)]
struct Sender {
    id: QueueId,
    uplink: Tx,
    /// The address that the guest must send from; none, or no longer looked at.
    expected_mac: Option<[u8; 6]>,
    /// What it may send, if not everything.
    filter: Option<Arc<Filter>>,
    /// It was told that the guest sends what it may not.
    has_told: bool,
    /// Frames of a burst that are to be sent.
    frames: Vec<Judged>,
    /// Their first bytes, if there is a filter.
    heads: Vec<Head>,
    leftover: Leftover,
}

/// What is known of the chains at the front of the ring that an earlier burst could not send.
#[derive(Debug, Default)]
struct Leftover {
    /// Which of the frames were sent, with one that stood before them (see [`TxBurst::ahead`]).
    ahead: u64,
    /// Chains that were judged: what was dropped of them is counted.
    judged: u16,
}

impl TxHalf {
    pub(super) fn new(queue: Queue, uplink: Tx, expected_mac: Option<[u8; 6]>, guard: &Guard) -> Self {
        let sender = Sender {
            id: queue.id,
            uplink,
            expected_mac,
            filter: guard.filter.clone(),
            has_told: false,
            frames: Vec::with_capacity(BURST_PACKETS),
            heads: Vec::new(),
            leftover: Leftover::default(),
        };
        Self { queue, budget: Budget::new(guard.tx_gate.clone()), sender }
    }

    pub(super) fn uplink(&mut self) -> &mut Tx {
        &mut self.sender.uplink
    }

    /// Forgets what an earlier burst left: the ring is another.
    pub(super) fn forget_leftover(&mut self) {
        self.sender.leftover = Leftover::default();
    }

    /// Sends a frame that is not the guest's own, but for which it stands: it is judged and counted as one that is.
    pub(super) fn send_for_guest(&mut self, frame: &[u8], counters: &PairCounters) -> Result<(), NotSent> {
        if let Some(filter) = &self.sender.filter {
            filter.judge(frame).inspect_err(|refusal| counters.of_refusal(*refusal).add(1))?;
        }
        if self.budget.allowance(&counters.tx_held).is_none() {
            return Err(NotSent::Held);
        }
        match self.sender.uplink.send_private(&NetHeader::default(), frame) {
            Sent::Done => {
                self.budget.moved(1, frame.len() as u64);
                Ok(())
            }
            sent => Err(NotSent::Uplink(sent)),
        }
    }

    /// Moves at most a burst.
    pub(super) fn round(&mut self, shared: &mut Shared) -> Moved {
        let discards = self.queue.discards();
        if !self.queue.is_running() && !discards {
            self.budget.rest();
            return Moved::BLOCKED;
        }
        let Some(most) = self.budget.allowance(&shared.counters.tx_held) else { return Moved::BLOCKED };
        let (moved, error) = match &mut self.queue.ring {
            Some(Ring::Split(ring)) => self.sender.round(ring, shared, discards, most),
            Some(Ring::Packed(ring)) => self.sender.round(ring, shared, discards, most),
            None => (Moved::BLOCKED, None),
        };
        self.budget.moved(moved.segments, moved.bytes);
        let moved = Moved { published: self.queue.publish(), ..moved };
        match error {
            None => moved,
            Some(error) => {
                if moved.published {
                    self.queue.call_for_published();
                }
                self.queue.break_ring(&error);
                Moved { state: Direction::Blocked, published: false, ..moved }
            }
        }
    }
}

impl Sender {
    #[inline]
    fn round<R: Virtqueue>(
        &mut self,
        ring: &mut R,
        shared: &mut Shared,
        discards: bool,
        most: Allowance,
    ) -> (Moved, Option<RingError>) {
        let (packets, mut error) = get_packets(ring, most);
        if packets == 0 {
            let state = if self.uplink.flush() { Direction::Empty } else { Direction::Blocked };
            return (Moved { state, ..Moved::BLOCKED }, error);
        }
        if discards || shared.link == Link::Gone {
            let dropped =
                if discards { &shared.counters.tx_dropped_disabled } else { &shared.counters.tx_dropped_down };
            dropped.add(packets as u64);
            let state = left_after(ring.taken(), most);
            ring.complete_unwritten(packets);
            self.leftover = Leftover::default();
            return (Moved { state, packets: packets as u64, ..Moved::BLOCKED }, error);
        }
        let left = left_after(ring.taken(), most);
        self.judge(ring.taken(), packets, shared);
        if let Some(filter) = self.filter.clone() {
            self.filter(ring.taken(), &filter, shared);
        }
        let skip = shared.features.header_len;
        let ahead = self.leftover.ahead;
        let (chains, buffers) = (ring.taken().chains(), ring.taken().buffers());
        let burst = TxBurst { frames: &self.frames, chains, buffers, skip, ahead, heads: &self.heads };
        let sent = self.uplink.send(&burst);
        if let Some(recorder) = &mut shared.recorder {
            record(recorder, &burst, sent.sent(ahead));
        }
        // All chains before the first frame that was not dealt with are done, dropped ones among them.
        let done = self.frames.get(sent.done).map_or(packets, |frame| frame.chain.into());
        ring.complete_unwritten(done);
        self.leftover =
            Leftover { ahead: sent.ahead, judged: packets.max(self.leftover.judged.into()) as u16 - done as u16 };
        let counters = &shared.counters;
        counters.tx_packets.add(sent.packets);
        counters.tx_segments.add(sent.segments);
        counters.tx_bytes.add(sent.bytes);
        counters.tx_dropped_down.add_some(sent.down);
        counters.tx_dropped_refused.add_some(sent.refused);
        match sent.end {
            Some(Sent::Down) => shared.link_is(Link::Down),
            Some(Sent::Gone) => shared.lose_link(&io::Error::from_raw_os_error(libc::EBADFD)),
            Some(Sent::Fault) => error = error.or(Some(RingError::Vanished)),
            _ if sent.packets > 0 => shared.link_is(Link::Up),
            _ => {}
        }
        let state = match sent.end {
            Some(Sent::Full) => Direction::Blocked,
            // What is taken and not done waits for no kick.
            _ if done < packets => Direction::Ready,
            _ => left,
        };
        (Moved { state, packets: done as u64, segments: sent.segments, bytes: sent.bytes, ..Moved::BLOCKED }, error)
    }

    /// Copies the headers of the first `packets` chains out and keeps the frames that may be sent.
    #[inline]
    fn judge(&mut self, taken: &Taken, packets: usize, shared: &Shared) {
        let skip = shared.features.header_len;
        let chains = &taken.chains()[..packets];
        let buffers = taken.buffers();
        let copies = self.uplink.copies();
        self.frames.clear();
        for (at, chain) in (0..).zip(chains) {
            let slices = buffers.get(chain.slices());
            if copies && let Some(first) = slices.first() {
                first.prefetch_packet();
            }
            match read_twelve(slices) {
                Some((low, _)) if skip == HEADER_LEN && NetHeader::asks_for_nothing(low) => {
                    self.frames.push(Judged { header: NetHeader::default(), chain: at });
                }
                Some((low, high)) if skip == HEADER_LEN => {
                    self.judge_work(NetHeader::from_driver(low, high), at, chain, shared);
                }
                _ => self.judge_work(header_in_pieces(slices, skip), at, chain, shared),
            }
        }
        if self.expected_mac.is_some() {
            for chain in chains {
                check_mac(&mut self.expected_mac, self.id, buffers.get(chain.slices()), skip);
            }
        }
    }

    /// Keeps the frames that the guest may send.
    #[inline(never)]
    fn filter(&mut self, taken: &Taken, filter: &Filter, shared: &Shared) {
        let Self { frames, heads, leftover, .. } = self;
        let skip = shared.features.header_len;
        let mut refused = None;
        heads.clear();
        frames.retain(|frame| {
            let Some(chain) = taken.chains().get(usize::from(frame.chain)) else { return false };
            let len = (chain.len as usize).saturating_sub(skip);
            let head = Head::of(taken.buffers().get(chain.slices()), skip, len);
            let judged = match frame.header.checksum() {
                None => filter.judge(head.bytes()),
                Some((start, offset)) => filter.judge_unfinished(head.bytes(), start + offset),
            };
            match judged {
                Ok(()) => heads.push(head),
                Err(refusal) if frame.chain >= leftover.judged => {
                    shared.counters.of_refusal(refusal).add(1);
                    refused = Some(refusal);
                }
                Err(_) => {}
            }
            judged.is_ok()
        });
        if let Some(refusal) = refused.filter(|_| !std::mem::replace(&mut self.has_told, true)) {
            tracing::warn!(queue = %self.id, "a frame of the guest is dropped, and others may be: {refusal}");
        }
    }

    /// Keeps a frame whose header asks for work, if the guest may ask for it.
    #[inline(never)]
    fn judge_work(&mut self, header: NetHeader, at: u16, chain: &Chain, shared: &Shared) {
        let len = (chain.len as usize).saturating_sub(shared.features.header_len);
        match header.judge_from_guest(len, shared.features.host) {
            Ok(()) => self.frames.push(Judged { header, chain: at }),
            Err(_) if at < self.leftover.judged => {}
            Err(e) => {
                shared.counters.tx_dropped_header.add(1);
                tracing::debug!(queue = %self.id, "frame dropped: {e}");
            }
        }
    }
}

/// Copies the frames of a burst that were sent, each of which has its bit. What was judged of a frame, and is sent as it
/// was then, is what is copied.
#[cold]
fn record(recorder: &mut Recorder, burst: &TxBurst<'_>, mut sent: u64) {
    while sent != 0 {
        let frame = burst.frame(sent.trailing_zeros() as usize);
        recorder.record(false, frame.len, |to| frame.copy(0, to));
        sent &= sent - 1;
    }
}

/// A header that is short or lies in several buffers.
#[cold]
fn header_in_pieces(slices: &[GuestSlice<'_>], header_len: usize) -> NetHeader {
    let mut bytes = [0; HEADER_LEN];
    copy_from_guest(slices, 0, &mut bytes[..header_len]);
    let [low @ .., a, b, c, d] = bytes;
    NetHeader::from_driver(u64::from_le_bytes(low), u32::from_le_bytes([a, b, c, d]))
}

/// Takes a burst of packets from the ring in one step: how many there are now, and what ended it too early.
#[inline]
fn get_packets<R: Virtqueue>(ring: &mut R, most: Allowance) -> (usize, Option<RingError>) {
    match ring.take_burst(most.packets, most.bytes) {
        Ok(n) => (n, None),
        // What was taken before the broken chain is still good.
        Err(e) => (ring.taken().len(), Some(e)),
    }
}

/// What is left after a burst: work if the burst's budget ended it, nothing if the ring did.
fn left_after(burst: &Taken, most: Allowance) -> Direction {
    let is_whole = burst.len() >= most.packets || burst.bytes() >= most.bytes;
    if is_whole { Direction::Ready } else { Direction::Empty }
}

/// Says once when the guest has another address than the uplink delivers to.
fn check_mac(expected: &mut Option<[u8; 6]>, id: QueueId, slices: &[GuestSlice<'_>], skip: usize) {
    let Some(mac) = *expected else { return };
    let mut addresses = [0; 12];
    if copy_from_guest(slices, skip, &mut addresses) == addresses.len() && addresses[6..] != mac {
        let [theirs, ours] = [&addresses[6..], &mac].map(|mac| mac.iter().map(|b| format!("{b:02x}")).collect());
        let (theirs, ours): (Vec<_>, Vec<_>) = (theirs, ours);
        tracing::warn!(
            queue = %id,
            "the guest sends from {}, but the uplink delivers only to {}: give it that address (mac= of its NIC)",
            theirs.join(":"),
            ours.join(":")
        );
        *expected = None;
    }
}
