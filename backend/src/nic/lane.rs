//! A lane: what has a mode of its own and is served by one worker. A queue pair, or one direction of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::placement::Place;
use crate::capture::Recorder;
use crate::mode::Policy;
use crate::uplink::{Rx, Tx};
use crate::worker::{
    self, Direction, Mailbox, MailboxError, Message, PairCounters, PairGauges, ProcessorHandle, QueueId, Thread,
    Threads, WorkerHandle,
};

/// A lane of a device.
#[derive(Debug)]
pub struct Lane {
    /// Its name.
    pub id: QueueId,
    /// What its worker counts.
    pub counters: Arc<PairCounters>,
    /// What its worker shows of its mode.
    pub gauges: Arc<PairGauges>,
    place: Mutex<Place>,
    state: Mutex<LaneState>,
}

/// What a worker is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerName {
    /// Its name, which its thread bears as far as it fits.
    pub name: String,
    /// The kernel's id of its thread.
    pub thread_id: i32,
}

#[derive(Debug)]
pub(super) enum LaneState {
    /// No front end has started a ring of it yet.
    Idle(Idle),
    /// It has a worker, and in a pipeline a processor.
    Running(Arc<WorkerHandle>, Option<ProcessorHandle>),
    /// No thread was to be had, or it was given up.
    Failed,
}

#[derive(Debug)]
pub(super) struct Idle {
    pub(super) tx: Tx,
    pub(super) rx: Rx,
    pub(super) policy: Policy,
    /// Who copies what its worker will move, if anybody does.
    pub(super) recorder: Option<Box<Recorder>>,
}

impl Lane {
    /// The lanes of pair number `pair`.
    pub(super) fn of_pair(pair: QueueId, threads: Threads, (tx, rx): (Tx, Rx), policy: Policy) -> Vec<Self> {
        if threads != Threads::PerDirection {
            return vec![Self::new(pair, tx, rx, policy)];
        }
        tx.part();
        let beside = rx.beside();
        // Who sees one direction alone takes questions that are answered for a stream.
        let policy = Policy { gather_us: 0, ..policy };
        vec![
            Self::new(pair.with(Direction::Rx), Tx::none(), rx, policy),
            Self::new(pair.with(Direction::Tx), tx, beside, policy),
        ]
    }

    fn new(id: QueueId, tx: Tx, rx: Rx, policy: Policy) -> Self {
        Self {
            id,
            counters: Arc::default(),
            gauges: Arc::new(PairGauges::new(&policy, worker::now())),
            place: Mutex::default(),
            state: Mutex::new(LaneState::Idle(Idle { tx, rx, policy, recorder: None })),
        }
    }

    /// The way to its worker, if it has one.
    #[must_use]
    pub fn mailbox(&self) -> Option<Arc<Mailbox>> {
        self.of_worker(|worker| worker.mailbox().clone())
    }

    /// Its worker, if it has one.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerName> {
        self.of_worker(|worker| WorkerName { name: worker.name().into(), thread_id: worker.thread_id() })
    }

    /// Where its threads run.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes where its threads run; says whether that is news.
    pub(super) fn set_place(&self, place: Place) -> bool {
        let mut known = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *known != place;
        *known = place;
        is_new
    }

    /// The kernel's ids of its worker's thread and its processor's.
    pub(super) fn thread_ids(&self) -> (Option<i32>, Option<i32>) {
        match &*self.state() {
            LaneState::Running(worker, processor) => {
                (Some(worker.thread_id()), processor.as_ref().map(|processor| processor.thread().id))
            }
            LaneState::Idle(_) | LaneState::Failed => (None, None),
        }
    }

    /// The threads that it has.
    #[must_use]
    pub fn threads(&self) -> Vec<Thread> {
        match &*self.state() {
            LaneState::Running(worker, processor) => {
                [worker.thread()].into_iter().chain(processor.as_ref().map(ProcessorHandle::thread)).collect()
            }
            LaneState::Idle(_) | LaneState::Failed => Vec::new(),
        }
    }

    /// What `get` takes of its worker. Not the worker itself: whoever has it last waits for its end.
    fn of_worker<T>(&self, get: impl FnOnce(&WorkerHandle) -> T) -> Option<T> {
        match &*self.state() {
            LaneState::Running(worker, _) => Some(get(worker)),
            LaneState::Idle(_) | LaneState::Failed => None,
        }
    }

    /// Has what its worker moves copied from now on, or no more. A lane that has no worker yet begins so.
    ///
    /// # Errors
    /// When the worker does not answer.
    pub fn capture(&self, recorder: Option<Box<Recorder>>) -> Result<(), MailboxError> {
        let mailbox = match &mut *self.state() {
            LaneState::Idle(idle) => {
                idle.recorder = recorder;
                return Ok(());
            }
            LaneState::Running(worker, _) => worker.mailbox().clone(),
            // It moves nothing any more.
            LaneState::Failed => return Ok(()),
        };
        // What copied before is let go of here: to unmap its memory takes time that a worker does not have.
        mailbox.ask(self.id, |answer| Message::Capture(recorder, answer)).map(drop)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
