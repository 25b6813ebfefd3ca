//! From an uplink in words to its open queues.

use std::error::Error;

use crate::config::{DeviceOptions, UplinkSpec};
use crate::offload::Offloads;
use crate::opener::{self, TapRequest};
use crate::uplink::{self, Rx, Tx};

/// An open uplink.
pub(super) struct Uplink {
    /// What it is, in words.
    pub(super) description: String,
    /// The halves of each queue.
    pub(super) queues: Vec<(Tx, Rx)>,
    /// What it takes and gives.
    pub(super) offloads: Offloads,
}

/// Opens the uplink of a device.
pub(super) fn open(options: &DeviceOptions) -> Result<Uplink, Box<dyn Error>> {
    match &options.uplink {
        UplinkSpec::Tap { name, bridge } => open_tap(options, name, bridge.as_deref()),
    }
}

fn open_tap(options: &DeviceOptions, name: &str, bridge: Option<&str>) -> Result<Uplink, Box<dyn Error>> {
    let request = TapRequest { name: name.to_owned(), bridge: bridge.map(str::to_owned), queues: options.queue_pairs };
    let tap = opener::open_tap(&request)?;
    let pairs = tap.queues.len();
    let how = if tap.existed { "opened" } else { "made" };
    tracing::info!(device = %options.name, tap = tap.name, queue_pairs = pairs, "uplink {how}");
    if pairs < usize::from(options.queue_pairs) {
        tracing::warn!(tap = tap.name, "this TAP has a single queue, so the device has a single queue pair");
    }
    Ok(Uplink {
        description: format!("tap {}", tap.name),
        queues: uplink::tap_pairs(tap.queues, tap.uso)?,
        offloads: Offloads { uso4: tap.uso, uso6: tap.uso, ..Offloads::ALL },
    })
}
