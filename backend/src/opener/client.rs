//! The way to the opener, in this process or in its own: a method for each thing that it opens.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::messages::{Answer, MAX_ANSWER, Place, Request, receive, send};
use super::service::{Opener, Reply};
use super::{OpenedTap, OpenedXdp, XdpProgram};

/// How long the opener may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why something is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenerError {
    /// The opener says why.
    #[error("{0}")]
    Refused(String),
    /// There is no opener any more.
    #[error("the process that opens what takes rights has ended or does not answer: start vnicd again")]
    Gone(#[source] io::Error),
    /// Something else was opened than what was asked for.
    #[error("the opener gave something else than it was asked for")]
    Other,
}

/// A way to ask the opener. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct Client(Arc<Way>);

#[derive(Debug)]
enum Way {
    Here(Box<Mutex<Opener>>),
    Process(Mutex<Option<OwnedFd>>, Pid),
}

/// A listening socket of ours. Its name is removed from the file system when it is dropped.
#[derive(Debug)]
pub struct Listening {
    /// The listener, non-blocking.
    pub listener: UnixListener,
    place: Place,
    client: Client,
}

/// How front ends come to a device.
#[derive(Debug)]
pub enum OpenedEntrance {
    /// To a socket of ours.
    Listening(Listening),
    /// To a socket that was passed. Non-blocking.
    Passed(UnixListener),
    /// The only one is there.
    Connected(UnixStream),
    /// They are to be connected to ([`Client::connect`]).
    Connects,
}

/// An open uplink.
#[derive(Debug)]
pub enum OpenedUplink {
    /// Queues of a TAP or of a macvtap interface.
    Tap(OpenedTap),
    /// Queues of an interface.
    Xdp(OpenedXdp),
}

/// Something was asked for, and may not have come.
type Result<T> = std::result::Result<T, OpenerError>;

impl Client {
    /// The way to an opener in this process, with the rights of this process.
    #[must_use]
    pub fn here(opener: Opener) -> Self {
        Self(Arc::new(Way::Here(Box::new(Mutex::new(opener)))))
    }

