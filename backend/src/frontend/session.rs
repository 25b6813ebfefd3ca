//! What a front end has told so far, and what each of its messages means to the device (vhost-user, "Message types").
//!
//! A session lasts as long as its connection. When it ends, its rings are stopped and its memory is let go.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use vhost::vhost_user::Result;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::refusal::{Refusal, chain};
use crate::memory::{DirtyLog, MemoryTable};
use crate::nic::{FrontEnd, Nic, understood};
use crate::record::{Identity, Peer, RingRecord};
use crate::ring::{Access, RingLog, RingSetup};
use crate::worker::{Direction, Features, Mailbox, Message, QueueId, RingFds, RingStart, Threads};

/// A ring as the front end has described it so far.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) size: u16,
    /// Descriptor table, available and used ring, in the front end's address space.
    pub(super) addresses: Option<[u64; 3]>,
    pub(super) started: bool,
    pub(super) enabled: bool,
    /// Guest address under which what is written to its used ring is marked, if it is to be (`VHOST_VRING_F_LOG`).
    pub(super) log_address: Option<u64>,
    /// Where it stands while it is not started.
    pub(super) base: u32,
    pub(super) fds: RingFds,
}

/// One front end's session with the device.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) nic: Arc<Nic>,
    /// Who it is.
    peer: Peer,
    pub(super) features: Option<u64>,
    pub(super) protocol_features: u64,
    status: u8,
    /// Whether it claimed the device before it asked for anything.
    owner_first: Option<bool>,
    /// Largest packet, in bytes of IP, that the guest was told.
    pub(super) mtu: Option<u16>,
    /// Where it wants to be told of changes.
    channel: Option<Arc<UnixStream>>,
    pub(super) memory: Arc<MemoryTable>,
    /// Where the front end wants written pages marked while it asks for it by a feature (`VHOST_F_LOG_ALL`).
    log: Option<Arc<DirtyLog>>,
    pub(super) rings: Vec<Ring>,
}

impl Session {
    pub(super) fn new(nic: Arc<Nic>, peer: Peer) -> Self {
        let rings = (0..nic.rings()).map(|_| Ring::default()).collect();
        let memory = Arc::default();
        let mtu = nic.mtu();
        let session = Self {
            nic,
            peer,
            features: None,
            protocol_features: 0,
            status: 0,
            owner_first: None,
            mtu,
            channel: None,
            memory,
            log: None,
            rings,
        };
        session.note();
        session
    }

    /// Tells the device what others may want to know of this session.
    pub(super) fn note(&self) {
        let started = |(at, ring): (usize, &Ring)| ring.started.then(|| self.id(at));
        let started = self.rings.iter().enumerate().filter_map(started).collect();
        let config = self.protocol_features & VhostUserProtocolFeatures::CONFIG.bits() != 0;
        let config_channel = self.channel.clone().filter(|_| config);
        self.nic.set_front_end(Some(FrontEnd { pid: self.peer.pid, features: self.features, started, config_channel }));
    }

    /// Whether this front end reads the configuration space from here. Those that do claim the device before they ask
    /// for anything; QEMU claims it later and keeps a network device's configuration to itself, so that offering it
    /// would be of no use there.
    pub(super) fn reads_config(&self) -> bool {
        self.owner_first == Some(true)
    }

    /// Notes the first thing that the front end did.
    pub(super) fn note_first(&mut self, is_owner: bool) {
        self.owner_first.get_or_insert(is_owner);
    }

    /// Keeps the channel on which the front end wants to be told of changes.
    pub(super) fn set_channel(&mut self, channel: UnixStream) {
        self.channel = Some(Arc::new(channel));
        self.note();
    }

    /// What the acknowledged features mean to packets.
    pub(super) fn understood(&self) -> Features {
        understood(self.features.unwrap_or(0), self.mtu)
    }

    /// Whether the driver chose packed rings.
    pub(super) fn is_packed(&self) -> bool {
        self.features.unwrap_or(0) & (1 << VIRTIO_F_RING_PACKED) != 0
    }

    /// Whether SET_FEATURES has come.
    pub(super) fn has_features(&self) -> bool {
        self.features.is_some()
    }

