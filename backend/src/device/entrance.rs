//! How front ends come to a device: through a socket of its own, one that was passed, or a connection that is there.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use crate::config::DeviceOptions;
use crate::frontend::{Client, Server};
use crate::nic::Nic;
use crate::opener::{Client as Opener, Listening, OpenedEntrance, OpenerError};
use crate::worker::DeviceName;

/// Told when the daemon has nothing left to do.
pub type Ended = Rc<Cell<bool>>;

/// How long to leave a front end waiting that cannot be let in now, for want of file descriptors or memory.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// An open entrance, not yet served.
#[derive(Debug)]
pub(super) struct Entrance {
    opened: OpenedEntrance,
    opener: Opener,
    name: DeviceName,
    path: Option<PathBuf>,
}

/// A listening socket.
#[derive(Debug)]
enum Listener {
    /// Removed when the device ends.
    Opened(Listening),
    /// Somebody else's.
    Passed(UnixListener),
}

impl Entrance {
    pub(super) fn open(options: &DeviceOptions, opener: &Opener) -> Result<Self, OpenerError> {
        let opened = opener.entrance(options.name.as_str())?;
        Ok(Self { opened, opener: opener.clone(), name: options.name, path: options.socket_path.clone() })
    }

    /// Starts to let front ends in to `nic`.
    pub(super) fn serve(self, nic: Arc<Nic>, ended: Ended) -> io::Result<(Box<dyn MutEventSubscriber>, Host)> {
        let (device, path) = (self.name, self.path.unwrap_or_default().display().to_string());
        let listener = match self.opened {
            OpenedEntrance::Listening(listening) => {
                tracing::info!(%device, "listening on {path}");
                Listener::Opened(listening)
            }
            OpenedEntrance::Passed(listener) => {
                tracing::info!(%device, "listening on the socket that was passed");
                Listener::Passed(listener)
            }
            OpenedEntrance::Connected(stream) => {
                let mut server = Server::new(nic)?;
                server.offer(stream)?;
                let server = Rc::new(RefCell::new(server));
                return Ok((Box::new(OneConnection { server: server.clone(), ended }), Host::Server(server)));
            }
            OpenedEntrance::Connects => {
                let connect = Box::new(move || Ok(self.opener.connect(device.as_str())?));
                let client = Rc::new(Client::start(nic, path, connect)?);
                return Ok((Box::new(Visitor { _client: client.clone() }), Host::Client(client)));
            }
        };
        let server = Rc::new(RefCell::new(Server::new(nic)?));
        Ok((Box::new(Door { device, server: server.clone(), listener }), Host::Server(server)))
    }
}

/// Who serves the front ends of a device.
#[derive(Debug)]
pub(super) enum Host {
    Server(Rc<RefCell<Server>>),
    Client(Rc<Client>),
}

impl Host {
    /// Has the front end go, without waiting until it has.
    pub(super) fn part(&self) {
        match self {
            Self::Server(server) => server.borrow().part(),
            Self::Client(client) => client.part(),
        }
    }
}

/// Lets front ends in, one after another.
struct Door {
    device: DeviceName,
    server: Rc<RefCell<Server>>,
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
        watch(ops, self.server.borrow().ended().as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED);
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let mut server = self.server.borrow_mut();
        let is_reaped = events.fd() == server.ended().as_raw_fd();
        if let Err(e) = if is_reaped { server.reap() } else { server.accept_from(self.listener.get()) } {
            tracing::error!(device = %self.device, "a front end could not be let in: {e}");
            // It stays at the door, and the door would be reported open again at once: no spinning on it.
            std::thread::sleep(RETRY_INTERVAL);
        }
    }
}

/// Keeps the client that goes to the front ends; it has a thread of its own.
struct Visitor {
    _client: Rc<Client>,
}

impl MutEventSubscriber for Visitor {
    fn init(&mut self, _ops: &mut EventOps) {}

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}
}

/// Serves one connection that was there at the start, and ends the daemon with it.
struct OneConnection {
    server: Rc<RefCell<Server>>,
    ended: Ended,
}

impl MutEventSubscriber for OneConnection {
    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.server.borrow().ended().as_raw_fd(), EventSet::IN);
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
