//! One ring of a pair with its eventfds and states.
//!
//! Started and enabled are independent (vhost-user, "Ring states"). A ring that the driver broke stays broken until it
//! is started anew.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::alarm::signal;
use super::broken::Broken;
use super::moderation::{Held, Moderation};
use super::wakeups::{Slot, Source, Wakeups};
use super::{PairCounters, QueueId, RingFds, RingStart};
use crate::memory::MemoryTable;
use crate::mode::Time;
use crate::record::RingRecord;
use crate::ring::{Ring, RingError, RingLog, RingSetup, resume, was_served};
use crate::seldom::Seldom;

/// Where a packed ring starts: at its first entry, first time round (virtio 1.3, 2.8.1).
const FIRST_PLACE: u16 = 0x8000;

/// A ring, if it is started.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) id: QueueId,
    pub(super) ring: Option<Ring>,
    enabled: bool,
    /// Whether it was enabled at any time since it was started.
    was_enabled: bool,
    pub(super) broken: Option<Broken>,
    /// A front end held up the worker by it: it is served no more.
    pub(super) is_banned: bool,
    log: Option<RingLog>,
    record: Option<RingRecord>,
    pub(super) fds: RingFds,
    /// Calls that the driver has not had yet.
    held: Held,
    /// The place of its pair in the worker.
    pub(super) slot: Slot,
    pub(super) counters: Arc<PairCounters>,
    /// What its front end and driver can do as often as they like.
    pub(super) news: Seldom,
}

impl Queue {
    pub(super) fn new(id: QueueId, counters: Arc<PairCounters>) -> Self {
        Self {
            id,
            ring: None,
            enabled: false,
            was_enabled: false,
            broken: None,
            is_banned: false,
            log: None,
            record: None,
            fds: RingFds::default(),
            held: Held::default(),
            slot: Slot::default(),
            counters,
            news: Seldom::default(),
        }
    }

    /// Started, enabled and not broken: packets may move.
    pub(super) fn is_running(&self) -> bool {
        self.ring.is_some() && self.enabled
    }

    /// Started, and disabled after it was enabled: what comes is discarded (vhost-user, "Ring states"). A ring that was
    /// never enabled waits instead: some front ends start their rings first, and what the driver has posted by then
    /// would be lost.
    pub(super) fn discards(&self) -> bool {
        self.ring.is_some() && !self.enabled && self.was_enabled
    }

