//! The worker's loop.
//!
//! Waiting: kicks armed, asleep. Woken: kicks off, rounds of bursts until nothing more can be moved (draining) or until
//! looking does not pay any more (polling), kicks on again. What is to come next is the governors' to say.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::clock::{ThreadClocks, now};
use super::mailbox::Mail;
use super::wakeups::{Slot, Source, Wakeups};
use super::{Mailbox, Pair, Pulse};
use crate::mode::{Cause, Time, Verdict};

/// How often a polling worker pauses between two rounds that found nothing: `SPARSE` while packets come one by one, `DENSE`
/// while they come faster than one in `DENSE_NS`. Looking at a ring takes the cache line away from the driver that is about
/// to write to it, which is felt where the driver is the slower one; a longer pause is felt by every packet that comes
/// alone.
const SPARSE: u32 = 8;
const DENSE: u32 = 100;
const DENSE_NS: u64 = 125;

/// How densely packets come.
#[derive(Default)]
struct Pacing {
    /// Packets since the last pause.
    packets: u64,
    /// When it was.
    since: Time,
}

impl Pacing {
    fn pause(&mut self, now: Time) {
        let ns = now.duration_since(self.since).as_nanos() as u64;
        let pauses = if self.packets * DENSE_NS > ns { DENSE } else { SPARSE };
        *self = Self { packets: 0, since: now };
        for _ in 0..pauses {
            std::hint::spin_loop();
        }
    }
}

/// A worker thread's state.
pub(super) struct Worker {
    pairs: Vec<Pair>,
    /// How many it was ever given.
    adopted: u32,
    mailbox: Arc<Mailbox>,
    wakeups: Wakeups,
    /// What ended the last sleep.
    sources: Vec<Source>,
    clocks: ThreadClocks,
    pacing: Pacing,
    pulse: Arc<Pulse>,
    stopped: bool,
}

impl Worker {
    pub(super) fn new(mailbox: Arc<Mailbox>, pulse: Arc<Pulse>) -> io::Result<Self> {
        let wakeups = Wakeups::new()?;
        wakeups.add_eventfd(&*mailbox, Source::Mailbox)?;
        let (pairs, sources) = (Vec::new(), Vec::new());
        let (clocks, pacing) = (ThreadClocks::default(), Pacing::default());
        Ok(Self { pairs, adopted: 0, mailbox, wakeups, sources, clocks, pacing, pulse, stopped: false })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            let until = self.move_packets();
            if self.stopped {
                return;
            }
            // Kicks on. What slipped in before they were is moved first.
            let slipped_in = self.pairs.iter_mut().fold(false, |any, pair| pair.before_sleep(&self.wakeups) | any);
            if !slipped_in {
                self.sleep(until);
            }
            self.woke(if slipped_in { Cause::Nothing } else { Cause::Timeout });
        }
    }

    /// Rounds over every pair until all of them are to sleep. Says until when, if there is an end to it.
    fn move_packets(&mut self) -> Option<Time> {
        loop {
            if self.mailbox.is_flagged() {
                self.read_mail();
            }
            if self.stopped {
                return None;
            }
            self.pulse.beat();
            let looked = self.pairs.last().map_or_else(now, Pair::looked);
            let usage = self.clocks.read_if_due(looked);
            let (mut found, mut again, mut until) = (0, false, None);
            for pair in &mut self.pairs {
                found += pair.round(usage);
                match pair.verdict() {
                    Verdict::Again => again = true,
                    Verdict::Rest { until: end } => until = earlier(until, Some(end)),
                    Verdict::Wait { until: end } => until = earlier(until, end),
                }
            }
            match (again, found) {
                (false, _) => return until,
                (true, 0) => self.pacing.pause(looked),
                (true, packets) => self.pacing.packets += packets,
            }
        }
    }

    /// Sleeps until a kick, a frame, room in an uplink, a message, or `until`.
    fn sleep(&mut self, until: Option<Time>) {
        let timeout = until.map(|until| until.duration_since(now()));
        if timeout == Some(Duration::ZERO) {
            return;
        }
        self.pulse.turn_over();
        let waited = self.wakeups.wait(timeout, &mut self.sources);
        self.pulse.turn_over();
        if let Err(e) = waited {
            tracing::error!("epoll_wait: {e}");
        }
    }

    /// Kicks off again. Each pair is told what woke it; `otherwise` if nothing did.
    fn woke(&mut self, otherwise: Cause) {
        let now = now();
        for pair in &mut self.pairs {
            let slot = pair.slot();
            let cause = self.sources.iter().find_map(|source| source.cause_for(slot));
            pair.woke(cause.unwrap_or(otherwise), now);
        }
        self.sources.clear();
    }

    fn read_mail(&mut self) {
        for mail in self.mailbox.take() {
            match mail {
                Mail::Stop => {
                    self.stopped = true;
                    return;
                }
                Mail::Adopt(mut pair) => {
                    pair.set_slot(Slot(self.adopted));
                    self.adopted += 1;
                    self.pairs.push(*pair);
                }
                Mail::Release(id) => {
                    if let Some(at) = self.pairs.iter().position(|pair| pair.id() == id) {
                        self.pairs.swap_remove(at).close(&self.wakeups);
                    }
                }
                Mail::For(id, message) => {
                    if let Some(pair) = self.pairs.iter_mut().find(|pair| pair.id().covers(id)) {
                        pair.handle(id, message, &self.wakeups);
                    }
                }
            }
        }
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    a.into_iter().chain(b).min()
}
