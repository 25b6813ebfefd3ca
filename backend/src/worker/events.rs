//! How changes of mode reach whoever listens: a bounded queue that a worker never waits for.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::event::{EventfdFlags, eventfd};

use super::QueueId;
use crate::mode::Switch;

/// Most changes that wait to be heard; of more, the newest are lost and counted.
const KEPT: usize = 4096;

/// A change of a pair's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeEvent {
    /// The pair, or its direction where each has a mode of its own.
    pub id: QueueId,
    /// What changed.
    pub switch: Switch,
}

#[derive(Debug)]
struct Line {
    is_heard: AtomicBool,
    lost: AtomicU64,
    wake: OwnedFd,
}

/// The end that workers speak into.
#[derive(Clone, Debug)]
pub struct ModeEvents {
    sender: SyncSender<ModeEvent>,
    line: Arc<Line>,
}

/// The end at which somebody listens.
#[derive(Debug)]
pub struct Listener {
    receiver: Receiver<ModeEvent>,
    line: Arc<Line>,
}

/// A line for changes of mode. Nobody listens yet.
///
/// # Errors
/// When the kernel gives no eventfd.
pub fn mode_events() -> io::Result<(ModeEvents, Listener)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let line = Arc::new(Line { is_heard: AtomicBool::new(false), lost: AtomicU64::new(0), wake });
    let (sender, receiver) = sync_channel(KEPT);
    Ok((ModeEvents { sender, line: line.clone() }, Listener { receiver, line }))
}

impl ModeEvents {
    /// Tells of a change, if anybody listens.
    pub(super) fn tell(&self, event: ModeEvent) {
        // Partner: the fence in `listen`. The change is shown before; whoever begins to listen hears of it or sees it.
        fence(Ordering::SeqCst);
        if !self.line.is_heard.load(Ordering::Relaxed) {
            return;
        }
        if self.sender.try_send(event).is_err() {
            self.line.lost.fetch_add(1, Ordering::Relaxed);
        }
        // It fails only when the counter is full, and then the listener is woken already.
        let _ = rustix::io::write(&self.line.wake, &1u64.to_ne_bytes());
    }
}

impl Listener {
    /// Begins or ceases to listen. What waits is forgotten.
    pub fn listen(&self, on: bool) {
        self.line.is_heard.store(on, Ordering::Relaxed);
        // Partner: the fence in `tell`. What is shown is read after this.
        fence(Ordering::SeqCst);
        self.line.lost.store(0, Ordering::Relaxed);
        self.take().1.for_each(drop);
    }

    /// How many changes were lost since this was last asked, and those that wait, oldest first.
    pub fn take(&self) -> (u64, impl Iterator<Item = ModeEvent> + '_) {
        let _ = rustix::io::read(&self.line.wake, &mut [0; 8]);
        (self.line.lost.swap(0, Ordering::Relaxed), self.receiver.try_iter().take(KEPT))
    }
}

impl AsFd for Listener {
    /// Readable when a change waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::{Mode, Reason, Time};

    #[test]
    fn what_is_told_is_heard_in_order_and_what_is_too_much_is_counted() {
        let (events, listener) = mode_events().unwrap();
        let id = QueueId::pair("nic0".parse().unwrap(), 0);
        let event = |ns| {
            let switch = Switch { at: Time::from_nanos(ns), to: Mode::Polling, reason: Reason::Rate };
            ModeEvent { id, switch }
        };
        events.tell(event(1));
        assert_eq!(listener.take().1.count(), 0, "nobody listened");
        listener.listen(true);
        for ns in 0..KEPT as u64 + 3 {
            events.tell(event(ns));
        }
        let (lost, heard) = listener.take();
        let heard: Vec<_> = heard.map(|event| event.switch.at.as_nanos()).collect();
        assert_eq!((lost, heard), (3, (0..KEPT as u64).collect()));
        events.tell(event(7));
        listener.listen(false);
        assert_eq!(listener.take().1.count(), 0);
    }
}
