//! Captures: who copies what which lanes move. Each belongs to a connection, and ends with it.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::Client;
use super::methods::{Methods, lanes, params};
use super::{Request, RpcError, Target};
use crate::capture::{self, FORMAT, MAX_RINGS, MAX_SNAPLEN, Recorder};
use crate::nic::Lane;
use crate::worker::QueueId;

/// Most captures at a time.
const MAX_CAPTURES: usize = 8;

/// What comes with the memory of a capture.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct CaptureStart {
    /// The version of what is in the memory: see [`FORMAT`].
    pub format: u32,
    /// Bytes of each ring.
    pub ring_size: usize,
    /// The lanes, in the order of their rings.
    pub lanes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    target: Target,
    #[serde(default = "whole_frames")]
    snaplen: usize,
}

fn whole_frames() -> usize {
    MAX_SNAPLEN
}

/// The captures that run.
#[derive(Debug, Default)]
pub(super) struct Captures(Vec<Capture>);

#[derive(Debug)]
struct Capture {
    client: RawFd,
    pid: i32,
    lanes: Vec<QueueId>,
}

impl Captures {
    /// Starts a capture for a client, which is passed its memory with the answer.
    pub(super) fn start(
        &mut self,
        methods: &Methods,
        request: &Request,
        client: &mut Client,
    ) -> Result<Value, RpcError> {
        let Params { target, snaplen } = params(request)?;
        let nics = methods.nics();
        let lanes = lanes(&target, &nics)?;
        self.check(client, request, &lanes, snaplen)?;
        let (file, rings) = capture::create(lanes.len()).map_err(RpcError::no_memory_to_capture)?;
        for (at, (lane, ring)) in lanes.iter().zip(rings).enumerate() {
            if let Err(e) = lane.capture(Some(Box::new(Recorder::new(ring, snaplen)))) {
                lanes[..=at].iter().for_each(|lane| end(lane));
                return Err(RpcError::cannot_capture(format!("{}: {e}", lane.id)));
            }
        }
        let pid = client.pid();
        tracing::info!(%target, pid, "a capture begins");
        self.0.push(Capture { client: client.id(), pid, lanes: lanes.iter().map(|lane| lane.id).collect() });
        client.pass(file.into());
        let lanes: Vec<_> = lanes.iter().map(|lane| lane.id.to_string()).collect();
        Ok(json!(CaptureStart { format: FORMAT, ring_size: capture::ring_size(lanes.len()), lanes }))
    }

    fn check(&self, client: &Client, request: &Request, lanes: &[&Lane], snaplen: usize) -> Result<(), RpcError> {
        if !(1..=MAX_SNAPLEN).contains(&snaplen) {
            return Err(RpcError::invalid_params(format!("snaplen {snaplen} is not 1 to {MAX_SNAPLEN} bytes")));
        }
        if request.id.is_none() {
            return Err(RpcError::invalid_params("capture needs an id: its memory comes with the answer"));
        }
        if lanes.len() > MAX_RINGS {
            let count = lanes.len();
            return Err(RpcError::cannot_capture(format!(
                "{count} queues are too many for a capture, which has {MAX_RINGS} at most: name a device"
            )));
        }
        for capture in &self.0 {
            let pid = capture.pid;
            if capture.client == client.id() {
                return Err(RpcError::cannot_capture("this connection captures already: open another"));
            }
            if let Some(lane) = lanes.iter().find(|lane| capture.lanes.contains(&lane.id)) {
                let id = lane.id;
                return Err(RpcError::cannot_capture(format!(
                    "{id} is captured by process {pid} already, and can be by one at a time: end that one first"
                )));
            }
        }
        if self.0.len() >= MAX_CAPTURES {
            let pids: Vec<_> = self.0.iter().map(|capture| capture.pid.to_string()).collect();
            return Err(RpcError::cannot_capture(format!(
                "{MAX_CAPTURES} captures run already, and no more can: end one of the processes {}",
                pids.join(", ")
            )));
        }
        Ok(())
    }

    /// Whether a client has a capture.
    pub(super) fn has(&self, client: &Client) -> bool {
        self.0.iter().any(|capture| capture.client == client.id())
    }

