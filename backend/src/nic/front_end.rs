//! The front end that a NIC has, as far as others care, and what became of all that it had.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::SendFlags;
use serde::Serialize;

use crate::seldom::Seldom;
use crate::worker::{Counter, DeviceName, QueueId};

/// Who is connected, and what it has done so far.
#[derive(Clone, Debug, Default)]
pub struct FrontEnd {
    /// Its process.
    pub pid: i32,
    /// The features that its driver acknowledged.
    pub features: Option<u64>,
    /// Its rings that are started.
    pub started: Vec<QueueId>,
    /// Where it wants to be told of changes of the configuration space.
    pub config_channel: Option<Arc<UnixStream>>,
}

/// What became of the front ends of a device since the daemon started.
///
/// Each is counted by one thread at a time: the control thread, or that of the front end that is there.
#[derive(Debug, Default, Serialize)]
pub struct FrontEndCounters {
    /// Connections that were served.
    pub served: Counter,
    /// Connections that found another one there.
    pub turned_away: Counter,
    /// Messages that were refused without ending the connection.
    pub refused_messages: Counter,
    /// Connections that the daemon ended: for a message that makes no sense, or for time that passed.
    pub ended_for_fault: Counter,
}

/// What is counted and told of the front ends of a device.
#[derive(Debug, Default)]
pub struct FrontEnds {
    /// The counts.
    pub counters: Arc<FrontEndCounters>,
    /// Lines on those that come.
    pub(crate) arrivals: Seldom,
    /// On those that go.
    pub(crate) ends: Seldom,
    /// On what they do.
    pub(crate) news: Seldom,
    /// On what they do wrong.
    pub(crate) complaints: Seldom,
}

/// Sends `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`: request 2, version 1, no body.
pub(super) fn tell_config_change(device: DeviceName, channel: &UnixStream) {
    let words: [u32; 3] = [2, 1, 0];
    let message: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // A front end that does not read its channel is not waited for.
    if let Err(e) = rustix::net::send(channel, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        let e = std::io::Error::from(e);
        tracing::warn!(%device, "the front end cannot be told of a configuration change: {e}");
    }
}
