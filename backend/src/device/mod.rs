//! The registry of devices: a device is a NIC with its uplink and the entrance for its front ends.
//!
//! The only room that knows all of these; `frontend` and `control` never meet except here.

#![forbid(unsafe_code)]

mod af_xdp;
mod entrance;
mod fleet;
mod links;
mod plan;
mod uplinks;

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use event_manager::{EventManager, MutEventSubscriber, SubscriberId, SubscriberOps};

use self::af_xdp::XdpQueues;
use self::entrance::{Entrance, Host};
use crate::config::{DeviceOptions, Numa};
use crate::nic::{Nic, NicSetup, Placement};
use crate::opener::Client;
use crate::record::Records;
use crate::worker::{Guard, ModeEvents, Nodes, Threads, Workers};

pub use entrance::Ended;
pub use fleet::Fleet;
pub use links::Links;
pub use plan::plan;

/// The control thread's event loop.
pub type EventLoop = EventManager<Box<dyn MutEventSubscriber>>;

/// What all devices share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Told when a pair changes its mode.
    pub events: ModeEvents,
    /// Where threads come from.
    pub workers: Arc<Workers>,
    /// What opens what needs rights.
    pub opener: Client,
    /// The host's NUMA nodes, as far as the daemon may run there.
    pub nodes: Arc<Nodes>,
    /// An eventfd, written when a device or a front end comes or goes.
    pub changed: Arc<OwnedFd>,
}

/// The CPUs that a device's workers are pinned to, in turn: those that were named; if none were, all that the daemon may
/// use where there is a worker for each, else none.
fn cpus(options: &DeviceOptions) -> Vec<usize> {
    match (&options.cpus, options.threads) {
        (Some(list), _) => list.0.clone(),
        (None, Threads::PerCpu) => {
            let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_else(|_| {
                let mut first = rustix::thread::CpuSet::new();
                first.set(0);
                first
            });
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
        }
        (None, _) => Vec::new(),
    }
}

/// Where a device's packed rings note where they stand.
fn records(options: &DeviceOptions, shared: &Shared) -> Result<Records, Box<dyn Error>> {
    Ok(match shared.opener.state(options.name.as_str())? {
        Some(file) => Records::in_file(file)?,
        None => Records::in_memory()?,
    })
}

/// A device: its NIC, and what lets front ends in.
#[derive(Debug)]
pub struct Device {
    nic: Arc<Nic>,
    queues: Option<XdpQueues>,
    entrance: Option<Entrance>,
    served: Option<(SubscriberId, Host)>,
}

impl Device {
    /// Opens what the device needs. Nothing is served yet.
    ///
    /// # Errors
    /// When a socket or the uplink cannot be opened.
    pub fn open(options: &DeviceOptions, shared: &Shared) -> Result<Self, Box<dyn Error>> {
        if options.realtime_priority.is_some() {
            shared.opener.may_prioritize(options.name.as_str())?;
        }
        // The socket first: whoever waits for it may connect while the uplink is opened.
        let entrance = Entrance::open(options, &shared.opener)?;
        let uplink = uplinks::open(options, &shared.opener)?;
        let records = records(options, shared)?;
        let nodes = (options.numa == Numa::Auto).then(|| shared.nodes.clone());
        let nic = Arc::new(Nic::new(NicSetup {
            name: options.name,
            uplink: uplink.description,
            interface: uplink.interface,
            is_hosts: uplink.xdp.is_some(),
            uplink_mac: uplink.guest_mac,
            mac: options.mac.map(|mac| mac.0),
            mtu: options.mtu,
            uplinks: uplink.queues,
            switches: uplink.switches,
            offloads: uplink.offloads,
            max_queue_size: options.queue_size,
            placement: Placement { cpus: cpus(options), nodes },
            realtime: options.realtime_priority,
            threads: options.threads,
            workers: shared.workers.clone(),
            policy: options.policy(),
            moderation: options.interrupts,
            guard: Guard::new(&options.filter, &options.limits),
            events: shared.events.clone(),
            records,
            opener: shared.opener.clone(),
        }));
        nic.tell_of_front_ends(shared.changed.clone());
        Ok(Self { nic, queues: uplink.xdp, entrance: Some(entrance), served: None })
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
            let (subscriber, host) = entrance.serve(self.nic.clone(), ended)?;
            self.served = Some((events.add_subscriber(subscriber), host));
        }
        Ok(())
    }

    /// What is opened again when its interface comes back, once.
    fn take_queues(&mut self) -> Option<XdpQueues> {
        self.queues.take()
    }

    /// Has its front end go, without waiting until it has. It is to be closed soon.
    fn part(&self) {
        if let Some((_, host)) = &self.served {
            host.part();
        }
    }

    /// Ends it: its front end loses the connection, its socket and its uplink are closed.
    fn close(self, events: &mut EventLoop) {
        if let Some((served, host)) = self.served {
            drop(host);
            // Dropped: whoever is connected loses the connection, and its rings are stopped.
            let _ = events.remove_subscriber(served);
        }
    }
}