    /// Ends the capture of a client that goes, if it has one.
    pub(super) fn end(&mut self, methods: &Methods, client: &Client) {
        let Some(at) = self.0.iter().position(|capture| capture.client == client.id()) else { return };
        let Capture { pid, lanes, .. } = self.0.swap_remove(at);
        let nics = methods.nics();
        nics.iter().flat_map(|nic| nic.lanes()).filter(|lane| lanes.contains(&lane.id)).for_each(end);
        tracing::info!(pid, "a capture ends");
    }
}

fn end(lane: &Lane) {
    if let Err(e) = lane.capture(None) {
        tracing::warn!(queue = %lane.id, "the capture goes on until the worker answers: {e}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::control::testing::nic;
    use crate::control::{Reloads, SinceStart};
    use crate::worker::{Direction, Threads};

    fn client() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(ours), theirs)
    }

    fn request(params: Value) -> Request {
        Request { jsonrpc: "2.0".into(), method: "capture".into(), params, id: Some(1.into()) }
    }

    #[test]
    fn a_lane_is_captured_by_one_at_a_time_until_that_one_goes() {
        let nics = [nic("vm1", 2, Threads::PerPair), nic("vm2", 1, Threads::PerDirection)];
        // One that runs is told; the others begin so.
        nics[0].start_worker(nics[0].lanes()[0].id.with(Direction::Rx)).unwrap();
        let methods = Methods::new(nics.into_iter().collect(), Reloads::default(), SinceStart::now());
        let mut captures = Captures::default();
        let (mut a, _a) = client();
        let (mut b, _b) = client();
        let started = captures.start(&methods, &request(json!({ "target": "vm1" })), &mut a).unwrap();
        let started: CaptureStart = serde_json::from_value(started).unwrap();
        assert_eq!((started.format, started.lanes), (FORMAT, vec!["vm1/0".into(), "vm1/1".into()]));
        assert!(captures.has(&a) && !captures.has(&b));

        let pid = std::process::id();
        for (params, part) in [
            (json!({}), format!("vm1/0 is captured by process {pid} already")),
            (json!({ "target": "vm1/1" }), format!("vm1/1 is captured by process {pid} already")),
            (json!({ "target": "vm3" }), "no device 'vm3'".into()),
            (json!({ "target": "vm2", "snaplen": 0 }), "snaplen 0 is not 1 to 65553".into()),
            (json!({ "target": "vm2", "snaplen": 70000 }), "snaplen 70000 is not".into()),
            (json!({ "device": "vm2" }), "unknown field `device`".into()),
        ] {
            let error = captures.start(&methods, &request(params.clone()), &mut b).unwrap_err();
            assert!(error.message.contains(&part), "{params}: {error:?}");
        }
        let again = captures.start(&methods, &request(json!({ "target": "vm2" })), &mut a).unwrap_err();
        assert!(again.message.starts_with("this connection captures already"), "{again:?}");
        let unanswered = Request { id: None, ..request(json!({ "target": "vm2" })) };
        assert!(captures.start(&methods, &unanswered, &mut b).unwrap_err().message.contains("needs an id"));

        let other = captures.start(&methods, &request(json!({ "target": "vm2" })), &mut b).unwrap();
        assert_eq!(other["lanes"], json!(["vm2/0/rx", "vm2/0/tx"]));
        captures.end(&methods, &a);
        captures.end(&methods, &b);
        captures.start(&methods, &request(Value::Null), &mut b).unwrap();
    }

    #[test]
    fn captures_are_few() {
        let devices = (0..9).map(|n| nic(&format!("vm{n}"), 1, Threads::PerPair)).collect();
        let methods = Methods::new(devices, Reloads::default(), SinceStart::now());
        let mut captures = Captures::default();
        let mut clients: Vec<_> = (0..9).map(|_| client()).collect();
        for (n, (client, _)) in clients.iter_mut().enumerate() {
            let started = captures.start(&methods, &request(json!({ "target": format!("vm{n}") })), client);
            assert_eq!(started.is_ok(), n < MAX_CAPTURES, "{n}: {started:?}");
        }
        let devices = (0..9).map(|n| nic(&format!("many{n}"), 32, Threads::PerPair)).collect();
        let many = Methods::new(devices, Reloads::default(), SinceStart::now());
        let refused = Captures::default().start(&many, &request(Value::Null), &mut clients[0].0).unwrap_err();
        assert!(refused.message.starts_with("288 queues are too many"), "{refused:?}");
    }
}
