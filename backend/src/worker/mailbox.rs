//! How other threads reach a worker: a queue of messages, a flag that costs a round one relaxed load, and an eventfd
//! that wakes a sleeper.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::{Features, Pair, QueueId};
use crate::capture::Recorder;
use crate::guard::Refusal;
use crate::memory::MemoryTable;
use crate::mode::{ModeError, Order};
use crate::record::RingRecord;
use crate::ring::{RingLog, RingSetup};
use crate::uplink::Sent;

/// A worker that does not answer within this time is stuck; its device is given up, not the daemon. A fuzzer has a limit
/// of its own, and what it finds must not depend on how busy the machine is.
const PATIENCE: Duration = Duration::from_secs(if cfg!(fuzzing) { 3600 } else { 5 });

/// Until when an answer is waited for from now on.
#[must_use]
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// The eventfds of a ring.
#[derive(Debug, Default)]
pub struct RingFds {
    /// The driver offers chains. None: the ring is looked at periodically.
    pub kick: Option<OwnedFd>,
    /// Interrupts the driver. None: the driver polls.
    pub call: Option<OwnedFd>,
    /// Tells the front end of a broken ring.
    pub err: Option<OwnedFd>,
}

/// How a ring starts.
#[derive(Debug)]
pub struct RingStart {
    /// How it was set up.
    pub setup: RingSetup,
    /// Where it stands; a split ring knows that itself.
    pub base: u32,
    /// Where it marks what it writes, if it does.
    pub log: Option<RingLog>,
    /// Where it notes where it stands, if its memory does not tell. What stands there already, it goes by.
    pub record: Option<RingRecord>,
}

/// What lies in a mailbox.
#[derive(Debug)]
pub(super) enum Mail {
    /// The worker serves this pair from now on.
    Adopt(Box<Pair>),
    /// Something for the pair, or the ring of it, that is called so.
    For(QueueId, Message),
    /// The worker lets go of this pair for good.
    Release(QueueId),
    /// The thread ends.
    Stop,
}

/// What can be told of a ring or a pair. Whatever a front end can cause is answered, and a worker that does not answer is
/// asked no more: nobody can fill its mailbox.
#[derive(Debug)]
pub enum Message {
    /// A ring starts. Answered when it does.
    RingUp(RingStart, RingFds, SyncSender<()>),
    /// A ring stops. Answered with its base when it is quiet; none if it did not run.
    RingDown(SyncSender<Option<u32>>),
    /// The front end enables or disables a ring, started or not. Answered when packets move, or move no more.
    RingEnable(bool, SyncSender<()>),
    /// The driver acknowledged features. Answered when they count.
    Features(Features, SyncSender<()>),
    /// The guest's memory changes. Answered with the table before, when it is no longer used.
    MemoryTable(Arc<MemoryTable>, SyncSender<Arc<MemoryTable>>),
    /// A ring starts or stops marking what it writes. Answered when it does, or when all that it wrote is marked.
    Log(Option<RingLog>, SyncSender<()>),
    /// A ring's kick fd changes. Answered when it has.
    Kick(Option<OwnedFd>, SyncSender<()>),
    /// A ring's call fd changes. Answered when it has.
    Call(Option<OwnedFd>, SyncSender<()>),
    /// A ring's err fd changes. Answered when it has.
    Err(Option<OwnedFd>, SyncSender<()>),
    /// The network is to learn where the guest with this address is. Answered when it was told, or why it was not.
    Announce([u8; 6], SyncSender<Result<(), NotSent>>),
    /// The uplink's interface got or lost its carrier.
    Carrier(bool),
    /// What is moved is copied, or no more. Answered with what copied it before.
    Capture(Option<Box<Recorder>>, SyncSender<Option<Box<Recorder>>>),
    /// A mode is ordered. Answered with whether it can be had.
    Mode(Order, SyncSender<Result<(), ModeError>>),
}

/// Why a frame that was to be sent for the guest was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The guest may not send it.
    #[error(transparent)]
    Filtered(#[from] Refusal),
    /// The guest has sent as much as it may.
    #[error("the device's limit is reached")]
    Held,
    /// The uplink has not taken it.
    #[error("the uplink does not take it now ({0:?})")]
    Uplink(Sent),
}

/// A worker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// The time was up.
    #[error("the worker did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The thread is gone.
    #[error("the worker has ended")]
    Ended,
}

/// A worker's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<VecDeque<Mail>>,
    flagged: AtomicBool,
    is_stuck: AtomicBool,
    wake: OwnedFd,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::default(), flagged: AtomicBool::new(false), is_stuck: AtomicBool::new(false), wake })
    }

    /// Tells the ring or pair that is called `id`.
    pub fn send(&self, id: QueueId, message: Message) {
        self.put(Mail::For(id, message));
    }

    /// Hands a pair over for good.
    pub fn adopt(&self, pair: Pair) {
        self.put(Mail::Adopt(Box::new(pair)));
    }

    /// Has the worker let go of a pair for good, as soon as it can.
    pub fn release(&self, id: QueueId) {
        self.put(Mail::Release(id));
    }

    /// Whether somebody has waited for an answer in vain, and it has not looked at its mail since.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    /// Ends the worker.
    pub(super) fn stop(&self) {
        self.put(Mail::Stop);
    }

    /// Puts mail in and wakes the worker.
    fn put(&self, mail: Mail) {
        self.lock().push_back(mail);
        self.flagged.store(true, Ordering::Release);
        // Fails only when the counter is full, and then the worker is woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Sends a message made with a way to answer, and waits for the answer.
    ///
    /// # Errors
    /// When the worker does not answer in time.
    pub fn ask<T>(&self, id: QueueId, message: impl FnOnce(SyncSender<T>) -> Message) -> Result<T, MailboxError> {
        let question = self.question(id, message);
        self.answer(&question, deadline())
    }

    /// Sends a message made with a way to answer. The answer is to be waited for by [`Mailbox::answer`].
    pub fn question<T>(&self, id: QueueId, message: impl FnOnce(SyncSender<T>) -> Message) -> Receiver<T> {
        let (answer, answered) = sync_channel(1);
        self.send(id, message(answer));
        answered
    }

    /// Waits for an answer, until `deadline` at most.
    ///
    /// # Errors
    /// When the worker does not answer in time.
    pub fn answer<T>(&self, question: &Receiver<T>, deadline: Instant) -> Result<T, MailboxError> {
        // Who has waited in vain once waits no more: the next would wait as long.
        let patience =
            if self.is_stuck() { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
        question.recv_timeout(patience).map_err(|e| match e {
            RecvTimeoutError::Timeout => {
                self.is_stuck.store(true, Ordering::Relaxed);
                MailboxError::Timeout
            }
            RecvTimeoutError::Disconnected => MailboxError::Ended,
        })
    }

    /// Whether messages may wait. The eventfd is written after the flag, so a worker that misses it here is woken.
    #[inline]
    pub(super) fn is_flagged(&self) -> bool {
        self.flagged.load(Ordering::Relaxed)
    }

    /// Takes all messages.
    pub(super) fn take(&self) -> VecDeque<Mail> {
        self.flagged.store(false, Ordering::Relaxed);
        self.is_stuck.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Mail>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