    pub(super) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        self.was_enabled |= enabled;
    }

    /// Whether it has something to do and no kick fd: it must be looked at now and then.
    pub(super) fn needs_looking(&self) -> bool {
        self.fds.kick.is_none() && (self.is_running() || self.discards())
    }

    pub(super) fn up(&mut self, memory: &Arc<MemoryTable>, start: RingStart, fds: RingFds, wakeups: &Wakeups) {
        self.down(wakeups);
        self.was_enabled = self.enabled;
        let RingStart { setup, base, log, record } = start;
        if self.is_banned {
            return self.mark_broken(&RingError::EventfdBlocks, base, setup);
        }
        self.set_err(fds.err);
        let resumed = record.as_ref().and_then(|record| resume(memory, &setup, record, base, log.as_ref()));
        if let Some(record) = &record {
            record.set_told(base);
        }
        if let Some(stand) = resumed {
            self.news.tell(|left_out| {
                tracing::info!(queue = %self.id, left_out, "ring goes on where its record says: {stand:#x}, not {base:#x}");
            });
        }
        if resumed.is_none() && setup.packed && base as u16 == FIRST_PLACE && was_served(memory, &setup) {
            self.news.tell(|left_out| tracing::warn!(
                queue = %self.id,
                left_out,
                "the front end says that this packed ring was never used, but it was, and where it stands is not known: \
                 if nothing moves, have the guest reset its driver; --state-dir keeps this from happening"
            ));
        }
        let base = resumed.unwrap_or(base);
        (self.log, self.record) = (log, record);
        if let Err(e) = self.set_up(memory, setup, base) {
            self.mark_broken(&e, base, setup);
        }
        self.set_call(fds.call);
        self.set_kick(fds.kick, wakeups);
    }

    /// Stops the ring: where it stood, if it ran.
    pub(super) fn down(&mut self, wakeups: &Wakeups) -> Option<u32> {
        self.release_calls();
        self.set_kick(None, wakeups);
        self.fds = RingFds::default();
        (self.log, self.record) = (None, None);
        let broken_at = self.broken.take().map(|broken| broken.base);
        self.ring.take().map(|ring| ring.base()).or(broken_at)
    }

    /// Moves a started ring to another memory table. What was taken and not completed will be taken again.
    pub(super) fn move_to(&mut self, memory: &Arc<MemoryTable>, wakeups: &Wakeups) {
        self.release_calls();
        if let Some(ring) = self.ring.take() {
            let (setup, base) = (*ring.setup(), ring.base());
            drop(ring);
            if let Err(e) = self.set_up(memory, setup, base) {
                self.mark_broken(&e, base, setup);
            }
        } else if let Some(Broken { waits_for_memory: Some(setup), base }) = self.broken
            && self.set_up(memory, setup, base).is_ok()
        {
            self.broken = None;
            let kick = self.fds.kick.take();
            // It is waited for still, if its worker has not slept since.
            kick.iter().for_each(|kick| wakeups.remove(kick));
            self.set_kick(kick, wakeups);
            self.news.tell(|left_out| tracing::info!(queue = %self.id, left_out, "ring goes on in other memory"));
        }
    }

    fn set_up(&mut self, memory: &Arc<MemoryTable>, setup: RingSetup, base: u32) -> Result<(), RingError> {
        let mut ring = Ring::new(memory, setup, base)?;
        ring.set_log(self.log.clone());
        if let Some(record) = &self.record {
            ring.set_record(record.clone());
        }
        ring.suppress_kicks();
        self.ring = Some(ring);
        Ok(())
    }

    /// Starts or stops marking what the ring writes.
    pub(super) fn set_log(&mut self, log: Option<RingLog>) {
        if let Some(ring) = &mut self.ring {
            ring.set_log(log.clone());
        }
        self.log = log;
    }

    pub(super) fn set_kick(&mut self, kick: Option<OwnedFd>, wakeups: &Wakeups) {
        if let Some(old) = self.fds.kick.take() {
            wakeups.remove(&old);
        }
        self.fds.kick = kick.filter(|fd| {
            let source = Source::Kick(self.slot);
            wakeups.add_eventfd(fd, source).inspect_err(|e| self.complain("kick", "cannot be waited for", e)).is_ok()
        });
    }

    /// The driver of a broken ring wakes nobody any more.
    pub(super) fn ignore_kick_if_broken(&mut self, wakeups: &Wakeups) {
        if let (Some(_), Some(kick)) = (&self.broken, &self.fds.kick) {
            wakeups.remove(kick);
        }
    }

    /// Changes the call fd. A call may have gone to the one before, or to another daemon's, and been lost: the driver
    /// is called once more, unless it polls.
    pub(super) fn set_call(&mut self, call: Option<OwnedFd>) {
        self.fds.call = call.filter(|fd| !self.is_banned && self.never_blocks("call", fd));
        if self.ring.as_mut().is_some_and(|ring| {
            ring.forget_calls();
            ring.used_any() && ring.needs_call()
        }) {
            self.call();
        }
    }

    pub(super) fn set_err(&mut self, err: Option<OwnedFd>) {
        self.fds.err = err.filter(|fd| !self.is_banned && self.never_blocks("err", fd));
    }

    /// A worker never blocks: not on a front end that lets its eventfd run full either. One that has it block again is found
    /// out by the first write that waits.
    fn never_blocks(&self, which: &str, fd: &OwnedFd) -> bool {
        let done = rustix::fs::fcntl_getfl(fd).and_then(|f| rustix::fs::fcntl_setfl(fd, f | OFlags::NONBLOCK));
        done.map_err(io::Error::from).inspect_err(|e| self.complain(which, "cannot be used", e)).is_ok()
    }

    fn complain(&self, which: &str, what: &str, error: &io::Error) {
        self.news.tell(|left_out| tracing::warn!(queue = %self.id, left_out, "the {which} fd {what}: {error}"));
    }

    /// Arms kicks or suppresses them. Arming says whether a chain slipped in that no kick will tell of.
    pub(super) fn change_interrupt(&mut self, on: bool) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        if !on {
            ring.suppress_kicks();
            return false;
        }
        ring.arm_kicks().unwrap_or_else(|e| {
            self.break_ring(&e);
            false
        })
    }

    /// Shows the driver what was completed. Says whether there was anything: then it is to be called.
    pub(super) fn publish(&mut self) -> bool {
        self.ring.as_mut().is_some_and(|ring| ring.publish())
    }

    /// Calls the driver for what was published, unless it said that it need not be.
    pub(super) fn call_for_published(&mut self) {
        self.held.take();
        let Some(ring) = &mut self.ring else { return };
        if ring.needs_call() {
            self.call();
        } else {
            self.counters.calls_suppressed.add(1);
        }
    }

    /// The same under settings that hold calls: for `packets` that were published just now, if there were any, and for what
    /// was held before.
    #[cold]
    pub(super) fn call_moderated(&mut self, packets: u64, is_urgent: bool, now: Time, settings: &Moderation) {
        let is_due = match packets {
            0 => self.held.is_due(now, settings),
            _ => self.held.add(packets, is_urgent, now, settings),
        };
        if is_due {
            self.call_for_published();
        }
    }

    /// Calls the driver for what was held.
    pub(super) fn release_calls(&mut self) {
        if self.held.take() {
            self.call_for_published();
        }
    }

    /// When to call the driver for what is held.
    pub(super) fn call_due(&self, settings: &Moderation) -> Option<Time> {
        self.held.due(settings)
    }

    fn call(&mut self) {
        let Some(call) = &self.fds.call else { return };
        if signal(call) {
            self.counters.calls.add(1);
        } else {
            self.ban();
        }
    }
}
