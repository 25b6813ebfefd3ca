//! Rings that are served no more: for now, or for good.

use super::alarm::signal;
use super::queue::Queue;
use crate::ring::{RingError, RingSetup};

/// A ring that the driver broke, or whose memory went away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    /// Where it stood.
    pub(super) base: u32,
    /// It goes on when its memory comes back: front ends that share region by region change one by removing and adding
    /// it while rings run.
    pub(super) waits_for_memory: Option<RingSetup>,
}

impl Queue {
    /// Does nothing more for a front end that held up the worker.
    #[cold]
    pub(super) fn ban(&mut self) {
        self.is_banned = true;
        (self.fds.call, self.fds.err) = (None, None);
        if let Some(ring) = self.ring.take() {
            self.mark_broken(&RingError::EventfdBlocks, ring.base(), *ring.setup());
        } else if let Some(broken) = &mut self.broken {
            broken.waits_for_memory = None;
            self.tell_broken(&RingError::EventfdBlocks);
        }
    }

    /// Stops a ring that its driver broke, and tells whoever can mend it.
    pub(super) fn break_ring(&mut self, error: &RingError) {
        if self.publish() {
            self.call_for_published();
        }
        self.release_calls();
        if let Some(ring) = self.ring.take() {
            self.mark_broken(error, ring.base(), *ring.setup());
        }
    }

    pub(super) fn mark_broken(&mut self, error: &RingError, base: u32, setup: RingSetup) {
        let waits_for_memory = matches!(error, RingError::Memory(_)).then_some(setup);
        self.broken = Some(Broken { base, waits_for_memory });
        self.counters.rings_broken.add(1);
        self.tell_broken(error);
        if self.fds.err.as_ref().is_some_and(|err| !signal(err)) {
            self.ban();
        }
    }

    fn tell_broken(&self, error: &RingError) {
        self.news.tell(|left_out| {
            tracing::error!(queue = %self.id, left_out, "ring stopped until the driver resets it: {error}");
        });
    }
}
