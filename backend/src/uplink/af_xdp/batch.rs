//! Received packets of one flow joined into a frame, for a guest that takes such: what it would handle packet by packet
//! it handles once. Nothing waits to be joined; only what is there already is looked at, a batch at a time.

#![forbid(unsafe_code)]

use super::chunks::Chunks;
use super::ring::Descriptor;
use crate::memory::{GuestSlice, copy_to_guest, total_len};
use crate::offload::{Coalescer, Frames, Joined, MAX_FRAMES, NetHeader, Offloads, Out};

/// What a packet that was received says of itself.
static PLAIN: NetHeader = NetHeader([0; 12]);

/// A batch of descriptors, and how the guest gets what lies in them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    coalescer: Coalescer,
    descriptors: Vec<Descriptor>,
    plan: Vec<Step>,
    /// Steps of the plan that were made.
    made: usize,
}

/// What the guest gets next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// The frame of a descriptor.
    Alone(Descriptor),
    /// Several, the first of which has this number.
    Joined(usize),
}

/// The frames of a batch.
struct Received<'a> {
    descriptors: &'a [Descriptor],
    chunks: &'a Chunks,
}

impl Received<'_> {
    fn bytes(&self, at: usize) -> &[u8] {
        let Descriptor { addr, len, .. } = self.descriptors[at];
        self.chunks.read(addr, len as usize).unwrap_or_default()
    }
}

impl Frames for Received<'_> {
    fn count(&self) -> usize {
        self.descriptors.len()
    }

    fn header(&self, _at: usize) -> &NetHeader {
        &PLAIN
    }

    fn frame_len(&self, at: usize) -> usize {
        self.bytes(at).len()
    }

    fn copy(&self, at: usize, from: usize, to: &mut [u8]) -> usize {
        let bytes = self.bytes(at).get(from..).unwrap_or_default();
        let len = bytes.len().min(to.len());
        to[..len].copy_from_slice(&bytes[..len]);
        len
    }
}

impl Batch {
    /// What the guest gets next, if there is a plan that is not done.
    #[inline]
    pub(super) fn step(&self) -> Option<Step> {
        self.plan.get(self.made).copied()
    }

    /// Makes a plan for the descriptors that `next` tells by number. Says how many were looked at; there is no plan if
    /// none of them can be joined.
    pub(super) fn look(
        &mut self,
        chunks: &Chunks,
        takes: Offloads,
        mut next: impl FnMut(u32) -> Option<Descriptor>,
    ) -> usize {
        self.forget();
        self.descriptors.clear();
        while self.descriptors.len() < MAX_FRAMES
            && let Some(descriptor) = next(self.descriptors.len() as u32).filter(|next| !next.goes_on())
        {
            self.descriptors.push(descriptor);
        }
        let frames = Received { descriptors: &self.descriptors, chunks };
        if let Some(plan) = self.coalescer.plan(&frames, takes, 0) {
            self.plan.extend(plan.outs().map(|out| match out {
                Out::Alone(at) => Step::Alone(self.descriptors[at]),
                Out::Joined(joined) => Step::Joined(joined.first()),
            }));
        }
        self.descriptors.len()
    }

    /// Goes on to the next step, and calls `took` with each descriptor that this one had.
    #[inline]
    pub(super) fn made(&mut self, mut took: impl FnMut(Descriptor)) {
        match self.step() {
            Some(Step::Alone(descriptor)) => took(descriptor),
            Some(Step::Joined(first)) => {
                self.coalescer.joined(first).parts().for_each(|part| took(self.descriptors[part.frame]));
            }
            None => {}
        }
        self.made += 1;
    }

    /// Gives up the plan.
    pub(super) fn forget(&mut self) {
        self.plan.clear();
        self.made = 0;
    }

