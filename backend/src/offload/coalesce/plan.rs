//! A plan: which frames are sent as they are, and which together.

use std::ops::Range;

use super::group::Group;
use super::{Coalescer, END, Frames, NetHeader};

/// How to send a burst, in the order of sending.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub(super) coalescer: &'a Coalescer,
    pub(super) count: usize,
    /// Frames that were sent before the plan was made.
    pub(super) ahead: u64,
}

/// What is sent in one piece.
#[derive(Clone, Copy, Debug)]
pub enum Out<'a> {
    /// The frame of this number, as it is.
    Alone(usize),
    /// Several frames as one.
    Joined(Joined<'a>),
}

/// Several frames that are sent as one.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    coalescer: &'a Coalescer,
    first: usize,
}

/// A piece of the payload of a joined frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The frame that it lies in.
    pub frame: usize,
    /// Where in that frame.
    pub bytes: Range<usize>,
}

/// How far a burst has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Frames at its start that were all sent.
    pub done: usize,
    /// A bit for each frame behind these, the first one the lowest: sent as well, with one that stood before it. To be
    /// said when the next plan is made for what is left.
    pub ahead: u64,
}

impl<'a> Plan<'a> {
    /// What is to be sent.
    pub fn outs(&self) -> impl Iterator<Item = Out<'a>> + use<'a> {
        let Self { coalescer, count, ahead } = *self;
        (0..count).filter_map(move |at| match at {
            _ if (coalescer.followers | ahead) >> at & 1 != 0 => None,
            _ if coalescer.joined >> at & 1 != 0 => Some(Out::Joined(Joined { coalescer, first: at })),
            _ => Some(Out::Alone(at)),
        })
    }

    /// Where the burst stands when the first `outs` pieces are sent and no other.
    #[must_use]
    pub fn settled(&self, outs: usize) -> Settled {
        let sent = self.outs().take(outs).fold(self.ahead, |sent, out| match out {
            Out::Alone(frame) => sent | 1 << frame,
            Out::Joined(joined) => joined.parts().fold(sent, |sent, part| sent | 1 << part.frame),
        });
        // No more than there are: what is sent ahead may stand behind them, if the ring was begun again and gave fewer.
        let done = sent.trailing_ones().min(self.count as u32);
        Settled { done: done as usize, ahead: sent.checked_shr(done).unwrap_or(0) }
    }
}

impl Coalescer {
    /// The frame that begins with frame number `first` in the plan that was made last, which says that it is joined.
    #[must_use]
    pub fn joined(&self, first: usize) -> Joined<'_> {
        Joined { coalescer: self, first }
    }
}

impl<'a> Joined<'a> {
    /// Number of the frame that it begins with.
    #[must_use]
    pub fn first(&self) -> usize {
        self.first
    }

    fn group(&self) -> &'a Group {
        &self.coalescer.groups[self.first]
    }

    /// The virtio-net header.
    #[must_use]
    pub fn header(&self) -> &'a NetHeader {
        self.group().header()
    }

    /// The headers of the packet, which come before its payload.
    #[must_use]
    pub fn head(&self) -> &'a [u8] {
        self.group().head()
    }

    /// Bytes of the frame, its head among them.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.group().head().len() + self.group().payload_len()
    }

    /// Packets that were joined.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.group().segments()
    }

    /// Bytes of payload of each packet, but for the last, which may have fewer.
    #[must_use]
    pub fn segment_len(&self) -> usize {
        self.group().segment_len()
    }

    /// Appends it whole: for who cannot send it in pieces.
    pub fn gather(&self, frames: &impl Frames, to: &mut Vec<u8>) {
        to.extend_from_slice(self.head());
        for Part { frame, bytes } in self.parts() {
            frames.append(frame, bytes, to);
        }
    }

    /// Its payload, in order: one part of each frame.
    pub fn parts(&self) -> impl Iterator<Item = Part> + use<'a> {
        let coalescer = self.coalescer;
        let follower = move |at: &usize| match coalescer.next[*at] {
            END => None,
            next => Some(usize::from(next)),
        };
        std::iter::successors(Some(self.first), follower).map(move |frame| {
            let group = &coalescer.groups[frame];
            Part { frame, bytes: group.payload()..group.payload() + group.segment_len() }
        })
    }
}
