//! The control socket's clients on the control thread's event loop.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use event_manager::{EventOps, Events, MutEventSubscriber};
use serde_json::Value;
use vmm_sys_util::epoll::EventSet;

use super::captures::Captures;
use super::client::{Client, Gone};
use super::door::Door;
use super::events::{self, SinceStart};
use super::methods::{Methods, Nothing, params};
use super::reloads::Reloads;
use super::rpc::{self, Request, RpcError};
use crate::nic::Nics;
use crate::opener::Listening;
use crate::worker::Listener;

/// Most clients at a time; more wait until one leaves, or take the place of one that does nothing.
const MAX_CLIENTS: usize = 64;
/// Most of them that listen to events: these stay, and others want to be let in, too.
const MAX_SUBSCRIBERS: usize = 32;

/// Serves the control socket on the control thread.
#[derive(Debug)]
pub struct ControlServer {
    door: Door,
    methods: Methods,
    start: SinceStart,
    listener: Listener,
    clients: HashMap<RawFd, Client>,
    captures: Captures,
}

impl ControlServer {
    /// Serves what comes to `listening`.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn new(listening: Listening, nics: Nics, reloads: Reloads, listener: Listener) -> io::Result<Self> {
        let start = SinceStart::now();
        let (door, methods) = (Door::new(listening)?, Methods::new(nics, reloads, start));
        Ok(Self { door, methods, start, listener, clients: HashMap::new(), captures: Captures::default() })
    }

    /// Lets everybody in who waits and for whom there is room.
    fn let_in(&mut self, ops: &mut EventOps) {
        loop {
            let idlest = if self.clients.len() < MAX_CLIENTS { None } else { self.idlest() };
            if self.clients.len() >= MAX_CLIENTS && idlest.is_none() {
                self.door.shut(ops);
                return;
            }
            match self.door.let_in() {
                Ok(Some(stream)) => {
                    if let Some(fd) = idlest {
                        let _ = ops.remove(Events::empty_raw(fd));
                        self.clients.remove(&fd);
                    }
                    self.add(stream, ops);
                }
                Ok(None) => return,
                Err(e) => {
                    tracing::warn!("a control client could not be let in: {e}");
                    self.door.shut(ops);
                    return;
                }
            }
        }
    }

    fn add(&mut self, stream: UnixStream, ops: &mut EventOps) {
        let fd = stream.as_raw_fd();
        if ops.add(Events::new_raw(fd, EventSet::IN)).is_ok() {
            self.clients.insert(fd, Client::new(stream));
        }
    }

    /// The client that leaves when another wants its place.
    fn idlest(&self) -> Option<RawFd> {
        let now = Instant::now();
        let may_leave = self.clients.iter().filter(|(_, client)| !self.captures.has(client));
        let idle = may_leave.filter_map(|(fd, client)| Some((client.idleness(now)?, *fd)));
        idle.max().map(|(_, fd)| fd)
    }

    /// Answers a request of a client, if it has one, and writes what it takes.
    fn serve(&mut self, fd: RawFd, has_hung_up: bool, ops: &mut EventOps) {
        let Some(mut client) = self.clients.remove(&fd) else { return };
        let wanted = if has_hung_up && client.is_finished() { Err(Gone) } else { self.advance(&mut client, ops) };
        self.put_back(fd, client, wanted, ops);
    }

    fn advance(&mut self, client: &mut Client, ops: &mut EventOps) -> Result<EventSet, Gone> {
        if let Some(line) = client.request()?
            && !line.trim_ascii().is_empty()
            && let Some(answer) = rpc::answer(&line, |request| match request.method.as_str() {
                "events" => self.subscribe(request, client, ops),
                "capture" => self.captures.start(&self.methods, request, client),
                _ => self.methods.call(request),
            })
        {
            client.put(&answer);
        }
        client.send()
    }

    /// Keeps a client that is still there.
    fn put_back(&mut self, fd: RawFd, client: Client, wanted: Result<EventSet, Gone>, ops: &mut EventOps) {
        if let Ok(events) = wanted {
            let _ = ops.modify(Events::new_raw(fd, events));
            self.clients.insert(fd, client);
            return;
        }
        let _ = ops.remove(Events::empty_raw(fd));
        self.captures.end(&self.methods, &client);
        if client.is_subscribed() && self.subscribers() == 0 {
            self.listener.listen(false);
        }
        drop(client);
        self.door.open(ops);
    }

    fn subscribers(&self) -> usize {
        self.clients.values().filter(|client| client.is_subscribed()).count()
    }

    /// Tells a client of changes of mode from now on. The answer tells the modes; no change after them is missed.
    fn subscribe(&mut self, request: &Request, client: &mut Client, ops: &mut EventOps) -> Result<Value, RpcError> {
        let Nothing {} = params(request)?;
        if !client.is_subscribed() {
            // What has happened so far is not for the new one.
            self.tell(ops);
            match self.subscribers() {
                MAX_SUBSCRIBERS.. => return Err(RpcError::too_many_listen(MAX_SUBSCRIBERS)),
                0 => self.listener.listen(true),
                _ => {}
            }
            client.subscribe();
        }
        Ok(self.methods.all_modes())
    }

    /// Tells subscribers what happened.
    fn tell(&mut self, ops: &mut EventOps) {
        let (lost, events) = self.listener.take();
        let lines: Vec<_> = events.map(|event| events::line(&event, self.start)).collect();
        let subscribers: Vec<_> = self.clients.iter().filter(|(_, c)| c.is_subscribed()).map(|(fd, _)| *fd).collect();
        for fd in subscribers {
            let Some(mut client) = self.clients.remove(&fd) else { continue };
            for line in &lines {
                if !client.has_room_for(line) {
                    // It may be about to read.
                    let _ = client.send();
                }
                client.tell(line);
            }
            client.lose(lost);
            let wanted = client.send();
            self.put_back(fd, client, wanted, ops);
        }
    }
}

impl MutEventSubscriber for ControlServer {
    fn init(&mut self, ops: &mut EventOps) {
        let listener = Events::new_raw(self.listener.as_fd().as_raw_fd(), EventSet::IN);
        if let Err(e) = self.door.watch(ops).and_then(|()| ops.add(listener)) {
            tracing::error!("the control socket cannot be served: {e}");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if self.door.is_mine(fd) {
            self.door.open(ops);
            self.let_in(ops);
        } else if fd == self.listener.as_fd().as_raw_fd() {
            self.tell(ops);
        } else {
            self.serve(fd, events.event_set().contains(EventSet::HANG_UP), ops);
        }
    }
}
