//! Queues of an interface as an uplink: opened, set up, and opened again when an interface that was deleted is back.

use std::cell::Cell;
use std::error::Error;
use std::sync::Arc;

use crate::opener::{Client, OpenedUplink, OpenedXdp, XdpMode, XdpRequest};
use crate::uplink::{self, Rx, Tx, XdpPort, XdpSocket, XdpSteering};
use crate::worker::DeviceName;

/// Queues of an interface.
#[derive(Debug)]
pub(super) struct XdpQueues {
    device: DeviceName,
    opener: Client,
    request: XdpRequest,
    ports: Vec<Arc<XdpPort>>,
    /// Index of the interface that they belong to.
    interface: Cell<u32>,
}

/// Queues, and the halves of each.
type Opened = (XdpQueues, Vec<(Tx, Rx)>);

/// Sets open queues of a device up, and gives the halves of each. `coalesce` says whether received packets may be joined.
pub(super) fn set_up(
    device: DeviceName,
    opener: &Client,
    (request, opened): (XdpRequest, OpenedXdp),
    coalesce: bool,
) -> Result<Opened, Box<dyn Error>> {
    let numbers = (request.queue..).take(opened.sockets.len());
    let pairs = numbers.map(|queue| uplink::af_xdp_pair(queue, coalesce)).collect::<Result<Vec<_>, _>>()?;
    let (ports, halves) = pairs.into_iter().unzip();
    let queues = XdpQueues { device, opener: opener.clone(), request, ports, interface: Cell::new(opened.interface) };
    queues.connect(opened)?;
    Ok((queues, halves))
}

impl XdpQueues {
    /// Name of the interface.
    pub(super) fn interface(&self) -> &str {
        &self.request.interface
    }

    /// Notes that an interface with this index is there. If it is another than before, the queues become its own.
    pub(super) fn is_there(&self, index: u32) {
        if index == self.interface.get() || !self.request.sockets.is_empty() {
            return;
        }
        match self.open_again() {
            Ok(interface) => {
                self.interface.set(interface);
                tracing::info!(interface = self.request.interface, "uplink opened again");
            }
            // Tried again when something else changes about it.
            Err(e) => tracing::error!(interface = self.request.interface, "the uplink stays closed: {e}"),
        }
    }

    /// Gives the index of the interface.
    fn open_again(&self) -> Result<u32, Box<dyn Error>> {
        let OpenedUplink::Xdp(opened) = self.opener.uplink(self.device.as_str())? else {
            return Err("a TAP was opened instead".into());
        };
        let interface = opened.interface;
        self.connect(opened)?;
        Ok(interface)
    }

    fn connect(&self, opened: OpenedXdp) -> Result<(), uplink::XdpError> {
        let OpenedXdp { interface, mtu, sockets, busy_poll, program, packets } = opened;
        let is_generic = program.as_ref().is_some_and(|program| program.is_generic);
        let is_shared = program.as_ref().is_some_and(|program| program.is_shared);
        let zero_copy = match self.request.mode {
            _ if is_generic => Some(false),
            XdpMode::Auto => None,
            XdpMode::ZeroCopy => Some(true),
            XdpMode::Copy | XdpMode::Skb => Some(false),
        };
        let steering = program.map(|program| {
            let (link, sockets, rules) = (program.link, program.sockets, program.rules);
            Arc::new(XdpSteering { link, packets, sockets, rules, mac: self.request.mac })
        });
        for ((queue, port), fd) in (self.request.queue..).zip(&self.ports).zip(sockets) {
            let socket = XdpSocket { fd, interface, queue, mtu, zero_copy, busy_poll };
            // Frames to groups come once, whatever number of queues there is.
            let takes_groups = queue == self.request.queue;
            let got = port.connect(socket, steering.clone(), takes_groups)?;
            let program = match (is_generic, is_shared) {
                (true, _) => "in the kernel's stack",
                (false, true) => "shared",
                (false, false) => "in the driver",
            };
            tracing::info!(interface = self.request.interface, queue, program, "AF_XDP: {got}");
        }
        Ok(())
    }
}
