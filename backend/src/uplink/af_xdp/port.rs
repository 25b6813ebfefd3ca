//! What the two halves of a queue share, and what outlives its socket: when an interface goes and comes back, both
//! halves find a new one here.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::groups::Groups;
use super::rx::RxRings;
use super::socket::Bound;
use super::steering::XdpSteering;
use super::tx::TxRings;
use super::{XdpError, XdpSocket};

/// When a queue that took no more frames is tried again. The kernel tells of room in some cases only.
const RETRY_INTERVAL: Duration = Duration::from_micros(100);

/// A queue of an interface.
#[derive(Debug)]
pub struct XdpPort {
    queue: u32,
    /// Readable while a frame waits, whatever socket it waits in.
    frames: OwnedFd,
    /// Readable when it is time to try again to send.
    room: OwnedFd,
    has_new_tx: AtomicBool,
    has_new_rx: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    new_tx: Option<TxRings>,
    new_rx: Option<RxRings>,
    socket: Option<Arc<Bound>>,
    steering: Option<Arc<XdpSteering>>,
    /// How many are using the queue now.
    users: u32,
    /// Whoever receives looks all the time.
    is_polled: bool,
}

impl XdpPort {
    pub(super) fn new(queue: u32) -> io::Result<Self> {
        Ok(Self {
            queue,
            frames: epoll::create(CreateFlags::CLOEXEC)?,
            room: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
            has_new_tx: AtomicBool::new(false),
            has_new_rx: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// Gives the queue a socket in the place of the one before, if there was one, and says what was got.
    /// `takes_groups` says whether the queue gives the guest the frames to groups that come another way.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect(
        &self,
        socket: XdpSocket,
        steering: Option<Arc<XdpSteering>>,
        takes_groups: bool,
    ) -> Result<String, XdpError> {
        let queue = self.queue;
        let kernel = |what| move |source| XdpError::Kernel { queue, what, source };
        let (socket, tx, mut rx) = socket.bind()?;
        rx.groups = steering.as_ref().filter(|_| takes_groups).and_then(Groups::of);
        let mut state = self.lock();
        let watched = [Some(socket.as_fd()).filter(|_| !state.is_polled), rx.groups.as_ref().and_then(Groups::socket)];
        watched.into_iter().flatten().try_for_each(|fd| self.watch(fd)).map_err(kernel("watch"))?;
        if state.users > 0
            && let Some(steering) = &steering
        {
            steering.admit(queue, socket.as_fd()).map_err(kernel("steer frames to"))?;
        }
        let shown = socket.to_string();
        state.new_tx = Some(tx);
        state.new_rx = Some(rx);
        state.socket = Some(socket);
        state.steering = steering;
        self.has_new_tx.store(true, Ordering::Release);
        self.has_new_rx.store(true, Ordering::Release);
        Ok(shown)
    }

    /// Has frames that wait in `socket` make the port readable.
    fn watch(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.frames, socket, EventData::new_u64(0), EventFlags::IN)?)
    }

    /// Notes whether whoever receives looks all the time. The kernel tells an epoll of every frame that was sent, too,
    /// whether anybody sleeps there or not: so nobody listens while nobody sleeps.
    pub(super) fn set_polled(&self, is_polled: bool) -> io::Result<()> {
        let mut state = self.lock();
        if state.is_polled != is_polled
            && let Some(socket) = &state.socket
        {
            if is_polled {
                epoll::delete(&self.frames, socket.as_fd())?;
            } else {
                self.watch(socket.as_fd())?;
            }
        }
        state.is_polled = is_polled;
        Ok(())
    }

    /// One more or one less uses the queue: frames come to its socket while anybody does.
    pub(super) fn count_user(&self, comes: bool) -> io::Result<()> {
        let mut state = self.lock();
        let users = if comes { state.users + 1 } else { state.users.saturating_sub(1) };
        if let (Some(steering), Some(socket)) = (&state.steering, &state.socket) {
            match (state.users, users) {
                (0, 1) => steering.admit(self.queue, socket.as_fd())?,
                (1, 0) => steering.dismiss(self.queue),
                _ => {}
            }
        }
        state.users = users;
        Ok(())
    }

    /// The new half of a new socket.
    #[inline]
    pub(super) fn new_tx(&self) -> Option<TxRings> {
        // Looked at before it is changed: a burst costs no more than that.
        let is_new = self.has_new_tx.load(Ordering::Relaxed) && self.has_new_tx.swap(false, Ordering::Acquire);
        if is_new { self.lock().new_tx.take() } else { None }
    }

    /// The same for the half that receives.
    #[inline]
    pub(super) fn new_rx(&self) -> Option<RxRings> {
        let is_new = self.has_new_rx.load(Ordering::Relaxed) && self.has_new_rx.swap(false, Ordering::Acquire);
        if is_new { self.lock().new_rx.take() } else { None }
    }

    /// Readable while a frame waits.
    pub(super) fn frames_fd(&self) -> BorrowedFd<'_> {
        self.frames.as_fd()
    }

    /// Readable when it is time to try again to send.
    pub(in crate::uplink) fn room_fd(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// Makes [`XdpPort::room_fd`] readable a little later, and unreadable until then.
    pub(super) fn retry_soon(&self) {
        let later = Timespec { tv_sec: 0, tv_nsec: RETRY_INTERVAL.as_nanos() as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: later };
        // It fails for nonsense only.
        let _ = timerfd_settime(&self.room, TimerfdTimerFlags::empty(), &once);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
