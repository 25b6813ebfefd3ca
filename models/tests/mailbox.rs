//! The mailbox: no message stays unread while the worker sleeps, and a ring that stopped is not touched any more.
//!
//! `put` and `take` are those of `backend/src/worker/mailbox.rs`, the rounds those of `backend/src/worker/run.rs`; the
//! answer to `RingDown` is given by `Pair::handle` in `backend/src/worker/pair/`. The worker sleeps on the eventfd as
//! `backend/src/worker/wakeups.rs` adds it: edge-triggered and never read.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::rc::Rc;

use loom::sync::Mutex;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Relaxed, Release};
use loom::thread;
use models::{EventFd, Plain, holds, loses_a_wakeup, races};

const MESSAGES: usize = 2;

enum Mail {
    /// To be read, no more.
    Kick,
    /// Answered when the ring is quiet.
    RingDown(Rc<EventFd>),
}

#[derive(Clone, Copy)]
struct Protocol {
    /// The flag is set before the eventfd is written.
    flag_first: bool,
    /// The flag is cleared before the queue is taken.
    clear_first: bool,
    /// The ring is let go before the answer.
    quiet_first: bool,
}

const PROTOCOL: Protocol = Protocol { flag_first: true, clear_first: true, quiet_first: true };

struct Mailbox {
    protocol: Protocol,
    queue: Mutex<VecDeque<Mail>>,
    flagged: AtomicBool,
    wake: EventFd,
}

impl Mailbox {
    fn put(&self, mail: Mail) {
        self.queue.lock().unwrap().push_back(mail);
        if !self.protocol.flag_first {
            self.wake.write();
        }
        self.flagged.store(true, Release);
        if self.protocol.flag_first {
            self.wake.write();
        }
    }

    fn take(&self) -> VecDeque<Mail> {
        if self.protocol.clear_first {
            self.flagged.store(false, Relaxed);
        }
        let mail = std::mem::take(&mut *self.queue.lock().unwrap());
        if !self.protocol.clear_first {
            self.flagged.store(false, Relaxed);
        }
        mail
    }
}

struct Worker {
    mailbox: Rc<Mailbox>,
    /// What the worker and its driver share, while the ring is started.
    ring: Option<Rc<Plain>>,
    unread: usize,
}

impl Worker {
    /// Awake at first. Ends when it has read all messages.
    fn run(mut self) {
        self.round();
        while self.unread > 0 {
            self.mailbox.wake.sleep();
            self.round();
        }
    }

    fn round(&mut self) {
        let mut late_answer = None;
        if self.mailbox.flagged.load(Relaxed) {
            for mail in self.mailbox.take() {
                self.unread -= 1;
                if let Mail::RingDown(answer) = mail {
                    if self.mailbox.protocol.quiet_first {
                        self.ring = None;
                    } else {
                        late_answer = self.ring.take();
                    }
                    answer.write();
                }
            }
        }
        if let Some(ring) = self.ring.iter().chain(&late_answer).next() {
            ring.write();
        }
    }
}

/// A worker, a thread that stops its ring and touches the ring's memory thereafter, and a thread with another message.
fn model(protocol: Protocol) -> impl Fn() + Send + Sync + 'static {
    move || {
        let queue = Mutex::default();
        let mailbox = Rc::new(Mailbox { protocol, queue, flagged: AtomicBool::new(false), wake: EventFd::new() });
        let ring = Rc::new(Plain::new());
        let worker = Worker { mailbox: mailbox.clone(), ring: Some(ring.clone()), unread: MESSAGES };
        let worker = thread::spawn(move || worker.run());
        let asker = thread::spawn({
            let mailbox = mailbox.clone();
            move || {
                let answer = Rc::new(EventFd::new());
                mailbox.put(Mail::RingDown(answer.clone()));
                answer.sleep();
                ring.write();
            }
        });
        mailbox.put(Mail::Kick);
        asker.join().unwrap();
        worker.join().unwrap();
    }
}

#[test]
fn every_message_is_read_and_a_ring_that_stopped_is_left_alone() {
    holds(model(PROTOCOL));
}

#[test]
fn the_flag_is_set_before_the_worker_is_woken() {
    loses_a_wakeup(model(Protocol { flag_first: false, ..PROTOCOL }));
}

#[test]
fn the_flag_is_cleared_before_the_messages_are_taken() {
    loses_a_wakeup(model(Protocol { clear_first: false, ..PROTOCOL }));
}

#[test]
fn the_ring_is_let_go_before_the_answer() {
    races(model(Protocol { quiet_first: false, ..PROTOCOL }));
}
