//! Frames on their way from the guest, a burst at a time.

use std::ops::Range;

use super::MAX_FRAME;
use crate::memory::{Buffers, GuestSlice};
use crate::offload::NetHeader;

/// A frame whose header was judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The judged copy of the guest's header.
    pub header: NetHeader,
    /// Number of its chain among those taken.
    pub chain: u16,
    /// Where its slices are.
    pub slices: Range<usize>,
    /// Bytes of the frame, without any header.
    pub len: usize,
}

/// Judged frames in their order.
#[derive(Clone, Copy, Debug)]
pub struct TxBurst<'a> {
    /// The frames.
    pub frames: &'a [Judged],
    /// What their slices are in.
    pub buffers: &'a Buffers,
    /// Bytes at the start of each that hold the guest's own header and are not sent.
    pub skip: usize,
}

/// One frame of a burst.
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    /// The judged copy of the guest's header.
    pub header: &'a NetHeader,
    /// The guest's buffers.
    pub slices: &'a [GuestSlice<'a>],
    /// Bytes at their start that hold the guest's own header and are not sent.
    pub skip: usize,
    /// Bytes of the frame, without any header.
    pub len: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The uplink has it.
    Done,
    /// The uplink takes no more now; try again when it is writable.
    Full,
    /// The uplink is down: the frame is lost.
    Down,
    /// The uplink has gone for good: the frame is lost.
    Gone,
    /// The uplink refused the frame: it is lost.
    Refused,
    /// The guest's buffers vanished from under the frame.
    Fault,
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames that are dealt with: sent or lost. The rest was not touched.
    pub done: usize,
    /// Frames that the uplink has.
    pub packets: u64,
    /// Packets that these stand for, once they are segmented.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames lost because the uplink is down or gone.
    pub down: u64,
    /// Frames that the uplink refused.
    pub refused: u64,
    /// What ended the burst too early, or the state of an uplink that is down.
    pub end: Option<Sent>,
}

impl<'a> TxBurst<'a> {
    /// Frame number `at`.
    #[inline]
    fn frame(&self, at: &'a Judged) -> TxFrame<'a> {
        let slices = self.buffers.get(at.slices.clone());
        TxFrame { header: &at.header, slices, skip: self.skip, len: at.len }
    }

    /// Sends frame after frame by `send`.
    #[inline]
    pub(super) fn each(&self, mut send: impl FnMut(TxFrame<'a>) -> Sent) -> Progress {
        let mut progress = Progress::default();
        for frame in self.frames {
            // A chain may name gigabytes, the same ones again and again; no uplink copies that.
            let sent = if frame.len > MAX_FRAME { Sent::Refused } else { send(self.frame(frame)) };
            match sent {
                Sent::Done => {
                    progress.packets += 1;
                    progress.segments += frame.header.segments(frame.len) as u64;
                    progress.bytes += frame.len as u64;
                    progress.end = None;
                }
                Sent::Refused => progress.refused += 1,
                Sent::Down => {
                    progress.down += 1;
                    progress.end = Some(sent);
                }
                Sent::Gone => {
                    progress.down += 1;
                    progress.done += 1;
                    progress.end = Some(sent);
                    break;
                }
                Sent::Full | Sent::Fault => {
                    progress.end = Some(sent);
                    break;
                }
            }
            progress.done += 1;
        }
        progress
    }
}