    /// Whether the front end may ask for an answer to any message.
    pub(super) fn replies_to_all(&self) -> bool {
        self.protocol_features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// The device status that the driver wrote last (virtio 1.3, 2.1).
    pub(super) fn status(&self) -> u8 {
        self.status
    }

    pub(super) fn set_status(&mut self, status: u8) {
        self.status = status;
    }

    /// Stops all rings and lets go of the guest's memory.
    pub(super) fn end(&mut self) {
        for index in 0..self.rings.len() {
            if let Err(e) = self.halt(index) {
                tracing::error!(queue = %self.id(index), "ring not stopped: {e}");
            }
        }
        // It takes its time, and no ring is to run as long.
        self.admit_all();
        self.features = None;
        if let Err(e) = self.change_memory(MemoryTable::default()) {
            tracing::error!("the front end's memory stays mapped: {}", chain(&e));
        }
        self.nic.set_front_end(None);
    }

    pub(super) fn id(&self, index: usize) -> QueueId {
        QueueId::of_ring(self.nic.name(), index as u16)
    }

    pub(super) fn ring(&mut self, index: u32) -> Result<(usize, QueueId, &mut Ring)> {
        let rings = self.nic.rings();
        let at = usize::try_from(index).ok().filter(|at| *at < self.rings.len());
        let at = at.ok_or(Refusal::NoSuchRing { index, rings })?;
        let id = self.id(at);
        Ok((at, id, &mut self.rings[at]))
    }

    /// The worker of a ring, if it runs.
    pub(super) fn worker_of(&self, id: QueueId) -> Option<Arc<Mailbox>> {
        self.nic.worker(id)
    }

    /// Tells the worker of a started ring.
    pub(super) fn tell(&self, id: QueueId, message: Message) {
        if let Some(worker) = self.worker_of(id) {
            worker.send(id, message);
        }
    }

    /// Asks the worker of a ring or pair. One that does not answer is given up, and its pair with it.
    pub(super) fn ask<T>(
        &self,
        id: QueueId,
        worker: &Mailbox,
        message: impl FnOnce(SyncSender<T>) -> Message,
    ) -> std::result::Result<T, Refusal> {
        worker.ask(id, message).map_err(|e| {
            self.nic.give_up(id);
            Refusal::Worker(e)
        })
    }

    pub(super) fn start_ring(&mut self, at: usize) -> Result<()> {
        let id = self.id(at);
        let setup = self.ring_setup(at, id)?;
        // The first of a lane's rings decides.
        let is_first = self.nic.threads() == Threads::PerDirection || !self.rings[at ^ 1].started;
        if self.nic.is_placed_by_memory() && is_first {
            self.nic.place(id, self.memory.node_of(setup.used));
        }
        let worker = match self.worker_of(id) {
            Some(worker) => worker,
            None => {
                let worker = self.nic.start_worker(id).map_err(Refusal::Start)?;
                drop(self.ask(id, &worker, |answer| Message::MemoryTable(self.memory.clone(), answer))?);
                worker
            }
        };
        // The worker may still know those of the front end before.
        worker.send(id, Message::Features(self.understood()));
        let (log, record) = (self.ring_log(at), self.ring_record(at, &setup));
        let ring = &mut self.rings[at];
        ring.started = true;
        let (enabled, base, fds) = (ring.enabled, ring.base, std::mem::take(&mut ring.fds));
        self.admit(at);
        self.ask(id, &worker, |answer| Message::RingEnable(enabled, answer))?;
        let start = RingStart { setup, base, log, record };
        self.ask(id, &worker, |answer| Message::RingUp(start, fds, answer))?;
        self.note();
        Ok(())
    }

    pub(super) fn ring_setup(&self, at: usize, id: QueueId) -> Result<RingSetup> {
        let ring = &self.rings[at];
        let features = self.features.unwrap_or(0);
        let addresses = ring.addresses.filter(|_| ring.size > 0).ok_or(Refusal::NotSetUp { id })?;
        let guest = |address| self.memory.guest_address(address).ok_or(Refusal::NotShared { id, address });
        let [desc, avail, used] = addresses;
        Ok(RingSetup {
            packed: self.is_packed(),
            in_order: features & (1 << VIRTIO_F_IN_ORDER) != 0,
            size: ring.size,
            desc: guest(desc)?,
            avail: guest(avail)?,
            used: guest(used)?,
            event_idx: features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
            indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
            access: if id.direction == Direction::Rx { Access::Write } else { Access::Read },
            min_chain_len: self.understood().header_len as u32,
        })
    }

    /// What a ring marks now: everything that it writes, if the front end asks for it and has said where.
    fn ring_log(&self, at: usize) -> Option<RingLog> {
        let asked = self.features.unwrap_or(0) & VhostUserVirtioFeatures::LOG_ALL.bits() != 0;
        let pages = self.log.clone().filter(|_| asked)?;
        Some(RingLog::new(pages, self.rings[at].log_address))
    }

    /// Where a ring notes where it stands, and finds it if it is the one that did so last. Split rings need none.
    fn ring_record(&self, at: usize, setup: &RingSetup) -> Option<RingRecord> {
        let record = self.nic.record(at).filter(|_| setup.packed)?;
        record.begin(&Identity {
            peer: self.peer,
            // Comes and goes with a migration.
            features: self.features.unwrap_or(0) & !VhostUserVirtioFeatures::LOG_ALL.bits(),
            addresses: [setup.desc, setup.avail, setup.used],
            size: setup.size,
        });
        Some(record)
    }

    /// Replaces the log of dirty pages. The one before is unmapped here, when nobody uses it any more.
    pub(super) fn set_log(&mut self, log: DirtyLog) -> std::result::Result<(), Refusal> {
        let _old = self.log.replace(Arc::new(log));
        self.tell_logs()
    }

    /// Has every started ring mark what it is to mark now.
    pub(super) fn tell_logs(&self) -> std::result::Result<(), Refusal> {
        (0..self.rings.len()).try_for_each(|at| self.tell_log(at))
    }

    /// The same for one ring. When this is done, all that was to be marked before is marked.
    pub(super) fn tell_log(&self, at: usize) -> std::result::Result<(), Refusal> {
        let id = self.id(at);
        match self.worker_of(id).filter(|_| self.rings[at].started) {
            Some(worker) => self.ask(id, &worker, |answer| Message::Log(self.ring_log(at), answer)),
            None => Ok(()),
        }
    }

    /// Lets the uplink's frames come to the pair of ring `at` while a ring of it runs, and keeps them away otherwise: none
    /// waits where nobody reads.
    pub(super) fn admit(&self, at: usize) {
        let pair = at / 2;
        let runs = self.rings[2 * pair..][..2].iter().any(|ring| ring.started && ring.enabled);
        self.nic.admit(pair, runs.then(|| self.understood().guest));
    }

    /// The same for all pairs.
    pub(super) fn admit_all(&self) {
        (0..self.rings.len()).step_by(2).for_each(|at| self.admit(at));
    }

    /// Stops a ring: where it stood. The ring forgets its eventfds, as the specification has it.
    pub(super) fn stop_ring(&mut self, at: usize) -> std::result::Result<u32, Refusal> {
        let base = self.halt(at)?;
        self.admit(at);
        Ok(base)
    }

    fn halt(&mut self, at: usize) -> std::result::Result<u32, Refusal> {
        let id = self.id(at);
        let ring = &mut self.rings[at];
        ring.fds = RingFds::default();
        let base = ring.base;
        if !std::mem::take(&mut ring.started) {
            return Ok(base);
        }
        self.note();
        let Some(worker) = self.worker_of(id) else { return Ok(base) };
        let base = self.ask(id, &worker, Message::RingDown)?.unwrap_or(base);
        self.rings[at].base = base;
        Ok(base)
    }

    /// Gives all workers another memory table. The one before is unmapped here, when nobody uses it any more.
    pub(super) fn change_memory(&mut self, memory: MemoryTable) -> std::result::Result<(), Refusal> {
        self.memory = Arc::new(memory);
        // One that does not answer keeps no other from letting go.
        let ask = |(id, worker): (QueueId, Arc<Mailbox>)| {
            self.ask(id, &worker, |answer| Message::MemoryTable(self.memory.clone(), answer))
        };
        let answers: Vec<_> = self.nic.workers().map(ask).collect();
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }
}
