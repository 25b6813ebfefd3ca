//! Frames on their way from the guest, a burst at a time.

use std::ops::Range;

use super::MAX_FRAME;
use crate::guard::HEAD_LEN;
use crate::memory::{Buffers, GuestSlice, append_from_guest, copy_from_guest};
use crate::offload::NetHeader;
use crate::ring::Chain;

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
    /// The chains that were taken, in which they lie.
    pub chains: &'a [Chain],
    /// The slices of these chains.
    pub buffers: &'a Buffers,
    /// Bytes at the start of each that hold the guest's own header and are not sent.
    pub skip: usize,
    /// A bit for each frame, the first one the lowest: it was sent already, with one that stood before it.
    pub ahead: u64,
    /// The first bytes of each frame that were judged, if any were: they are sent in the place of the guest's.
    pub heads: &'a [Head],
}

/// First bytes of a frame, in private memory.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEAD_LEN],
    len: usize,
}

impl Head {
    /// Of a frame of `len` bytes in `slices`, behind the guest's own header of `skip` bytes.
    #[inline]
    #[must_use]
    pub fn of(slices: &[GuestSlice<'_>], skip: usize, len: usize) -> Self {
        let mut bytes = [0; HEAD_LEN];
        let len = copy_from_guest(slices, skip, &mut bytes[..len.min(HEAD_LEN)]);
        Self { bytes, len }
    }

    /// The bytes: as many as there are, [`HEAD_LEN`] at most.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
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
    /// What is sent in the place of the first of these.
    pub head: &'a [u8],
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
    /// A bit for each frame of the burst, the first one the lowest: it is among those that were lost or refused.
    pub lost: u64,
    /// What ended the burst too early, or the state of an uplink that is down.
    pub end: Option<Sent>,
}

impl<'a> TxBurst<'a> {
    /// Frame number `at`.
    #[inline]
    #[must_use]
    pub fn frame(&self, at: usize) -> TxFrame<'a> {
        let judged = &self.frames[at];
        let chain = &self.chains[usize::from(judged.chain)];
        let len = (chain.len as usize).saturating_sub(self.skip);
        let head = self.heads.get(at).map_or(&[][..], Head::bytes);
        TxFrame { header: &judged.header, slices: self.buffers.get(chain.slices()), skip: self.skip, len, head }
    }

    /// Sends frame after frame by `send`.
    #[inline]
    pub(super) fn each(&self, mut send: impl FnMut(&TxFrame<'a>) -> Sent) -> Progress {
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
                progress.note(sent, bit(at));
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
    pub(super) fn send_by(&self, send: impl FnOnce(&Self) -> Sent) -> Sent {
        if self.len > MAX_FRAME { Sent::Refused } else { send(self) }
    }

    /// Packets that it stands for.
    pub(super) fn segments(&self) -> usize {
        self.header.segments(self.len, |at| {
            let mut byte = [0];
            self.copy(at, &mut byte);
            byte[0]
        })
    }

    /// Copies bytes of the frame, from byte `from` on, until `to` is full or it ends; says how many.
    #[inline]
    pub fn copy(&self, from: usize, to: &mut [u8]) -> usize {
        let head = self.head.get(from..).unwrap_or_default();
        if head.is_empty() {
            return copy_from_guest(self.slices, self.skip + from, to);
        }
        let len = head.len().min(to.len());
        to[..len].copy_from_slice(&head[..len]);
        len + copy_from_guest(self.slices, self.skip + from + len, &mut to[len..])
    }

    /// Appends `bytes` of the frame to `to`, or as many of them as there are.
    #[inline]
    pub fn append(&self, bytes: Range<usize>, to: &mut Vec<u8>) {
        let head = self.head.get(bytes.start..).unwrap_or_default();
        let head = &head[..head.len().min(bytes.len())];
        to.extend_from_slice(head);
        append_from_guest(self.slices, self.skip + bytes.start + head.len(), bytes.len() - head.len(), to);
    }
}

/// The bit of frame number `at` of a burst.
#[inline]
pub(super) fn bit(at: usize) -> u64 {
    1u64.checked_shl(at as u32).unwrap_or(0)
}

impl Progress {
    /// Which frames of the burst were sent now: a bit for each, the first one the lowest. Those before them, as
    /// [`TxBurst::ahead`] tells, were sent already.
    #[must_use]
    pub fn sent(&self, before: u64) -> u64 {
        let done = bit(self.done).wrapping_sub(1);
        let ahead = self.ahead.checked_shl(self.done as u32).unwrap_or(0);
        (done | ahead) & !before & !self.lost
    }

    /// Notes what became of frames that were not sent; these are their bits.
    #[cold]
    pub(super) fn note(&mut self, sent: Sent, frames: u64) {
        match sent {
            Sent::Done => {}
            Sent::Refused => {
                self.refused += 1;
                self.lost |= frames;
            }
            Sent::Down | Sent::Gone => {
                self.down += 1;
                self.lost |= frames;
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
