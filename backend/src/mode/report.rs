//! What a governor is told, and what it answers.

use std::time::Duration;

use super::Time;

/// What one direction of a queue pair was like at the end of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// The round's budget ended and work was left that could be moved now: backlog.
    Ready,
    /// Nothing was left.
    #[default]
    Empty,
    /// What is left cannot be moved until something else happens: no receive buffers, uplink full or gone, ring not
    /// running. Never backlog.
    Blocked,
}

/// What a round did in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Frames moved, dropped ones included.
    pub packets: u32,
    /// The same with each GSO frame counted as the segments that it will become.
    pub segments: u32,
    /// Bytes of these frames.
    pub bytes: u64,
    /// What was left.
    pub left: Direction,
    /// The ring runs and has no kick fd: nothing tells when the driver has put something into it.
    pub no_kick_fd: bool,
}

/// Whether the uplink works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// As far as anybody knows.
    #[default]
    Up,
    /// It is down, has no carrier, or has gone.
    Down,
}

/// Readings of the worker thread's own clocks since it began (`CLOCK_THREAD_CPUTIME_ID`, getrusage(2) with `RUSAGE_THREAD`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time that the thread has had, user and system.
    pub cpu: Duration,
    /// How often it lost its CPU without asking (involuntary context switches).
    pub preemptions: u64,
}

/// What a round over a queue pair saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The time at its end. For a worker with several pairs the time since the report before holds the rounds of the
    /// others too, so that such a worker stops to poll rather early than late.
    pub now: Time,
    /// Uplink to guest.
    pub rx: Way,
    /// Guest to uplink.
    pub tx: Way,
    /// Whether the uplink works.
    pub uplink: Uplink,
    /// When the caller must be awake for a reason of its own: the end of interrupt moderation, new tokens of a rate
    /// limit; the earliest of them.
    pub deadline: Option<Time>,
    /// The thread's clocks, every 10 ms or so while it does not sleep, and none in between: reading them costs a system
    /// call. Without them nobody notices that the CPU is wanted by others.
    pub usage: Option<Usage>,
}

impl Report {
    pub(super) fn moved(&self) -> bool {
        self.rx.packets | self.tx.packets != 0
    }

    /// Neither way can move anything before something else happens.
    pub(super) fn is_stuck(&self) -> bool {
        self.rx.left == Direction::Blocked && self.tx.left == Direction::Blocked
    }

    pub(super) fn is_ready(&self) -> bool {
        self.rx.left == Direction::Ready || self.tx.left == Direction::Ready
    }
}

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The driver kicked a ring.
    Kick,
    /// The uplink has a frame, or room for one.
    Uplink,
    /// Somebody sent a message.
    Mailbox,
    /// The time was up.
    Timeout,
    /// Nothing: there was no sleep, work slipped in while kicks were armed.
    Nothing,
}

/// What the worker does next with the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another round at once; kicks stay off.
    Again,
    /// Sleep till then; kicks stay off and the uplink is not watched. Messages wake the worker as ever.
    Rest {
        /// When the next round is due.
        until: Time,
    },
    /// Arm kicks, watch the uplink, and sleep.
    Wait {
        /// When to look even if nothing happens. None: sleep till something does.
        until: Option<Time>,
    },
}
