//! What one direction of a pair did in a round.

use crate::mode::{Direction, Way};

/// What was moved, and what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) state: Direction,
    /// Chains or frames that were dealt with, dropped ones among them.
    pub(super) packets: u64,
    /// Packets that were moved, counted as segmented.
    pub(super) segments: u64,
    /// Bytes that were moved.
    pub(super) bytes: u64,
    /// Chains were published, for which the driver is to be called.
    pub(super) published: bool,
    /// An urgent packet was among those.
    pub(super) urgent: bool,
}

impl Moved {
    /// Nothing, and nothing can be.
    pub(super) const BLOCKED: Self =
        Self { state: Direction::Blocked, packets: 0, segments: 0, bytes: 0, published: false, urgent: false };

    /// The same for the governor.
    pub(super) fn way(&self, no_kick_fd: bool) -> Way {
        Way {
            packets: self.packets as u32,
            segments: self.segments as u32,
            bytes: self.bytes,
            left: self.state,
            no_kick_fd,
        }
    }
}
