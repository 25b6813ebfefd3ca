//! The chains that the device has taken and not given back yet, with their buffers, oldest first.

use std::ops::Range;
use std::sync::Arc;

use super::Access;
use crate::memory::{Buffers, DirtyLog, GuestSlice, MemoryTable};

/// Chains that were given back are forgotten together, at the latest when this many have gathered; fewer where a test or
/// a fuzzer would hardly come so far.
const FORGET_CHAINS: usize = if cfg!(any(miri, fuzzing)) { 32 } else { 1024 };

/// The same by their slices, of which a chain may have as many as the ring has entries, and twice that.
const FORGET_SLICES: usize = 16 * FORGET_CHAINS;

/// Most descriptors after the first of their chains, or slices of these, that are walked for one burst, give or take those of
/// its last chain: empty ones reach no other limit of a burst.
const MAX_WALKED: usize = 8192;

/// How far to take chains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until {
    chains: usize,
    bytes: usize,
    both: bool,
    /// Descriptors that were walked.
    pub(super) walked: usize,
}

impl Until {
    /// So many chains or so many bytes are taken: a budget.
    pub(super) fn either(chains: usize, bytes: usize) -> Self {
        Self { chains, bytes, both: false, walked: 0 }
    }

    /// So many chains and so many bytes are taken: a reserve.
    pub(super) fn both(chains: usize, bytes: usize) -> Self {
        Self { chains, bytes, both: true, walked: 0 }
    }
}

/// A chain taken from the ring, its buffers resolved.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// First of its slices in the ring's [`Buffers`].
    first: u32,
    /// One past the last of its slices.
    end: u32,
    /// Length of all slices together, in bytes; what is beyond 32 bits does not count.
    pub len: u32,
    /// Its name in the used ring: number of its first descriptor (split) or buffer id (packed).
    pub id: u16,
    /// Entries of the ring that it occupies (packed).
    pub(super) slots: u16,
}

impl Chain {
    /// Where its slices are in [`Taken::buffers`].
    #[inline]
    #[must_use]
    pub fn slices(&self) -> Range<usize> {
        self.first as usize..self.end as usize
    }
}

/// Taken chains, oldest first.
#[derive(Debug)]
pub struct Taken {
    chains: Vec<Chain>,
    /// Chains at the front that were given back.
    gone: usize,
    bytes: usize,
    slots: usize,
    /// What was walked since the last publish.
    walked: usize,
    buffers: Buffers,
}

impl Taken {
    pub(super) fn new(table: Arc<MemoryTable>) -> Self {
        Self { chains: Vec::new(), gone: 0, bytes: 0, slots: 0, walked: 0, buffers: Buffers::new(table) }
    }

    /// Chains of one buffer each, for tests: address and length.
    #[cfg(test)]
    pub(crate) fn of(table: Arc<MemoryTable>, buffers: &[(u64, u32)]) -> Self {
        let mut taken = Self::new(table);
        for (id, (address, len)) in (0..).zip(buffers) {
            let first = taken.buffers.len();
            taken.buffers.push(*address, *len).expect("a buffer in memory");
            taken.push(first, id, 1, *len as usize);
        }
        taken
    }

