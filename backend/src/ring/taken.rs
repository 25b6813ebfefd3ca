//! The chains that the device has taken and not given back yet, with their buffers, oldest first.

use std::ops::Range;
use std::sync::Arc;

use super::RingError;
use crate::memory::{Buffers, DirtyLog, GuestSlice, MemoryTable};

/// Chains that were given back are forgotten together, at the latest when this many have gathered.
const FORGET_CHAINS: usize = 1024;

/// Most descriptors after the first of their chains that are walked for one burst, give or take those of its last chain:
/// empty ones reach no other limit of a burst.
const MAX_WALKED: usize = 8192;

/// How far to take chains.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// So many chains or so many bytes are taken: a budget.
    Either(usize, usize),
    /// So many chains and so many bytes are taken: a reserve.
    Both(usize, usize),
}

/// A chain taken from the ring, its buffers resolved.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name in the used ring: number of its first descriptor (split) or buffer id (packed).
    pub id: u16,
    /// Entries of the ring that it occupies (packed).
    pub(super) slots: u16,
    /// First of its slices in the ring's [`Buffers`].
    first: u32,
    /// One past the last of its slices.
    end: u32,
    /// Length of all slices together, in bytes.
    pub len: usize,
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
    buffers: Buffers,
}

impl Taken {
    pub(super) fn new(table: Arc<MemoryTable>) -> Self {
        Self { chains: Vec::new(), gone: 0, bytes: 0, slots: 0, buffers: Buffers::new(table) }
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
    #[inline]
    #[must_use]
    pub fn slices(&self, n: usize) -> &[GuestSlice<'_>] {
        match (self.chains().first(), n.checked_sub(1).and_then(|last| self.chains().get(last))) {
            (Some(a), Some(z)) => self.buffers.get(a.first as usize..z.end as usize),
            _ => &[],
        }
    }

    /// Takes chains by `next` as far as `until` says, or until there are no more.
    ///
    /// # Errors
    /// What `next` says. Chains taken before stay; what it added for the broken one is dropped.
    #[inline]
    pub(super) fn take(
        &mut self,
        until: Until,
        mut next: impl FnMut(&mut Buffers) -> Result<Option<Walked>, RingError>,
    ) -> Result<usize, RingError> {
        let mut walked = 0;
        while self.wants_more(until) && walked < MAX_WALKED {
            let first = self.buffers.len();
            match next(&mut self.buffers) {
                Ok(Some(chain)) => {
                    walked += chain.descriptors.saturating_sub(1);
                    self.buffers.prefetch_last();
                    self.bytes += chain.len;
                    self.slots += usize::from(chain.slots);
                    let (first, end) = (first as u32, self.buffers.len() as u32);
                    self.chains.push(Chain { id: chain.id, slots: chain.slots, first, end, len: chain.len });
                }
                Ok(None) => break,
                Err(e) => {
                    self.buffers.truncate(first);
                    return Err(e);
                }
            }
        }
        Ok(self.len())
    }

    #[inline]
    fn wants_more(&self, until: Until) -> bool {
        match until {
            Until::Either(chains, bytes) => self.len() < chains && self.bytes < bytes,
            Until::Both(chains, bytes) => self.len() < chains || self.bytes < bytes,
        }
    }

    /// Removes the oldest chain, of which the device wrote `written` bytes.
    #[inline]
    pub(super) fn give_back(&mut self, written: usize, log: Option<&DirtyLog>) -> Option<Chain> {
        let chain = self.chains.get(self.gone)?.clone();
        if let Some(log) = log {
            self.buffers.mark(chain.slices(), written, log);
        }
        self.gone += 1;
        self.bytes -= chain.len;
        self.slots -= usize::from(chain.slots);
        self.forget();
        Some(chain)
    }

    /// Marks the first `written` bytes of the oldest chains as written by the device.
    pub(super) fn mark(&self, written: usize, log: &DirtyLog) {
        let slices = self.chains().first().map_or(0, |chain| chain.first as usize)..self.buffers.len();
        self.buffers.mark(slices, written, log);
    }

    /// Removes all chains.
    pub(super) fn clear(&mut self) {
        self.chains.clear();
        self.buffers.clear();
        (self.gone, self.bytes, self.slots) = (0, 0, 0);
    }

    #[inline]
    fn forget(&mut self) {
        if self.is_empty() {
            self.clear();
        } else if self.gone >= FORGET_CHAINS {
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
}

/// A chain that was walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    pub(super) id: u16,
    /// Entries of the ring that it occupies.
    pub(super) slots: u16,
    /// Descriptors that were read, those of an indirect table included.
    pub(super) descriptors: usize,
    /// Bytes of its buffers.
    pub(super) len: usize,
}
