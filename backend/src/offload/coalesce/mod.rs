//! Joins packets of one flow into a frame that the receiver cuts up again (virtio 1.3, 5.1.6.2; the kernel's generic
//! receive offload for the rules): what a frame costs the kernel, such a frame costs once.
//!
//! Only packets of one burst are joined, and no packet ever waits. The packets of a flow keep their order: what cannot
//! be joined goes alone and nothing behind it is joined to what stood before it. A frame whose flow is unknown (a
//! fragment, ICMP, ARP) is passed by nothing. A frame that asks for segmentation itself goes alone. VLAN tags do not
//! matter: a TAP takes frames to be cut with one or two of them (seen on Linux 6.18), as it gets them from guests with
//! VLANs.
//!
//! The result is a plan: the bytes of a payload are sent from where they lie. They may change at any time, for they
//! are the guest's. Headers therefore go out from a private copy, the one that was judged. A checksum that the guest
//! finished is compared with the payload before the packet is joined, lest a packet that was spoilt inside the guest
//! get a checksum that fits. When the guest changes the payload after that, the packet gets a fitting checksum too,
//! since the receiver finishes it over the bytes that it finds. So a guest can have sent what it could have sent
//! anyway, and nothing outside its own payload depends on what was compared.

#![forbid(unsafe_code)]

mod flow;
mod group;
mod plan;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::{NetHeader, Offloads};
use flow::Look;
use group::Group;

pub use flow::{PEEK, PEEK_AT};
pub use plan::{Joined, Out, Part, Plan, Settled};

/// Most frames that a plan is made for. Those behind them are no part of it.
pub const MAX_FRAMES: usize = 64;

/// Judged frames of a burst, which lie elsewhere.
pub trait Frames {
    /// Number of frames.
    fn count(&self) -> usize;

    /// The judged header of frame `at`.
    fn header(&self, at: usize) -> &NetHeader;

    /// Bytes of frame `at`, without any header.
    fn frame_len(&self, at: usize) -> usize;

    /// Copies bytes of frame `at`, from byte `from` on, until `to` is full or the frame ends; says how many.
    fn copy(&self, at: usize, from: usize, to: &mut [u8]) -> usize;

    /// Appends `bytes` of frame `at` to `to`; all of them, zero where the frame has none.
    fn append(&self, at: usize, bytes: Range<usize>, to: &mut Vec<u8>) {
        let start = to.len();
        to.resize(start + bytes.len(), 0);
        self.copy(at, bytes.start, &mut to[start..]);
    }

    /// The bytes of frame `at` from [`PEEK_AT`] on, zero behind its end.
    fn peek(&self, at: usize) -> [u8; PEEK] {
        let mut peek = [0; PEEK];
        self.copy(at, PEEK_AT, &mut peek);
        peek
    }
}

/// Makes plans. Its memory is used again for every burst.
#[derive(Debug)]
pub struct Coalescer {
    /// By the place of a look: the last frame that had one of that place. What is left of another burst does no harm,
    /// for the frame that it names is asked for its look. A flow that meets another at its place is forgotten.
    latest: [u8; 256],
    looks: [Look; MAX_FRAMES],
    /// The first frame of the group that a frame belongs to.
    leaders: [u8; MAX_FRAMES],
    /// The frame behind a frame in its group; `END` for the last. Valid in groups of more than one.
    next: [u8; MAX_FRAMES],
    /// By its first frame. Valid if the frame is in `begun`.
    groups: Box<[Group; MAX_FRAMES]>,
    begun: u64,
    /// Frames that begin a group of more than one.
    joined: u64,
    /// Frames that belong to a group that another begins.
    followers: u64,
}

const END: u8 = u8::MAX;

impl Default for Coalescer {
    fn default() -> Self {
        Self {
            latest: [0; 256],
            looks: [Look::default(); MAX_FRAMES],
            leaders: [0; MAX_FRAMES],
            next: [END; MAX_FRAMES],
            groups: Box::new([Group::EMPTY; MAX_FRAMES]),
            begun: 0,
            joined: 0,
            followers: 0,
        }
    }
}

impl Coalescer {
    /// Plans how to send `frames` to a receiver that takes `takes`; none if they are to be sent as they are.
    ///
    /// `ahead` has a bit for each frame that was sent already, as a former plan said (see [`Plan::settled`]).
    #[inline]
    pub fn plan(&mut self, frames: &impl Frames, takes: Offloads, ahead: u64) -> Option<Plan<'_>> {
        let count = frames.count().min(MAX_FRAMES);
        (self.begun, self.joined, self.followers) = (0, 0, 0);
        if count > 1 && takes.csum && takes.segments() {
            self.look_at(frames, count, takes, ahead);
        }
        if self.joined | ahead == 0 {
            return None;
        }
        self.finish();
        Some(Plan { coalescer: self, count, ahead })
    }

    #[inline]
    fn look_at(&mut self, frames: &impl Frames, count: usize, takes: Offloads, ahead: u64) {
        // Nothing before this frame is joined to anything behind.
        let mut barrier = 0;
        for at in 0..count {
            let look = if ahead >> at & 1 == 0 { Look::of(&frames.peek(at)) } else { None };
            let Some(look) = look else {
                barrier = at + 1;
                continue;
            };
            let before = usize::from(std::mem::replace(&mut self.latest[look.place()], at as u8));
            self.looks[at] = look;
            self.leaders[at] = at as u8;
            if (barrier..at).contains(&before) && self.looks[before] == look {
                self.meet(frames, before, at, takes);
            }
        }
    }

    /// Joins frame `at` to the group that the last frame of its flow belongs to, if the rules let it.
    #[inline(never)]
    fn meet(&mut self, frames: &impl Frames, before: usize, at: usize, takes: Offloads) {
        if frames.header(at).is_segmented() {
            return;
        }
        let first = usize::from(self.leaders[before]);
        let (former, next) = self.groups.split_at_mut(at);
        let (Some(group), Some(next)) = (former.get_mut(first), next.first_mut()) else { return };
        if self.begun >> first & 1 == 0 {
            self.begun |= 1 << first;
            group.begin(frames, first, takes);
        }
        if !group.is_open() {
            return;
        }
        self.begun |= 1 << at;
        next.begin(frames, at, takes);
        if group.join(next, frames, first, at) {
            self.joined |= 1 << first;
            self.followers |= 1 << at;
            self.leaders[at] = first as u8;
            self.next[before] = at as u8;
            self.next[at] = END;
        }
    }

    fn finish(&mut self) {
        let mut left = self.joined;
        while left != 0 {
            self.groups[left.trailing_zeros() as usize].finish();
            left &= left - 1;
        }
    }
}
