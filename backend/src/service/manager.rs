//! The service manager on the control thread's event loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use sd_notify::NotifyState;
use vmm_sys_util::epoll::EventSet;

use super::Notifier;
use super::watchdog::Watchdog;
use crate::nic::{Nic, Nics};

/// Tells the service manager that the daemon is ready, how many front ends it has, and whether its workers go on.
#[derive(Debug)]
pub struct Manager {
    notifier: Notifier,
    nics: Nics,
    /// Written when a device or a front end comes or goes.
    changed: Arc<OwnedFd>,
    /// Only where the service manager wants to know.
    watch: Option<(OwnedFd, Watchdog)>,
    status: String,
}

impl Manager {
    /// Tells `notifier` that the daemon is ready, and of `nics` whenever `changed`, an eventfd, says that there is news.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn ready(notifier: Notifier, nics: Nics, changed: Arc<OwnedFd>) -> io::Result<Self> {
        let watch = match sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) {
            Some(interval) => Some((timer(interval / 2)?, Watchdog::default())),
            None => None,
        };
        let status = status(&nics.all());
        let _ = notifier.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        Ok(Self { notifier, nics, changed, watch, status })
    }

    fn tell_status(&mut self) {
        // What it read changes with the next one that comes or goes.
        let _ = rustix::io::read(&*self.changed, &mut [0; 8]);
        let status = status(&self.nics.all());
        if status != self.status && self.notifier.tell(&[NotifyState::Status(&status)]) {
            self.status = status;
        }
    }

    fn check(&mut self) {
        let Some((timer, watchdog)) = &mut self.watch else { return };
        let _ = rustix::io::read(&*timer, &mut [0; 8]);
        let threads: Vec<_> =
            self.nics.all().iter().flat_map(|nic| nic.lanes()).flat_map(|lane| lane.threads()).collect();
        if watchdog.check(&threads) {
            let _ = self.notifier.tell(&[NotifyState::Watchdog]);
        }
    }
}

impl MutEventSubscriber for Manager {
    fn init(&mut self, ops: &mut EventOps) {
        let timer = self.watch.iter().map(|(timer, _)| timer.as_fd());
        for fd in timer.chain([self.changed.as_fd()]) {
            if let Err(e) = ops.add(Events::new_raw(fd.as_raw_fd(), EventSet::IN)) {
                tracing::error!("the service manager will learn no more: {e}");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.changed.as_raw_fd() {
            self.tell_status();
        } else {
            self.check();
        }
    }
}

/// What `systemctl status` shows.
fn status(nics: &[Arc<Nic>]) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let front_ends = nics.iter().filter(|nic| nic.front_end().is_some()).count();
    format!("{}, {} connected", count(nics.len(), "device"), count(front_ends, "front end"))
}

/// A timer that goes off every `interval`.
fn timer(interval: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let interval = Timespec::try_from(interval).map_err(io::Error::other)?;
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: interval, it_value: interval })?;
    Ok(timer)
}
