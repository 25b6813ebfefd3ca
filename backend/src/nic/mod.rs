//! A virtual NIC: its queue pairs, their uplink queues and the workers that serve them.
//!
//! Front ends come and go; the device stays. A worker is started at the first ring of its pair.

#![forbid(unsafe_code)]

mod config_space;
mod features;
mod front_end;
mod lane;
mod modes;
mod nics;
mod placement;
mod workers;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use config_space::read as read_config;
pub use features::{FeatureNames, offered, understood};
pub use front_end::{FrontEnd, FrontEndCounters, FrontEnds};
pub use lane::{Lane, WorkerName};
pub use modes::OrderError;
pub use nics::Nics;
pub use placement::{Place, Placement};
pub use workers::StartError;

use crate::mode::Policy;
use crate::offload::Offloads;
use crate::opener::Client;
use crate::record::{self, Records, RingRecord};
use crate::uplink::{Rx, TapSwitch, Tx};
use crate::worker::{DeviceName, Guard, Message, ModeEvents, Moderation, QueueId, Threads, Workers};

/// Least MTU that IP allows (RFC 791).
pub const MIN_MTU: u16 = 68;

/// Most queue pairs of a device.
pub const MAX_QUEUE_PAIRS: u16 = 32;

const _: () = assert!(2 * MAX_QUEUE_PAIRS as usize <= record::RINGS);

/// What a device is made of.
#[derive(Debug)]
pub struct NicSetup {
    /// Its name.
    pub name: DeviceName,
    /// The halves of an uplink queue for each of its pairs.
    pub uplinks: Vec<(Tx, Rx)>,
    /// What lets frames come to each of them; none: the halves do that themselves.
    pub switches: Vec<TapSwitch>,
    /// What the uplink is, in words.
    pub uplink: String,
    /// The uplink's interface, if it has one of its own here.
    pub interface: Option<String>,
    /// Whether that is the host's too, so that a front end has no say in its MTU.
    pub is_hosts: bool,
    /// The address that the guest must have for frames to reach it over the uplink.
    pub uplink_mac: Option<[u8; 6]>,
    /// The address that a guest is told.
    pub mac: Option<[u8; 6]>,
    /// Largest packet, in bytes of IP.
    pub mtu: Option<u16>,
    /// What the uplink takes and gives.
    pub offloads: Offloads,
    /// Largest ring that is accepted.
    pub max_queue_size: u16,
    /// Where its threads run.
    pub placement: Placement,
    /// The real-time priority of its workers, 1 to 99.
    pub realtime: Option<u8>,
    /// How its packets are shared out among threads.
    pub threads: Threads,
    /// Where threads come from.
    pub workers: Arc<Workers>,
    /// When its pairs sleep and when they poll.
    pub policy: Policy,
    /// When its driver is called.
    pub moderation: Moderation,
    /// What they may send, and how much may move.
    pub guard: Guard,
    /// Who is told when they change their mode.
    pub events: ModeEvents,
    /// Where its packed rings note where they stand.
    pub records: Records,
    /// What changes its interface.
    pub opener: Client,
}

/// A virtual NIC.
#[derive(Debug)]
pub struct Nic {
    name: DeviceName,
    uplink: String,
    interface: Option<String>,
    is_hosts: bool,
    uplink_mac: Option<[u8; 6]>,
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
    link_up: AtomicBool,
    offered: u64,
    max_queue_size: u16,
    realtime: Option<u8>,
    threads: Threads,
    placement: Placement,
    workers: Arc<Workers>,
    moderation: Moderation,
    guard: Guard,
    events: ModeEvents,
    pairs: u16,
    lanes: Vec<Lane>,
    /// A pair's; the last to have its queue, so that no worker waits until that is closed.
    switches: Vec<Mutex<TapSwitch>>,
    records: Records,
    opener: Client,
    front_end: Mutex<Option<FrontEnd>>,
    front_ends: FrontEnds,
    listener: OnceLock<Arc<OwnedFd>>,
}

