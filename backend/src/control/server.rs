//! Clients of the control socket, each with what it has sent and not yet read.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use serde_json::Value;
use vmm_sys_util::epoll::EventSet;

use super::rpc::{self, Request, RpcError};
use super::status::Status;
use crate::nic::Nic;
use crate::opener::Listening;
use crate::worker::Listener;

/// Longest request in bytes.
const MAX_REQUEST: usize = 64 << 10;
/// Most clients at a time; more wait until one leaves.
const MAX_CLIENTS: usize = 64;
/// How long to leave a client waiting that cannot be let in now.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Most bytes of answers kept for a client that does not read them.
const MAX_UNREAD: usize = 4 << 20;

/// Serves the control socket on the control thread.
#[derive(Debug)]
pub struct ControlServer {
    listening: Listening,
    devices: Vec<Arc<Nic>>,
    #[expect(dead_code, reason = "events are not asked for yet")]
    listener: Listener,
    clients: HashMap<RawFd, Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Nothing more will be sent by it; it goes when it has read its answers.
    finished: bool,
}

/// What to do about a client now.
enum Next {
    Read,
    Write,
    Drop,
}

impl ControlServer {
    /// Serves what comes to `listening`.
    #[must_use]
    pub fn new(listening: Listening, devices: Vec<Arc<Nic>>, listener: Listener) -> Self {
        Self { listening, devices, listener, clients: HashMap::new() }
    }

    fn accept(&mut self, ops: &mut EventOps) {
        while self.clients.len() < MAX_CLIENTS {
            match self.listening.listener.accept() {
                Ok((stream, _)) => {
                    let fd = stream.as_raw_fd();
                    if stream.set_nonblocking(true).is_ok() && ops.add(Events::new_raw(fd, EventSet::IN)).is_ok() {
                        let client = Client { stream, input: Vec::new(), output: Vec::new(), finished: false };
                        self.clients.insert(fd, client);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => {
                    tracing::warn!("a control client could not be let in: {e}");
                    std::thread::sleep(RETRY_INTERVAL);
                    return;
                }
            }
        }
        // Full: the listener leaves the set, or it would be reported for ever.
        let _ = ops.remove(Events::empty_raw(self.listening.listener.as_raw_fd()));
    }

    fn serve(&mut self, fd: RawFd, ops: &mut EventOps) {
        let devices = &self.devices;
        let Some(client) = self.clients.get_mut(&fd) else { return };
        let events = match client.advance(|request| methods(devices, request)) {
            Next::Read => EventSet::IN,
            Next::Write => EventSet::OUT,
            Next::Drop => {
                let _ = ops.remove(Events::empty_raw(fd));
                if self.clients.len() == MAX_CLIENTS {
                    let listener = self.listening.listener.as_raw_fd();
                    let _ = ops.add(Events::new_raw(listener, EventSet::IN));
                }
                self.clients.remove(&fd);
                return;
            }
        };
        let _ = ops.modify(Events::new_raw(fd, events));
    }
}

fn methods(devices: &[Arc<Nic>], request: &Request) -> Result<Value, RpcError> {
    match request.method.as_str() {
        "status" => {
            let devices: Vec<_> = devices.iter().map(AsRef::as_ref).collect();
            Ok(serde_json::to_value(Status::of(&devices)).unwrap_or(Value::Null))
        }
        other => Err(RpcError::unknown_method(other)),
    }
}

impl Client {
    /// Reads what has come, answers whole lines, and writes what can be written.
    fn advance(&mut self, mut methods: impl FnMut(&Request) -> Result<Value, RpcError>) -> Next {
        if self.output.is_empty() && !self.finished {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.finished = true,
                Ok(n) => self.input.extend(&bytes[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return Next::Drop,
            }
        }
        while let Some(end) = self.input.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            if !line.trim_ascii().is_empty()
                && let Some(answer) = rpc::answer(&line, &mut methods)
            {
                self.output.extend(answer.as_bytes());
            }
        }
        if self.input.len() > MAX_REQUEST {
            self.output.extend(rpc::failure(&Value::Null, &RpcError::too_long(MAX_REQUEST)).as_bytes());
            self.input.clear();
            self.finished = true;
        }
        self.write()
    }

    fn write(&mut self) -> Next {
        match self.stream.write(&self.output) {
            _ if self.output.is_empty() => {}
            Ok(n) => drop(self.output.drain(..n)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Next::Drop,
        }
        match (self.output.len(), self.finished) {
            (0, true) => Next::Drop,
            (0, false) => Next::Read,
            (n, _) if n > MAX_UNREAD => Next::Drop,
            _ => Next::Write,
        }
    }
}

impl MutEventSubscriber for ControlServer {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(&self.listening.listener, EventSet::IN)) {
            tracing::error!("the control socket cannot be served: {e}");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.listening.listener.as_raw_fd() {
            self.accept(ops);
        } else {
            self.serve(events.fd(), ops);
        }
    }
}
