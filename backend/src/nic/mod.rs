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

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use self::lane::{Idle, LaneState};

pub use config_space::read as read_config;
pub use features::{FeatureNames, offered, understood};
pub use front_end::FrontEnd;
pub use lane::{Lane, WorkerName};
pub use modes::OrderError;
pub use nics::Nics;
pub use placement::{Place, Placement};

use crate::mode::Policy;
use crate::offload::Offloads;
use crate::opener::Client;
use crate::record::{self, Records, RingRecord};
use crate::uplink::{Rx, TapSwitch, Tx};
use crate::worker::{
    DeviceName, Guard, Mailbox, Message, ModeEvents, Moderation, Pair, PairSetup, ProcessorHandle, QueueId, Threads,
    Workers,
};

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
    listener: OnceLock<Arc<OwnedFd>>,
}

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the worker of {id}")]
pub struct StartError {
    id: QueueId,
    #[source]
    source: io::Error,
}

impl Drop for Nic {
    /// What its lanes have of workers that others have, too, is given back: the uplink is closed then.
    fn drop(&mut self) {
        for lane in &self.lanes {
            if let LaneState::Running(worker, _) = &*lane.state()
                && Arc::strong_count(worker) > 1
            {
                let mailbox = worker.mailbox();
                mailbox.release(lane.id);
                // Nobody answers for a lane that has gone: the worker has come that far then.
                let _ = mailbox.ask(lane.id, |answer| Message::RingEnable(false, answer));
            }
        }
    }
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
            tracing::warn!(device = %self.name, mtu, "the MTU of {interface} stays as it is: {e}; set it with ip link");
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
            front_end::tell_config_change(&channel);
        }
        for (id, worker) in self.workers() {
            worker.send(id, Message::Carrier(up));
        }
    }

    /// Has the network learn that the guest with address `mac` is here now.
    pub fn announce(&self, mac: [u8; 6]) {
        let id = QueueId::of_ring(self.name, 1);
        if let Some(worker) = self.worker(id) {
            worker.send(id, Message::Announce(mac));
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

    /// The worker of a ring, if it was started.
    #[must_use]
    pub fn worker(&self, ring: QueueId) -> Option<Arc<Mailbox>> {
        self.lane(ring)?.mailbox()
    }

    /// All workers that were started, each with the name of what it serves of this device.
    pub fn workers(&self) -> impl Iterator<Item = (QueueId, Arc<Mailbox>)> + '_ {
        self.lanes.iter().filter_map(|lane| Some((lane.id, lane.mailbox()?)))
    }

    /// Whether it matters where a guest's memory is.
    #[must_use]
    pub fn is_placed_by_memory(&self) -> bool {
        self.placement.nodes.is_some()
    }

    /// Has the threads of a ring's lane run near the memory of `node`. A worker that other lanes have, too, stays on its CPU
    /// once it runs.
    pub fn place(&self, ring: QueueId, node: Option<usize>) {
        let Some(at) = self.lanes.iter().position(|lane| lane.id.covers(ring)) else { return };
        let lane = &self.lanes[at];
        let (worker, processor) = lane.thread_ids();
        if worker.is_some() && self.threads == Threads::PerCpu {
            return;
        }
        let place = self.placement.place(at, self.threads, node);
        if !lane.set_place(place.clone()) {
            return;
        }
        let near = place.node.map_or(&[][..], |node| self.placement.near(node));
        for (thread, cpu) in [(worker, place.cpu), (processor, place.processor_cpu)] {
            if let Some(thread) = thread {
                placement::set_affinity(thread, cpu.as_ref().map_or(near, std::slice::from_ref));
            }
        }
        tracing::info!(queue = %lane.id, node = place.node, cpu = place.cpu, "placed by the guest's memory");
    }

    fn lane(&self, ring: QueueId) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.id.covers(ring))
    }

    /// Gives up the worker of a ring, which does not answer. Its lane stays out of order.
    pub fn give_up(&self, ring: QueueId) {
        if let Some(lane) = self.lane(ring) {
            tracing::error!(queue = %lane.id, "the worker is given up; restart vnicd to use it again");
            // A worker that still runs is told to end, and waited for a moment, outside the lock.
            let state = std::mem::replace(&mut *lane.state(), LaneState::Failed);
            if let LaneState::Running(worker, _) = &state {
                // It may have other lanes to go on with.
                worker.mailbox().release(lane.id);
            }
            drop(state);
        }
    }

    /// Gives a thread the device's priority. It works without, if that cannot be.
    fn prioritize(&self, thread: i32) {
        if let Err(e) = self.opener.prioritize(self.name.as_str(), thread) {
            tracing::error!(device = %self.name, thread, "no real-time priority: {e}");
        }
    }

    /// Starts the worker of a ring.
    ///
    /// # Errors
    /// When there is no such ring, or the kernel gives no thread. The ring stays out of order then.
    pub fn start_worker(&self, ring: QueueId) -> Result<Arc<Mailbox>, StartError> {
        let error = |source| StartError { id: ring, source };
        let lane = self.lane(ring).ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
        let mut state = lane.state();
        match std::mem::replace(&mut *state, LaneState::Failed) {
            LaneState::Idle(Idle { tx, rx, policy, recorder }) => {
                let place = lane.place();
                let worker = self.workers.find(self.threads, lane.id, place.cpu).map_err(error)?;
                let (processor, (tx, rx)) = match self.threads {
                    Threads::Pipeline => {
                        let name = format!("{}/uplink", lane.id);
                        let spawned = ProcessorHandle::spawn(name, place.processor_cpu, (tx, rx)).map_err(error)?;
                        (Some(spawned.0), spawned.1)
                    }
                    _ => (None, (tx, rx)),
                };
                if let Some(priority) = self.realtime {
                    // One that is shared has the highest of those that share it.
                    if worker.raise_to(priority) {
                        self.prioritize(worker.thread_id());
                    }
                    processor.iter().for_each(|processor| self.prioritize(processor.thread().id));
                }
                let mailbox = worker.mailbox().clone();
                mailbox.adopt(Pair::new(PairSetup {
                    id: lane.id,
                    tx,
                    rx,
                    counters: lane.counters.clone(),
                    uplink_mac: self.uplink_mac,
                    policy,
                    moderation: self.moderation,
                    guard: self.guard.clone(),
                    gauges: lane.gauges.clone(),
                    events: self.events.clone(),
                }));
                if !self.link_up() {
                    mailbox.send(lane.id, Message::Carrier(false));
                }
                if recorder.is_some() {
                    // Nothing copied before.
                    mailbox.send(lane.id, Message::Capture(recorder, sync_channel(1).0));
                }
                *state = LaneState::Running(worker, processor);
                Ok(mailbox)
            }
            LaneState::Running(worker, processor) => {
                let mailbox = worker.mailbox().clone();
                *state = LaneState::Running(worker, processor);
                Ok(mailbox)
            }
            LaneState::Failed => Err(error(io::Error::other("it failed before; restart vnicd"))),
        }
    }
}
