//! From an uplink in words to its open queues.

use std::error::Error;

use super::af_xdp::{self, XdpQueues};
use super::plan::xdp_request;
use crate::config::{DeviceOptions, UplinkSpec, XdpSpec};
use crate::offload::Offloads;
use crate::opener::{Client, OpenedTap, OpenedUplink, OpenedXdp};
use crate::uplink::{self, Rx, TapSwitch, TapTerms, Tx};

/// An open uplink.
pub(super) struct Uplink {
    /// What it is, in words.
    pub(super) description: String,
    /// Its interface, if it has one of its own here.
    pub(super) interface: Option<String>,
    /// The address that the guest must have.
    pub(super) guest_mac: Option<[u8; 6]>,
    /// Whether it was there before.
    existed: bool,
    /// The halves of each queue.
    pub(super) queues: Vec<(Tx, Rx)>,
    /// What lets frames come to them, where that is a matter of its own.
    pub(super) switches: Vec<TapSwitch>,
    /// What it takes and gives.
    pub(super) offloads: Offloads,
    /// What is opened again when its interface comes back.
    pub(super) xdp: Option<XdpQueues>,
}

/// Opens the uplink of a device.
pub(super) fn open(options: &DeviceOptions, opener: &Client) -> Result<Uplink, Box<dyn Error>> {
    let pairs = usize::from(options.queue_pairs);
    let uplink = match &options.uplink {
        UplinkSpec::Tap { .. } | UplinkSpec::TapFd(_) | UplinkSpec::Macvtap(_) | UplinkSpec::AfXdp(_) => {
            match (opener.uplink(options.name.as_str())?, &options.uplink) {
                (OpenedUplink::Xdp(opened), UplinkSpec::AfXdp(spec)) => xdp(options, spec, opener, opened)?,
                (OpenedUplink::Tap(opened), UplinkSpec::Macvtap(_)) => tap("macvtap", opened, !options.no_coalesce)?,
                (OpenedUplink::Tap(opened), _) => tap("tap", opened, !options.no_coalesce)?,
                (OpenedUplink::Xdp(_), _) => return Err("another uplink was opened than was asked for".into()),
            }
        }
        UplinkSpec::Discard { unread } => {
            for_tests("discard", pairs, || (Tx::Discard(uplink::DiscardTx::new(!unread)), Rx::Discard))
        }
        UplinkSpec::Generate { len } => for_tests("generate", pairs, || {
            (Tx::Discard(uplink::DiscardTx::new(false)), Rx::Generate(uplink::GenerateRx::new(*len)))
        }),
        UplinkSpec::Loopback => for_tests("loopback", pairs, || {
            let (tx, rx) = uplink::loopback_pair();
            (Tx::Wire(tx), Rx::Wire(rx))
        }),
    };
    let queues = uplink.queues.len();
    let how = if uplink.existed { "opened" } else { "made" };
    tracing::info!(device = %options.name, uplink = uplink.description, queue_pairs = queues, "uplink {how}");
    if queues == 1 && pairs > 1 && uplink.xdp.is_none() {
        tracing::warn!(
            device = %options.name,
            uplink = uplink.description,
            "this TAP has a single queue, so the device has a single queue pair"
        );
    }
    Ok(uplink)
}

/// An uplink without a network behind it.
fn for_tests(description: &str, pairs: usize, halves: impl FnMut() -> (Tx, Rx)) -> Uplink {
    Uplink {
        description: description.into(),
        interface: None,
        guest_mac: None,
        existed: false,
        queues: std::iter::repeat_with(halves).take(pairs).collect(),
        switches: Vec::new(),
        offloads: Offloads::ALL,
        xdp: None,
    }
}

/// Queues of an interface. What the guest leaves unfinished is finished here, so it may leave everything.
fn xdp(options: &DeviceOptions, spec: &XdpSpec, opener: &Client, opened: OpenedXdp) -> Result<Uplink, Box<dyn Error>> {
    let request = xdp_request(options, spec);
    let (queues, halves) = af_xdp::set_up(options.name, opener, (request, opened), !options.no_coalesce)?;
    Ok(Uplink {
        description: format!("af-xdp {}", spec.interface),
        existed: true,
        interface: Some(spec.interface.clone()),
        guest_mac: options.mac.filter(|_| spec.by_mac).map(|mac| mac.0),
        queues: halves,
        switches: Vec::new(),
        offloads: Offloads::ALL,
        xdp: Some(queues),
    })
}

fn tap(kind: &str, tap: OpenedTap, coalesce: bool) -> Result<Uplink, Box<dyn Error>> {
    let offloads = Offloads { uso4: tap.uso, uso6: tap.uso, ..Offloads::ALL };
    let terms = TapTerms { multi_queue: tap.multi_queue, uso: tap.uso, coalesce };
    let (queues, switches) = uplink::tap_pairs(tap.queues, terms)?.into_iter().unzip();
    Ok(Uplink {
        description: format!("{kind} {}", tap.name),
        existed: tap.existed,
        interface: Some(tap.name),
        guest_mac: tap.guest_mac,
        queues,
        switches,
        offloads,
        xdp: None,
    })
}
