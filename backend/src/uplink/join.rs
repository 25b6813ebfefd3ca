//! Joins the packets of a burst that an uplink can cut up again, and sends everything in order.
//!
//! What the uplink is handed costs it the same whatever it holds, so joined packets cost once. See
//! [`Coalescer`](crate::offload::Coalescer) for which are joined.

use std::ops::Range;

use super::tx_burst::bit;
use super::{Progress, Sent, TxBurst, TxFrame};
use crate::offload::{Coalescer, Frames, Joined, NetHeader, Offloads, Out, PEEK, PEEK_AT, Plan};

/// What takes frames one by one.
pub(super) trait Sink {
    /// Sends a frame.
    fn send(&mut self, frame: &TxFrame<'_>) -> Sent;

    /// Sends several frames of a burst as one.
    fn send_joined(&mut self, joined: &Joined<'_>, burst: &TxBurst<'_>) -> Sent;
}

/// Joins packets for an uplink.
#[derive(Debug)]
pub struct Joiner {
    coalescer: Coalescer,
    /// What the uplink cuts up.
    takes: Offloads,
    /// Bursts in a row that had nothing to join, as far as they count.
    fruitless: u8,
    /// Bursts that are not looked at before the next one is.
    to_skip: u8,
}

/// Where nothing is joined, one burst in so many is looked at all the same, and one more.
const MAX_SKIPPED: u8 = 7;

impl Joiner {
    /// For an uplink that takes `takes`.
    #[must_use]
    pub fn new(takes: Offloads) -> Self {
        Self { coalescer: Coalescer::default(), takes, fruitless: 0, to_skip: 0 }
    }

    /// Sends a burst, in order, until something of it cannot be sent now.
    #[inline]
    pub(super) fn send(&mut self, burst: &TxBurst<'_>, sink: &mut impl Sink) -> Progress {
        if self.to_skip > 0 && burst.ahead == 0 {
            self.to_skip -= 1;
            return burst.each(|frame| sink.send(frame));
        }
        if let Some(plan) = self.coalescer.plan(burst, self.takes, burst.ahead) {
            self.fruitless = 0;
            return send_plan(burst, plan, sink);
        }
        if burst.frames.len() > 1 {
            self.fruitless = MAX_SKIPPED.min(self.fruitless + 1);
            self.to_skip = self.fruitless;
        }
        burst.each(|frame| sink.send(frame))
    }
}

fn send_plan(burst: &TxBurst<'_>, plan: Plan<'_>, sink: &mut impl Sink) -> Progress {
    let mut progress = Progress::default();
    let mut settled_outs = 0;
    for out in plan.outs() {
        let sent = match out {
            Out::Alone(at) => send_alone(burst, at, sink, &mut progress),
            Out::Joined(joined) => send_joined(burst, &joined, sink, &mut progress),
        };
        if matches!(sent, Sent::Full | Sent::Fault) {
            break;
        }
        settled_outs += 1;
        if sent == Sent::Gone {
            break;
        }
    }
    let settled = plan.settled(settled_outs);
    // Frames behind those that a plan is made for wait for the next.
    (progress.done, progress.ahead) = (settled.done, settled.ahead);
    progress
}

fn send_alone(burst: &TxBurst<'_>, at: usize, sink: &mut impl Sink, progress: &mut Progress) -> Sent {
    let frame = burst.frame(at);
    let sent = frame.send_by(|frame| sink.send(frame));
    if sent == Sent::Done {
        progress.packets += 1;
        progress.segments += frame.segments() as u64;
        progress.bytes += frame.len as u64;
    } else {
        progress.note(sent, bit(at));
    }
    sent
}

fn send_joined(burst: &TxBurst<'_>, joined: &Joined<'_>, sink: &mut impl Sink, progress: &mut Progress) -> Sent {
    let sent = sink.send_joined(joined, burst);
    match sent {
        Sent::Done => {
            progress.packets += joined.segments() as u64;
            progress.segments += joined.segments() as u64;
            progress.bytes += joined.parts().map(|part| part.bytes.end as u64).sum::<u64>();
        }
        // What cannot be had together may be had piece by piece: to join is never to lose.
        Sent::Refused => {
            for part in joined.parts() {
                if send_alone(burst, part.frame, sink, progress) == Sent::Full {
                    progress.end = None;
                    progress.note(Sent::Refused, bit(part.frame));
                }
            }
            return Sent::Done;
        }
        Sent::Down | Sent::Gone => {
            progress.down += joined.segments() as u64 - 1;
            progress.note(sent, joined.parts().fold(0, |frames, part| frames | bit(part.frame)));
        }
        Sent::Full | Sent::Fault => progress.note(sent, 0),
    }
    sent
}

impl Frames for TxBurst<'_> {
    #[inline]
    fn count(&self) -> usize {
        self.frames.len()
    }

    #[inline]
    fn header(&self, at: usize) -> &NetHeader {
        &self.frames[at].header
    }

    #[inline]
    fn frame_len(&self, at: usize) -> usize {
        self.frame(at).len
    }

    #[inline]
    fn copy(&self, at: usize, from: usize, to: &mut [u8]) -> usize {
        self.frame(at).copy(from, to)
    }

    #[inline]
    fn append(&self, at: usize, bytes: Range<usize>, to: &mut Vec<u8>) {
        self.frame(at).append(bytes, to);
    }

    #[inline]
    fn peek(&self, at: usize) -> [u8; PEEK] {
        let frame = self.frame(at);
        let mut peek = [0; PEEK];
        let len = frame.len.saturating_sub(PEEK_AT).min(PEEK);
        frame.copy(PEEK_AT, &mut peek[..len]);
        peek
    }
}

#[cfg(test)]
mod tests;
