//! Lets clients in, serves them on the control thread, and drops those that take too long.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use vmm_sys_util::epoll::EventSet;

use super::client::{Client, Next};
use super::expose::expose;
use super::views::Viewer;
use crate::nic::Nics;

/// Most clients at a time. The oldest makes room for the next: whoever scrapes is done long before that.
const MAX_CLIENTS: usize = 16;
/// How often clients are looked at that may be late, in seconds.
const TICK_S: i64 = 1;

/// Serves metrics on the control thread.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    /// Whether new clients are waited for.
    listens: bool,
    /// Runs while there is a client, or none can be let in.
    timer: OwnedFd,
    ticking: bool,
    /// The oldest first.
    clients: VecDeque<Client>,
    viewer: Viewer,
}

impl MetricsServer {
    /// Serves what comes to `listener`, which does not block.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn new(listener: TcpListener, nics: Nics) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let (clients, viewer) = (VecDeque::new(), Viewer::new(nics));
        Ok(Self { listener, listens: true, timer, ticking: false, clients, viewer })
    }

    /// Lets some in; others have their turn in between.
    fn accept(&mut self, ops: &mut EventOps) {
        for _ in 0..MAX_CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if self.clients.len() == MAX_CLIENTS {
                        self.remove(0, ops);
                    }
                    if let Ok(client) = Client::new(stream, Instant::now())
                        && ops.add(Events::new_raw(client.fd(), EventSet::IN)).is_ok()
                    {
                        self.clients.push_back(client);
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => {
                    tracing::warn!("a metrics client could not be let in: {e}");
                    // Until the next tick, or it would be reported for ever.
                    self.listens = ops.remove(Events::empty(&self.listener)).is_err();
                    return;
                }
            }
        }
    }

    fn serve(&mut self, fd: RawFd, ops: &mut EventOps) {
        let Some(at) = self.clients.iter().position(|client| client.fd() == fd) else { return };
        let events = match self.clients[at].advance(|| expose(&self.viewer.look())) {
            Next::Read => EventSet::IN,
            Next::Write => EventSet::OUT,
            Next::Drop => return self.remove(at, ops),
        };
        let _ = ops.modify(Events::new_raw(fd, events));
    }

    fn remove(&mut self, at: usize, ops: &mut EventOps) {
        if let Some(client) = self.clients.remove(at) {
            let _ = ops.remove(Events::empty_raw(client.fd()));
        }
    }

    fn tick(&mut self, ops: &mut EventOps) {
        // How often it ran does not matter.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        let now = Instant::now();
        while self.clients.front().is_some_and(|client| client.is_late(now)) {
            self.remove(0, ops);
        }
        if !self.listens {
            self.listens = ops.add(Events::new(&self.listener, EventSet::IN)).is_ok();
        }
    }

    /// Starts or stops the timer: an idle daemon is not woken.
    fn set_timer(&mut self) {
        let needed = !self.clients.is_empty() || !self.listens;
        if self.ticking == needed {
            return;
        }
        let every = Timespec { tv_sec: if needed { TICK_S } else { 0 }, tv_nsec: 0 };
        let times = Itimerspec { it_interval: every, it_value: every };
        match rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times) {
            Ok(_) => self.ticking = needed,
            Err(e) => tracing::warn!("late metrics clients will not be noticed: {e}"),
        }
    }
}

impl MutEventSubscriber for MetricsServer {
    fn init(&mut self, ops: &mut EventOps) {
        for events in [Events::new(&self.listener, EventSet::IN), Events::new(&self.timer, EventSet::IN)] {
            if let Err(e) = ops.add(events) {
                tracing::error!("metrics cannot be served: {e}");
            }
        }
        if let Ok(address) = self.listener.local_addr() {
            tracing::info!("metrics on http://{address}/metrics");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.listener.as_raw_fd() {
            self.accept(ops);
        } else if fd == self.timer.as_raw_fd() {
            self.tick(ops);
        } else {
            self.serve(fd, ops);
        }
        self.set_timer();
    }
}
