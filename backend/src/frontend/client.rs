//! The other way round: the front end listens, and vnicd connects to it, again and again.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::connection::{end, hang_up, join, serve};
use crate::nic::Nic;

/// How long to wait before the second try.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How long to wait between tries at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Connects to a front end that listens, if one does.
pub type Connect = Box<dyn Fn() -> Result<UnixStream, Box<dyn Error>> + Send + Sync>;

/// Connects to a front end and serves it; when it goes, connects to the next. Ends when dropped.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    nic: Arc<Nic>,
    /// Where front ends listen, in words.
    place: String,
    connect: Connect,
    /// The connection that is served, and whether the client is to end.
    state: Mutex<State>,
    /// Written to end a pause.
    wake: OwnedFd,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("place", &self.place).field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    connection: Option<UnixStream>,
    ending: bool,
}

impl Client {
    /// Starts to look for a front end that listens at `place`, to which `connect` connects.
    ///
    /// # Errors
    /// When the kernel gives no thread or eventfd.
    pub fn start(nic: Arc<Nic>, place: String, connect: Connect) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { nic, place, connect, state: Mutex::default(), wake });
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new().name("front-end".into()).spawn(move || shared.run())?
        };
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has the front end go, if there is one, and looks for no other, without waiting until it has: the client's end does.
    pub fn part(&self) {
        let mut state = self.shared.lock();
        state.ending = true;
        if let Some(stream) = &state.connection {
            hang_up(stream);
        }
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.part();
        let connection = self.shared.lock().connection.take();
        match (connection, self.thread.take()) {
            (Some(connection), Some(thread)) => end(&connection, thread),
            (None, Some(thread)) => join(thread),
            (_, None) => {}
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            match (self.connect)() {
                Ok(stream) => {
                    told = false;
                    let Some(had_rings) = self.serve(&stream) else { return };
                    // One that hangs up at once is no better than one that is not there.
                    if had_rings {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(e) if !told => {
                    told = true;
                    let device = self.nic.name();
                    tracing::info!(%device, "no front end listens at {} yet ({e}); trying on", self.place);
                }
                Err(_) => {}
            }
            if self.ends_within(pause) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves a connection to its end. Says whether it had rings; nothing if no other is to be looked for.
    fn serve(&self, stream: &UnixStream) -> Option<bool> {
        {
            let mut state = self.lock();
            if state.ending {
                return None;
            }
            state.connection = stream.try_clone().ok();
        }
        let had_rings = serve(stream, self.nic.clone(), &AtomicBool::default());
        let mut state = self.lock();
        state.connection = None;
        (!state.ending).then_some(had_rings)
    }

    /// Waits, and says whether the client is to end.
    fn ends_within(&self, pause: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(pause).ok();
        // Whether it woke by time or by hand, the state tells.
        let _ = poll(&mut fds, timeout.as_ref());
        self.lock().ending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