impl Nic {
    /// Makes a device. Nothing runs yet.
    #[must_use]
    pub fn new(setup: NicSetup) -> Self {
        let pairs = setup.uplinks.len() as u16;
        let lanes = (0..).zip(setup.uplinks).flat_map(|(pair, uplink)| {
            Lane::of_pair(QueueId::pair(setup.name, pair), setup.threads, uplink, setup.policy)
        });
        let lanes: Vec<_> = lanes.collect();
        for (at, lane) in lanes.iter().enumerate() {
            lane.set_place(setup.placement.place(at, setup.threads, None));
        }
        Self {
            name: setup.name,
            uplink: setup.uplink,
            interface: setup.interface,
            is_hosts: setup.is_hosts,
            uplink_mac: setup.uplink_mac,
            mac: setup.mac,
            mtu: setup.mtu,
            link_up: AtomicBool::new(true),
            offered: offered(setup.offloads, usize::from(pairs), setup.mac.is_some()),
            max_queue_size: setup.max_queue_size,
            realtime: setup.realtime,
            threads: setup.threads,
            placement: setup.placement,
            workers: setup.workers,
            moderation: setup.moderation,
            guard: setup.guard,
            events: setup.events,
            pairs,
            lanes,
            switches: setup.switches.into_iter().map(Mutex::new).collect(),
            records: setup.records,
            opener: setup.opener,
            front_end: Mutex::new(None),
            front_ends: FrontEnds::default(),
            listener: OnceLock::new(),
        }
    }

    /// The address that a guest is told.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// Largest packet, in bytes of IP, if the operator set it.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// The uplink's interface, if it has one of its own here.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// Gives the uplink's interface another MTU, as far as it can be had.
    pub fn set_uplink_mtu(&self, mtu: u16) {
        if let Some(interface) = self.interface.as_ref().filter(|_| !self.is_hosts)
            && let Err(e) = self.opener.set_mtu(self.name.as_str(), mtu)
        {
            self.front_ends.complaints.tell(|left_out| {
                let device = self.name;
                tracing::warn!(%device, mtu, left_out, "the MTU of {interface} stays as it is: {e}; set it with ip link");
            });
        }
    }

    /// Whether the uplink can carry frames.
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.link_up.load(Ordering::Relaxed)
    }

    /// Notes whether the uplink can carry frames, and tells the front end of a change if it wants to know.
    pub fn set_link_up(&self, up: bool) {
        if self.link_up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        tracing::info!(device = %self.name, "link {}", if up { "up" } else { "down" });
        if let Some(front_end) = self.front_end()
            && let Some(channel) = front_end.config_channel
        {
            front_end::tell_config_change(self.name, &channel);
        }
        for (id, worker) in self.workers() {
            worker.send(id, Message::Carrier(up));
        }
    }

    /// What the uplink is, in words.
    #[must_use]
    pub fn uplink(&self) -> &str {
        &self.uplink
    }

    /// The front end that is connected.
    #[must_use]
    pub fn front_end(&self) -> Option<FrontEnd> {
        self.front_end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of all that were.
    #[must_use]
    pub fn front_ends(&self) -> &FrontEnds {
        &self.front_ends
    }

    /// Notes who is connected.
    pub fn set_front_end(&self, front_end: Option<FrontEnd>) {
        let is_there = front_end.is_some();
        let before = std::mem::replace(&mut *self.front_end.lock().unwrap_or_else(PoisonError::into_inner), front_end);
        if before.is_some() != is_there
            && let Some(listener) = self.listener.get()
        {
            // It fails only when the counter is full, and then the listener is woken already.
            let _ = rustix::io::write(listener, &1u64.to_ne_bytes());
        }
    }

    /// Has `listener`, an eventfd, written to whenever a front end comes or goes. The first one that is given stays.
    pub fn tell_of_front_ends(&self, listener: Arc<OwnedFd>) {
        let _ = self.listener.set(listener);
    }

    /// Its name, the first part of its queues' names.
    #[must_use]
    pub fn name(&self) -> DeviceName {
        self.name
    }

    /// The features that a driver may choose from (virtio 1.3, 6 and vhost-user).
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Largest ring that is accepted.
    #[must_use]
    pub fn max_queue_size(&self) -> u16 {
        self.max_queue_size
    }

    /// Number of rings: two a pair.
    #[must_use]
    pub fn rings(&self) -> u16 {
        self.pairs * 2
    }

    /// Where ring number `index` notes where it stands.
    #[must_use]
    pub fn record(&self, index: usize) -> Option<RingRecord> {
        self.records.ring(index)
    }

    /// Its pairs, or their directions where each has a worker of its own.
    #[must_use]
    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// How its packets are shared out among threads.
    #[must_use]
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// Lets the uplink's frames come to pair number `pair`, with the unfinished work that `takes` allows, or keeps them away.
    /// May take as long as others change interfaces of the host.
    pub fn admit(&self, pair: usize, takes: Option<Offloads>) {
        if let Some(switch) = self.switches.get(pair)
            && let Err(e) = switch.lock().unwrap_or_else(PoisonError::into_inner).set(takes)
        {
            let change = if takes.is_some() { "attached" } else { "detached" };
            tracing::error!(device = %self.name, pair, "the uplink's queue cannot be {change}: {e}");
        }
    }
}