    /// Copies the frame that begins with packet number `first` to the guest, or to `gathered` if it does not fit. Says
    /// its header and its length.
    pub(super) fn write(
        &self,
        first: usize,
        chunks: &Chunks,
        slices: &[GuestSlice<'_>],
        skip: usize,
        gathered: &mut Vec<u8>,
    ) -> (NetHeader, usize) {
        let frames = Received { descriptors: &self.descriptors, chunks };
        let joined: Joined<'_> = self.coalescer.joined(first);
        gathered.clear();
        if total_len(slices) < skip + joined.frame_len() {
            joined.gather(&frames, gathered);
        } else {
            let mut at = skip + copy_to_guest(joined.head(), slices, skip);
            for part in joined.parts() {
                at += copy_to_guest(&frames.bytes(part.frame)[part.bytes], slices, at);
            }
        }
        (*joined.header(), joined.frame_len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::area::Area;
    use super::*;
    use crate::offload::Segments;
    use crate::offload::testing::{Spec, written};

    const CHUNK: usize = 2048;

    /// Descriptors of frames, each in a chunk of its own.
    fn received(frames: &[Vec<u8>]) -> (Chunks, Vec<Descriptor>) {
        let (mut chunks, _) = Chunks::split(Area::of_small_pages(CHUNK * 64).unwrap(), CHUNK, 64);
        let addresses: Vec<_> = chunks.addresses().collect();
        let put = |(addr, frame): (u64, &Vec<u8>)| {
            chunks.bytes(addr + 256, frame.len()).unwrap().copy_from_slice(frame);
            Descriptor { addr: addr + 256, len: frame.len() as u32, options: 0 }
        };
        let descriptors = addresses.into_iter().zip(frames).map(put).collect();
        (chunks, descriptors)
    }

    #[test]
    fn packets_of_a_flow_are_given_as_one_and_all_descriptors_come_back() {
        let first = Spec { payload: (0..200).collect(), ..Spec::default() };
        let flow: Vec<Spec> = std::iter::successors(Some(first), |spec| Some(spec.next())).take(20).collect();
        let other = Spec { port: 4000, payload: vec![1; 100], ..Spec::default() };
        let mut frames: Vec<_> = flow.iter().map(Spec::frame).collect();
        frames.insert(7, other.frame());
        let (chunks, descriptors) = received(&frames);
        let mut batch = Batch::default();
        assert_eq!(batch.look(&chunks, Offloads::ALL, |at| descriptors.get(at as usize).copied()), 21);
        let Some(Step::Joined(0)) = batch.step() else { panic!("{:?}", batch.plan) };
        let mut gathered = Vec::new();
        let (header, len) = batch.write(0, &chunks, &[], 0, &mut gathered);
        assert_eq!(len, gathered.len());
        let segments: Vec<_> = Segments::new(&header, &gathered, Offloads::default()).unwrap().collect();
        let cut: Vec<_> = segments.iter().map(written).collect();
        frames.remove(7);
        assert_eq!(cut, frames);
        let mut back = Vec::new();
        batch.made(|descriptor| back.push(descriptor.addr));
        assert!(matches!(batch.step(), Some(Step::Alone(descriptor)) if descriptor == descriptors[7]));
        batch.made(|descriptor| back.push(descriptor.addr));
        assert!(batch.step().is_none());
        back.sort_unstable();
        assert_eq!(back, descriptors.iter().map(|descriptor| descriptor.addr).collect::<Vec<_>>());
    }

    #[test]
    fn what_lies_in_no_chunk_or_in_several_is_left_alone() {
        let flow: Vec<_> = std::iter::successors(Some(Spec::default()), |spec| Some(spec.next())).take(3).collect();
        let frames: Vec<_> = flow.iter().map(Spec::frame).collect();
        let (chunks, mut descriptors) = received(&frames);
        let mut batch = Batch::default();
        descriptors[0].addr = u64::MAX;
        assert_eq!(batch.look(&chunks, Offloads::ALL, |at| descriptors.get(at as usize).copied()), 3);
        assert!(matches!(batch.step(), Some(Step::Alone(descriptor)) if descriptor.addr == u64::MAX));
        descriptors[1].options = libc::XDP_PKT_CONTD;
        assert_eq!(batch.look(&chunks, Offloads::ALL, |at| descriptors.get(at as usize).copied()), 1);
        assert!(batch.step().is_none(), "one frame is not joined");
    }
}