    pub(super) fn of_process(socket: OwnedFd, pid: Pid) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(Arc::new(Way::Process(Mutex::new(Some(socket)), pid))))
    }

    /// The control socket.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn control(&self) -> Result<Listening> {
        match self.ask(&Request::Control)? {
            (Answer::Listening, fds) => self.listening(Place::Control, fds),
            _ => Err(OpenerError::Other),
        }
    }

    /// The port for metrics, non-blocking.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn metrics(&self) -> Result<TcpListener> {
        self.ask(&Request::Metrics).and_then(|(_, fds)| one(fds)).map(TcpListener::from)
    }

    /// What front ends of a device come through.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn entrance(&self, device: &str) -> Result<OpenedEntrance> {
        Ok(match self.ask(&Request::Entrance(device.into()))? {
            (Answer::Listening, fds) => OpenedEntrance::Listening(self.listening(Place::Device(device.into()), fds)?),
            (Answer::Passed, fds) => OpenedEntrance::Passed(one(fds)?.into()),
            (Answer::Connected, fds) => OpenedEntrance::Connected(one(fds)?.into()),
            (Answer::Connects, _) => OpenedEntrance::Connects,
            _ => return Err(OpenerError::Other),
        })
    }

    /// A connection to a device's front end, which listens.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(&self, device: &str) -> Result<UnixStream> {
        self.ask(&Request::Connect(device.into())).and_then(|(_, fds)| one(fds)).map(UnixStream::from)
    }

    /// The uplink of a device.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn uplink(&self, device: &str) -> Result<OpenedUplink> {
        match self.ask(&Request::Uplink(device.into()))? {
            (Answer::Tap { name, multi_queue, existed, uso, guest_mac }, queues) => {
                Ok(OpenedUplink::Tap(OpenedTap { name, queues, multi_queue, existed, uso, guest_mac }))
            }
            (answer, fds) => xdp(answer, fds).map(OpenedUplink::Xdp).ok_or(OpenerError::Other),
        }
    }

    /// The file in which a device keeps its state, if it has one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn state(&self, device: &str) -> Result<Option<File>> {
        let (_, fds) = self.ask(&Request::State(device.into()))?;
        Ok(fds.into_iter().next().map(File::from))
    }

    /// Gives the interface of a device's uplink another MTU.
    ///
    /// # Errors
    /// When it has none of its own, or the kernel refuses.
    pub fn set_mtu(&self, device: &str, mtu: u16) -> Result<()> {
        self.ask(&Request::Mtu(device.into(), mtu)).map(drop)
    }

    /// Whether threads that serve a device can have its real-time priority, if it has one.
    ///
    /// # Errors
    /// When they cannot: what is missing.
    pub fn may_prioritize(&self, device: &str) -> Result<()> {
        self.ask(&Request::Realtime(device.into(), None)).map(drop)
    }

    /// Gives a thread of this process, which serves a device, that device's real-time priority.
    ///
    /// # Errors
    /// When it has none, or the kernel refuses.
    pub fn prioritize(&self, device: &str, thread: i32) -> Result<()> {
        self.ask(&Request::Realtime(device.into(), Some(thread))).map(drop)
    }

    /// The text of the configuration as it is now. From now on that is what is opened.
    ///
    /// # Errors
    /// When there is no file, or it makes no sense: then all stays as it was.
    pub fn reread(&self) -> Result<String> {
        let (_, fds) = self.ask(&Request::Reread)?;
        io::read_to_string(File::from(one(fds)?)).map_err(|_| OpenerError::Other)
    }

    fn listening(&self, place: Place, fds: Vec<OwnedFd>) -> Result<Listening> {
        Ok(Listening { listener: one(fds)?.into(), place, client: self.clone() })
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        let reply = match &*self.0 {
            Way::Here(opener) => opener.lock().unwrap_or_else(PoisonError::into_inner).answer(request),
            Way::Process(socket, _) => {
                let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
                let answer = socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into()).and_then(|socket| {
                    send(socket, request, &[])?;
                    receive(socket, MAX_ANSWER)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
                });
                answer.map_err(|e| {
                    // An answer that comes late would be taken for the next one.
                    *socket = None;
                    OpenerError::Gone(e)
                })?
            }
        };
        match reply {
            (Answer::Refused(reason), _) => Err(OpenerError::Refused(reason)),
            reply => Ok(reply),
        }
    }
}

impl Default for Client {
    /// The way to one that opens nothing.
    fn default() -> Self {
        Self::here(Opener::default())
    }
}

impl Drop for Way {
    /// The process ends when its socket closes.
    fn drop(&mut self) {
        if let Self::Process(socket, pid) = self {
            let socket = socket.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            // One that did not answer may not end either.
            if socket.map(drop).is_some() {
                let _ = waitpid(Some(*pid), WaitOptions::empty());
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.client.ask(&Request::Remove(self.place.clone()));
    }
}

/// The only descriptor of an answer.
fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd> {
    <[OwnedFd; 1]>::try_from(fds).map(|[fd]| fd).map_err(|_| OpenerError::Other)
}

fn xdp(answer: Answer, mut sockets: Vec<OwnedFd>) -> Option<OpenedXdp> {
    let Answer::Xdp { interface, mtu, busy_poll, program: terms, packets } = answer else { return None };
    let packets = if packets { Some(sockets.pop()?) } else { None };
    let program = match terms {
        Some(terms) => {
            let (rules, map, link) = (sockets.pop()?, sockets.pop()?, sockets.pop()?);
            let (is_generic, is_shared) = (terms.is_generic, terms.is_shared);
            Some(XdpProgram { link, sockets: map, rules, is_generic, is_shared })
        }
        None => None,
    };
    Some(OpenedXdp { interface, mtu, sockets, busy_poll, program, packets })
}
