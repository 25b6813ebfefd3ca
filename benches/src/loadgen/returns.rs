//! Frames that come back: put together from their buffers (virtio 1.3, 5.1.6.4) and judged.

#![forbid(unsafe_code)]

use super::frame::{Frames, NET_HEADER};
use super::outcome::Found;
use super::ring::{Ring, Used};

/// Longest frame with its header; what comes beyond is not kept, and its frame corrupt.
const LONGEST: usize = 65_550;

/// What a frame is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// It was changed, or is not ours.
    Corrupt,
    /// It is as it was sent.
    Good {
        /// When it was due.
        due: u64,
        /// Bytes of the frame.
        len: usize,
        /// It came after a later one, or twice.
        late: bool,
    },
}

impl Judged {
    /// Counts a frame that came `now`, and clocks it if it was due at `clocked_from` or later.
    #[inline]
    pub(super) fn note(self, found: &mut Found, now: u64, clocked_from: u64) {
        match self {
            Self::Corrupt => found.counts.corrupt += 1,
            Self::Good { due, len, late } => {
                found.counts.received += 1;
                found.counts.received_bytes += len as u64;
                found.counts.out_of_order += u64::from(late);
                if due >= clocked_from {
                    found.slice.record(now.saturating_sub(due));
                }
            }
        }
    }
}

/// What came back so far.
#[derive(Debug)]
pub(super) struct Returns {
    frames: Frames,
    /// Number after that of the last packet.
    expected: u64,
    packet: Box<[u8]>,
    /// Bytes of the frame that are here.
    len: usize,
    /// Buffers of it that are still to come.
    left: u16,
}

impl Default for Returns {
    fn default() -> Self {
        Self { frames: Frames::default(), expected: 0, packet: vec![0; LONGEST].into(), len: 0, left: 0 }
    }
}

impl Returns {
    /// Takes what a receive buffer holds.
    #[inline]
    pub(super) fn add(&mut self, ring: &Ring, used: Used) {
        let (at, len) = (ring.at(used.slot), used.len.min(ring.config().buffer_len) as usize);
        if self.left == 0 {
            self.len = 0;
            self.left = u16::from_le_bytes(ring.buffers().read(at + NET_HEADER - 2)).max(1);
        }
        if let Some(to) = self.packet.get_mut(self.len..self.len + len) {
            ring.buffers().read_into(at, to);
            self.len += len;
        }
        self.left -= 1;
    }

    /// Judges the frame if all of it is here.
    #[inline]
    pub(super) fn judge_whole(&mut self) -> Option<Judged> {
        if self.left > 0 {
            return None;
        }
        let Some(stamp) = self.frames.judge(&self.packet[..self.len]) else { return Some(Judged::Corrupt) };
        let late = stamp.number < self.expected;
        self.expected = self.expected.max(stamp.number + 1);
        Some(Judged::Good { due: stamp.due, len: self.len - NET_HEADER, late })
    }
}
