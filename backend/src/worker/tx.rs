//! Guest to uplink: a burst of chains, each sent straight from the guest's buffers behind a judged copy of its header.

use std::io;

use super::queue::Queue;
use super::shared::{Link, Shared};
use super::{BURST_BYTES, BURST_PACKETS, QueueId};
use crate::memory::{GuestSlice, copy_from_guest, read_array};
use crate::mode::Direction;
use crate::offload::{HEADER_LEN, NetHeader};
use crate::ring::RingError;
use crate::uplink::{Sent, Tx, TxFrame};

/// The transmit half of a pair.
#[derive(Debug)]
pub(super) struct TxHalf {
    pub(super) queue: Queue,
    pub(super) uplink: Tx,
    /// The address that the guest must send from; none, or no longer looked at.
    pub(super) expected_mac: Option<[u8; 6]>,
}

/// What became of the oldest packet taken.
enum Step {
    /// Sent or dropped, and given back to the driver.
    Done,
    /// The uplink takes no more now.
    Full,
}

impl TxHalf {
    /// Takes a burst of packets from the ring in one step: how many there are now, and what ended it too early.
    fn get_packets(&mut self) -> (usize, Option<RingError>) {
        let Some(ring) = &mut self.queue.ring else { return (0, None) };
        match ring.take_burst(BURST_PACKETS, BURST_BYTES) {
            Ok(n) => (n, None),
            // What was taken before the broken chain is still good.
            Err(e) => (ring.taken().len(), Some(e)),
        }
    }

    /// Moves at most a burst.
    pub(super) fn round(&mut self, shared: &mut Shared) -> Direction {
        if !self.queue.is_running() && !self.queue.discards() {
            return Direction::Blocked;
        }
        let (packets, mut error) = self.get_packets();
        let mut full = false;
        for _ in 0..packets {
            match self.send_one(shared) {
                Ok(Step::Done) => {}
                Ok(Step::Full) => {
                    full = true;
                    break;
                }
                Err(fault) => {
                    error = Some(fault);
                    break;
                }
            }
        }
        self.queue.publish();
        if let Some(error) = error {
            self.queue.break_ring(&error);
        }
        if full || self.queue.ring.is_none() {
            Direction::Blocked
        } else if packets == 0 {
            Direction::Empty
        } else {
            Direction::Ready
        }
    }

    /// Says once when the guest has another address than the uplink delivers to.
    fn check_mac(expected: &mut Option<[u8; 6]>, id: QueueId, slices: &[GuestSlice<'_>], skip: usize) {
        let Some(mac) = *expected else { return };
        let mut start = [0; HEADER_LEN + 12];
        let start = &mut start[..skip + 12];
        if copy_from_guest(slices, start) == start.len() && start[skip + 6..] != mac {
            let [theirs, ours] = [&start[skip + 6..], &mac].map(|mac| mac.iter().map(|b| format!("{b:02x}")).collect());
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

    /// Sends or drops the oldest packet taken.
    fn send_one(&mut self, shared: &mut Shared) -> Result<Step, RingError> {
        let discards = self.queue.discards();
        let Some(ring) = &mut self.queue.ring else { return Ok(Step::Full) };
        let slices = ring.slices(0, 1);
        let skip = shared.features.header_len;
        let len = ring.taken().front().map_or(0, |chain| chain.len.saturating_sub(skip));

        let mut header = NetHeader::default();
        match read_array(slices) {
            Some(bytes) if skip == HEADER_LEN => header = NetHeader(bytes),
            _ => _ = copy_from_guest(slices, &mut header.0[..skip]),
        }
        Self::check_mac(&mut self.expected_mac, self.queue.id, slices, skip);
        let counters = &shared.counters;
        if discards {
            counters.tx_dropped_disabled.add(1);
        } else if let Err(e) = header.judge_from_guest(len, shared.features.host) {
            counters.tx_dropped_header.add(1);
            tracing::debug!(queue = %self.queue.id, "frame dropped: {e}");
        } else if shared.link == Link::Gone {
            counters.tx_dropped_down.add(1);
        } else {
            match self.uplink.send(TxFrame { header, slices, skip, len }) {
                Sent::Done => {
                    counters.tx_packets.add(1);
                    counters.tx_bytes.add(len as u64);
                    shared.link_is(Link::Up);
                }
                Sent::Full => return Ok(Step::Full),
                Sent::Down => {
                    counters.tx_dropped_down.add(1);
                    shared.link_is(Link::Down);
                }
                Sent::Gone => {
                    counters.tx_dropped_down.add(1);
                    shared.lose_link(&io::Error::from_raw_os_error(libc::EBADFD));
                }
                Sent::Refused => counters.tx_dropped_refused.add(1),
                Sent::Fault => return Err(RingError::Vanished),
            }
        }
        ring.complete(0);
        Ok(Step::Done)
    }
}