    /// Number of chains.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.len() - self.gone
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.len() == self.gone
    }

    /// Bytes of all chains together.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries of the ring that all chains together occupy.
    #[inline]
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// The chains, oldest first.
    #[inline]
    #[must_use]
    pub fn chains(&self) -> &[Chain] {
        &self.chains[self.gone..]
    }

    /// The slices of all chains, and of some that were given back.
    #[inline]
    #[must_use]
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The buffers of chain number `at`.
    #[inline]
    #[must_use]
    pub fn slices_of(&self, at: usize) -> &[GuestSlice<'_>] {
        self.chains().get(at).map_or(&[], |chain| self.buffers.get(chain.slices()))
    }

    /// The buffers of the first `n` chains, in a row.
    #[must_use]
    pub fn slices(&self, n: usize) -> &[GuestSlice<'_>] {
        self.slices_from(0, n)
    }

    /// The buffers of the `n` chains from number `first` on, in a row.
    #[inline]
    #[must_use]
    pub fn slices_from(&self, first: usize, n: usize) -> &[GuestSlice<'_>] {
        let last = (first + n).wrapping_sub(1);
        match (self.chains().get(first), self.chains().get(last).filter(|_| n > 0)) {
            (Some(a), Some(z)) => self.buffers.get(a.first as usize..z.end as usize),
            _ => &[],
        }
    }

    /// How many more chains are to be taken at most, and after how many bytes to ask again.
    #[inline]
    pub(super) fn wants(&self, until: &Until) -> (usize, usize) {
        let chains = until.chains.saturating_sub(self.len());
        let bytes = until.bytes.saturating_sub(self.bytes);
        match (chains, bytes) {
            _ if until.walked >= MAX_WALKED => (0, 0),
            // So many for sure, or as many as make up the bytes.
            _ if until.both && chains > 0 => (chains, usize::MAX),
            _ if until.both => (bytes.min(Self::AT_ONCE), bytes),
            (_, 0) => (0, 0),
            _ => (chains, bytes),
        }
    }

    /// Chains that are taken at once when it is not known how many make up the bytes that are wanted.
    const AT_ONCE: usize = 64;

    /// Adds up to `max` chains of one buffer each that `next` tells by number: id, address and length, which is not 0.
    /// Ends as [`Buffers::push_near`] does; says how many were added.
    #[inline]
    pub(super) fn push_near(
        &mut self,
        max: usize,
        max_bytes: usize,
        access: Access,
        mut next: impl FnMut(usize) -> Option<(u16, u64, u32)>,
    ) -> usize {
        let (before, first) = (self.chains.len(), self.buffers.len() as u32);
        self.chains.resize(before + max, Chain { first: 0, end: 0, len: 0, id: 0, slots: 0 });
        let mut chains = self.chains[before..].iter_mut();
        let (added, bytes) = self.buffers.push_near(max, max_bytes, access == Access::Write, |n| {
            let (id, address, len) = next(n)?;
            let first = first + n as u32;
            *chains.next()? = Chain { first, end: first + 1, len, id, slots: 1 };
            Some((address, len))
        });
        self.chains.truncate(before + added);
        self.bytes += bytes;
        self.slots += added;
        added
    }

    /// Where the slices of the next chain are added. Those of a chain that turns out to be broken are to be taken out again.
    pub(super) fn buffers_mut(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    /// Notes what was walked for a chain.
    pub(super) fn note_walked(&mut self, walked: usize) {
        self.walked += walked;
    }

    /// Whether so much was walked since the last publish that others are to have their turn.
    #[inline]
    #[must_use]
    pub fn has_walked_enough(&self) -> bool {
        self.walked >= MAX_WALKED
    }

    /// What was completed is published.
    #[inline]
    pub(super) fn rest(&mut self) {
        self.walked = 0;
    }

    /// Adds a chain of `len` bytes whose slices were added from number `first` on.
    #[inline]
    pub(super) fn push(&mut self, first: usize, id: u16, slots: u16, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.chains.push(Chain { first: first as u32, end: self.buffers.len() as u32, len, id, slots });
        self.bytes += len as usize;
        self.slots += usize::from(slots);
    }

    /// Removes the oldest `n` chains, at most all.
    #[inline]
    pub(super) fn give_back(&mut self, n: usize) {
        if n >= self.len() {
            return self.clear();
        }
        let end = self.gone + n;
        for chain in &self.chains[self.gone..end] {
            self.bytes -= chain.len as usize;
            self.slots -= usize::from(chain.slots);
        }
        self.gone = end;
        // What stays is moved, so it is to be no more than what goes.
        let slices = self.chains[..end].last().map_or(0, |chain| chain.end as usize);
        if end >= FORGET_CHAINS || (slices >= FORGET_SLICES && slices >= self.buffers.len() / 2) {
            self.forget_front();
        }
    }

    /// Marks so many first bytes of each of the oldest chains as written by the device.
    pub(super) fn mark_each(&self, written: &[u32], log: &DirtyLog) {
        for (chain, len) in self.chains().iter().zip(written) {
            self.buffers.mark(chain.slices(), *len as usize, log);
        }
    }

    /// Marks the first `written` bytes of the oldest chains as written by the device.
    pub(super) fn mark(&self, written: usize, log: &DirtyLog) {
        let first = self.chains().first().map_or(self.buffers.len(), |chain| chain.first as usize);
        self.buffers.mark(first..self.buffers.len(), written, log);
    }

    /// Removes all chains.
    pub(super) fn clear(&mut self) {
        self.chains.clear();
        self.buffers.clear();
        (self.gone, self.bytes, self.slots) = (0, 0, 0);
    }

    #[cold]
    fn forget_front(&mut self) {
        let end = self.chains[self.gone - 1].end;
        self.chains.drain(..self.gone);
        self.gone = 0;
        self.buffers.drop_front(end as usize);
        for chain in &mut self.chains {
            chain.first -= end;
            chain.end -= end;
        }
    }
}
