//! Frames on their way from the guest, a burst at a time.

use super::MAX_FRAME;
use crate::memory::GuestSlice;
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
    /// Sends frame after frame by `send`.
    #[inline]
    pub(super) fn each(&self, mut send: impl FnMut(TxFrame<'a>) -> Sent) -> Progress {
        let mut progress = Progress::default();
        let (mut bytes, mut more_segments) = (0, 0);
        let (chains, buffers) = (self.taken.chains(), self.taken.buffers());
        for judged in self.frames {
            let chain = &chains[usize::from(judged.chain)];
            let len = (chain.len as usize).saturating_sub(self.skip);
            let frame = TxFrame { header: &judged.header, slices: buffers.get(chain.slices()), skip: self.skip, len };
            // A chain may name gigabytes, the same ones again and again; no uplink copies that.
            let sent = if frame.len > MAX_FRAME { Sent::Refused } else { send(frame) };
            if sent == Sent::Done {
                bytes += frame.len;
                if frame.header.is_segmented() {
                    more_segments += frame.header.segments(frame.len) - 1;
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

impl Progress {
    #[cold]
    fn note(&mut self, sent: Sent) {
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
