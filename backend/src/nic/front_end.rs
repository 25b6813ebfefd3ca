//! The front end that a NIC has, as far as others care.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::SendFlags;

use crate::worker::QueueId;

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

/// Sends `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`: request 2, version 1, no body.
pub(super) fn tell_config_change(channel: &UnixStream) {
    let words: [u32; 3] = [2, 1, 0];
    let message: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // A front end that does not read its channel is not waited for.
    if let Err(e) = rustix::net::send(channel, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        tracing::warn!("the front end cannot be told of a configuration change: {}", std::io::Error::from(e));
    }
}
