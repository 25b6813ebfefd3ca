//! Frames on their way from the guest, a burst at a time.

use super::MAX_FRAME;
use crate::memory::{GuestSlice, copy_from_guest};
use crate::offload::NetHeader;
use crate::ring::Taken;

/// A frame whose header was judged.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// The judged copy of the guest's header.
    pub header: NetHeader,
    /// Number of its chain among those taken.
    pub chain: u16,
}

/// Judged frames in their order.
#[derive(Clone, Copy, Debug)]
pub struct TxBurst<'a> {
    /// The frames.
    pub frames: &'a [Judged],
    /// The chains that they lie in.
    pub taken: &'a Taken,
    /// Bytes at the start of each that hold the guest's own header and are not sent.
    pub skip: usize,
    /// A bit for each frame, the first one the lowest: it was sent already, with one that stood before it.
    pub ahead: u64,
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
    /// Frames at the start that are dealt with: sent or lost.
    pub done: usize,
    /// A bit for each frame behind these, the first one the lowest: sent as well, with one that stood before it. The rest was
    /// not touched.
    pub ahead: u64,
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
    pub(super) fn frame(&self, at: usize) -> TxFrame<'a> {
        let judged = &self.frames[at];
        let chain = &self.taken.chains()[usize::from(judged.chain)];
        let len = (chain.len as usize).saturating_sub(self.skip);
        TxFrame { header: &judged.header, slices: self.taken.buffers().get(chain.slices()), skip: self.skip, len }
    }

    /// Sends frame after frame by `send`.
    #[inline]
    pub(super) fn each(&self, mut send: impl FnMut(TxFrame<'a>) -> Sent) -> Progress {
        let mut progress = Progress::default();
        let (mut bytes, mut more_segments) = (0, 0);
        for at in 0..self.frames.len() {
            let frame = self.frame(at);
            let sent = frame.send_by(&mut send);
            if sent == Sent::Done {
                bytes += frame.len;
                if frame.header.is_segmented() {
                    more_segments += frame.segments() - 1;
                }
            } else {
                progress.note(sent);
                if progress.ends_with(sent) {
                    break;
                }
            }
            progress.done += 1;
        }
        progress.packets = progress.done as u64 - progress.refused - progress.down;
        progress.segments = progress.packets + more_segments as u64;
        progress.bytes = bytes as u64;
        progress
    }
}

impl TxFrame<'_> {
    /// Sends it by `send`. A chain may name gigabytes, the same ones again and again; no uplink copies that.
    #[inline]
    pub(super) fn send_by(self, send: impl FnOnce(Self) -> Sent) -> Sent {
        if self.len > MAX_FRAME { Sent::Refused } else { send(self) }
    }

    /// Packets that it stands for.
    pub(super) fn segments(&self) -> usize {
        self.header.segments(self.len, |at| {
            let mut byte = [0];
            copy_from_guest(self.slices, self.skip + at, &mut byte);
            byte[0]
        })
    }
}

impl Progress {
    #[cold]
    pub(super) fn note(&mut self, sent: Sent) {
        match sent {
            Sent::Done => {}
            Sent::Refused => self.refused += 1,
            Sent::Down | Sent::Gone => {
                self.down += 1;
                self.end = Some(sent);
            }
            Sent::Full | Sent::Fault => self.end = Some(sent),
        }
        if sent == Sent::Gone {
            self.done += 1;
        }
    }

    fn ends_with(&self, sent: Sent) -> bool {
        matches!(sent, Sent::Full | Sent::Fault | Sent::Gone)
    }
}
