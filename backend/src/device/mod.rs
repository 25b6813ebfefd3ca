//! The registry of devices: a device is a NIC with its uplink and the entrance for its front ends.
//!
//! The only room that knows all of these; `frontend` and `control` never meet except here.

#![forbid(unsafe_code)]

mod entrance;
mod links;
mod uplinks;

use std::error::Error;
use std::io;
use std::sync::Arc;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};

use self::entrance::Entrance;
use crate::config::DeviceOptions;
use crate::nic::{Nic, NicSetup};
use crate::worker::ModeEvents;

pub use entrance::Ended;
pub use links::Links;

/// The control thread's event loop.
pub type EventLoop = EventManager<Box<dyn MutEventSubscriber>>;

/// A device: its NIC, and what lets front ends in.
#[derive(Debug)]
pub struct Device {
    nic: Arc<Nic>,
    entrance: Option<Entrance>,
}

impl Device {
    /// Opens what the device needs. Nothing is served yet. `events` is told when a pair changes its mode.
    ///
    /// # Errors
    /// When a socket or the uplink cannot be opened.
    pub fn open(options: &DeviceOptions, events: &ModeEvents) -> Result<Self, Box<dyn Error>> {
        // The socket first: whoever waits for it may connect while the uplink is opened.
        let entrance = Entrance::open(options)?;
        let uplink = uplinks::open(options)?;
        let nic = Arc::new(Nic::new(NicSetup {
            name: options.name,
            uplink: uplink.description,
            interface: uplink.interface,
            uplink_mac: uplink.guest_mac,
            mac: options.mac.map(|mac| mac.0),
            mtu: options.mtu,
            uplinks: uplink.queues,
            offloads: uplink.offloads,
            max_queue_size: options.queue_size,
            cpus: options.cpus.as_ref().map(|list| list.0.clone()).unwrap_or_default(),
            policy: options.policy(),
            events: events.clone(),
        }));
        Ok(Self { nic, entrance: Some(entrance) })
    }

    /// The NIC.
    #[must_use]
    pub fn nic(&self) -> &Arc<Nic> {
        &self.nic
    }

    /// Lets front ends in from now on. `ended` is told when the device has served its last one.
    ///
    /// # Errors
    /// When the kernel gives no eventfd or thread.
    pub fn serve(&mut self, events: &mut EventLoop, ended: Ended) -> io::Result<()> {
        if let Some(entrance) = self.entrance.take() {
            events.add_subscriber(entrance.serve(self.nic.clone(), ended)?);
        }
        Ok(())
    }
}
