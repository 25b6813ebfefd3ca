//! How front ends come to a device: through a socket of its own, one that was passed, or a connection that is there.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use crate::config::DeviceOptions;
use crate::frontend::{Client, Server};
use crate::nic::Nic;
use crate::opener::{self, Adopted, ListenRequest, Listening};

/// Told when the daemon has nothing left to do.
pub type Ended = Rc<Cell<bool>>;

/// How long to leave a front end waiting that cannot be let in now, for want of file descriptors or memory.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// An open entrance, not yet served.
#[derive(Debug)]
pub(super) enum Entrance {
    /// Front ends connect to a socket.
    Listening(Listener),
    /// The only front end is there.
    Connected(UnixStream),
    /// Front ends listen at a socket of theirs.
    Client(PathBuf),
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    /// Removed when the device ends.
    Opened(Listening),
    /// Somebody else's.
    Passed(UnixListener),
}

impl Entrance {
    pub(super) fn open(options: &DeviceOptions) -> Result<Self, Box<dyn Error>> {
        if let Some(fd) = options.fd {
            return Ok(match opener::adopt(fd)? {
                Adopted::Connected(stream) => Self::Connected(stream),
                Adopted::Listening(listener) => Self::Listening(Listener::Passed(listener)),
            });
        }
        if options.client {
            let path = options.socket_path.clone().unwrap_or_default();
            opener::check_path(&path)?;
            return Ok(Self::Client(path));
        }
        let listening = opener::listen(&ListenRequest {
            path: options.socket_path.clone().unwrap_or_default(),
            mode: options.socket_mode.map(|mode| mode.0),
            group: options.socket_group.map(|group| group.0),
        })?;
        Ok(Self::Listening(Listener::Opened(listening)))
    }

    /// Starts to let front ends in to `nic`.
    pub(super) fn serve(self, nic: Arc<Nic>, ended: Ended) -> io::Result<Box<dyn MutEventSubscriber>> {
        Ok(match self {
            Self::Listening(listener) => {
                match &listener {
                    Listener::Opened(listening) => tracing::info!("listening on {}", listening.path().display()),
                    Listener::Passed(_) => tracing::info!("listening on the socket that was passed"),
                }
                Box::new(Door { server: Server::new(nic)?, listener })
            }
            Self::Connected(stream) => {
                let mut server = Server::new(nic)?;
                server.offer(stream)?;
                Box::new(OneConnection { server, ended })
            }
            Self::Client(path) => Box::new(Visitor { _client: Client::start(nic, path)? }),
        })
    }
}

/// Lets front ends in, one after another.
struct Door {
    server: Server,
    listener: Listener,
}

impl Listener {
    fn get(&self) -> &UnixListener {
        match self {
            Self::Opened(listening) => &listening.listener,
            Self::Passed(listener) => listener,
        }
    }
}

impl MutEventSubscriber for Door {
    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.listener.get().as_raw_fd(), EventSet::IN);
        watch(ops, self.server.ended().as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED);
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.server.ended().as_raw_fd() {
            self.server.reap();
        } else if let Err(e) = self.server.accept_from(self.listener.get()) {
            tracing::error!("a front end could not be let in: {e}");
            // It stays at the door, and the door would be reported open again at once: no spinning on it.
            std::thread::sleep(RETRY_INTERVAL);
        }
    }
}

/// Keeps the client that goes to the front ends; it has a thread of its own.
struct Visitor {
    _client: Client,
}

impl MutEventSubscriber for Visitor {
    fn init(&mut self, _ops: &mut EventOps) {}

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}
}

/// Serves one connection that was there at the start, and ends the daemon with it.
struct OneConnection {
    server: Server,
    ended: Ended,
}

impl MutEventSubscriber for OneConnection {
    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.server.ended().as_raw_fd(), EventSet::IN);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.ended.set(true);
    }
}

fn watch(ops: &mut EventOps, fd: RawFd, events: EventSet) {
    if let Err(e) = ops.add(Events::new_raw(fd, events)) {
        tracing::error!("cannot wait for events: {e}");
    }
}
