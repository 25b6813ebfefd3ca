//! The thread that moves packets: it owns a list of queue pairs and everything of theirs that is touched per packet.
//!
//! The rest of the daemon reaches it by [`Message`]s only, and reads its [`PairCounters`].

mod alarm;
mod broken;
mod clock;
mod counters;
mod cycles;
mod events;
mod gauges;
mod guard;
mod id;
mod mailbox;
mod moderation;
mod moved;
mod nodes;
mod observers;
mod pair;
mod processor;
mod pulse;
mod queue;
mod run;
mod rx;
mod shared;
mod threads;
mod tx;
mod wakeups;

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::sandbox;

pub use clock::now;
pub use counters::{Counter, Histogram, PairCounters};
pub use events::{Listener, ModeEvent, ModeEvents, mode_events};
pub use gauges::PairGauges;
pub use guard::Guard;
pub use id::{DeviceName, Direction, QueueId};
pub use mailbox::{Mailbox, MailboxError, Message, NotSent, RingFds, RingStart, deadline};
pub use moderation::{Moderation, Priorities};
pub use nodes::Nodes;
pub use pair::{Pair, PairSetup};
pub use processor::ProcessorHandle;
pub use pulse::{Beats, Pulse, Thread};
pub use shared::Features;
pub use threads::{Threads, Workers};

/// Most packets that one direction of a pair moves in a round.
pub const BURST_PACKETS: usize = 64;

/// Most bytes that one direction of a pair moves in a round, give or take its last packet.
pub const BURST_BYTES: usize = 256 << 10;

/// How long a worker may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// How late the kernel may end a sleep, in nanoseconds.
const TIMER_SLACK_NS: u64 = 1000;

/// A running worker thread.
#[derive(Debug)]
pub struct WorkerHandle {
    name: String,
    thread_id: i32,
    mailbox: Arc<Mailbox>,
    pulse: Arc<Pulse>,
    /// Its real-time priority; 0 is none.
    priority: AtomicU8,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts a worker called `name`, on CPU `cpu` if one is given. It has no pairs yet.
    ///
    /// # Errors
    /// When the kernel gives no thread, epoll or eventfd.
    pub fn spawn(name: String, cpu: Option<usize>) -> io::Result<Self> {
        let own_name = name.clone();
        let mailbox = Arc::new(Mailbox::new()?);
        let pulse = Arc::<Pulse>::default();
        let worker = run::Worker::new(mailbox.clone(), pulse.clone())?;
        let (began, begins) = sync_channel(1);
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let _ = began.send(rustix::thread::gettid().as_raw_nonzero().get());
            if let Some(cpu) = cpu {
                pin(&own_name, cpu);
            }
            be_on_time(&own_name);
            alarm::install(&own_name);
            sandbox::confine_worker(&own_name);
            worker.run();
            alarm::remove();
        })?;
        let thread_id = begins.recv().map_err(io::Error::other)?;
        Ok(Self { name, thread_id, mailbox, pulse, priority: AtomicU8::new(0), thread: Some(thread) })
    }

    /// The worker's name, which its thread bears as far as it fits.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's id of its thread.
    #[must_use]
    pub fn thread_id(&self) -> i32 {
        self.thread_id
    }

    /// Notes the real-time priority that it is to have; whether that is higher than what it has.
    pub(crate) fn raise_to(&self, priority: u8) -> bool {
        self.priority.fetch_max(priority, Ordering::Relaxed) < priority
    }

    /// Its thread, as seen from outside.
    #[must_use]
    pub fn thread(&self) -> Thread {
        Thread { name: self.name.clone(), id: self.thread_id, pulse: self.pulse.clone() }
    }

    /// The way to reach the worker.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.mailbox.stop();
        // It was waited for already, if it does not answer.
        let patience = if self.mailbox.is_stuck() { Duration::ZERO } else { STOP_PATIENCE };
        if let Some(thread) = self.thread.take() {
            wait_for_end(thread, &self.name, patience);
        }
    }
}

/// Waits a while until a thread that was told to end does. A front end can stop a worker (memory that is never paged in), but
/// not the daemon.
fn wait_for_end(thread: JoinHandle<()>, name: &str, patience: Duration) {
    let deadline = Instant::now() + patience;
    while !thread.is_finished() {
        if Instant::now() > deadline {
            tracing::error!("worker {name} does not end");
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let _ = thread.join();
}

/// Has the kernel end the thread's sleeps when they are over, not up to 50 µs later with those of others.
fn be_on_time(name: &str) {
    if let Err(e) = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS)) {
        tracing::debug!(worker = name, "sleeps may be longer than they should: {}", io::Error::from(e));
    }
}

fn pin(name: &str, cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(e) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(worker = name, cpu, "cannot pin the worker to its CPU: {}", io::Error::from(e));
    }
}
