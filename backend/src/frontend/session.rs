//! What a front end has told so far, and what each of its messages means to the device (vhost-user, "Message types").
//!
//! A session lasts as long as its connection. When it ends, its rings are stopped and its memory is let go.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use vhost::vhost_user::Result;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use virtio_bindings::virtio_config::VIRTIO_F_RING_PACKED;

use super::refusal::{Refusal, chain};
use super::rings::Ring;
use crate::memory::{DirtyLog, MemoryTable};
use crate::nic::{FrontEnd, Nic, understood};
use crate::record::Peer;
use crate::worker::{DeviceName, Features, Mailbox, MailboxError, Message, QueueId};

/// One front end's session with the device.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) nic: Arc<Nic>,
    /// Who it is.
    pub(super) peer: Peer,
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
    pub(super) log: Option<Arc<DirtyLog>>,
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
        self.halt_all();
        // It takes its time, and no ring is to run as long.
        self.admit_all();
        self.features = None;
        if let Err(e) = self.change_memory(MemoryTable::default()) {
            tracing::error!(device = %self.nic.name(), "the front end's memory stays mapped: {}", chain(&e));
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

    /// Asks the worker of a ring, if it has one.
    pub(super) fn ask_if_any<T>(
        &self,
        id: QueueId,
        message: impl FnOnce(SyncSender<T>) -> Message,
    ) -> std::result::Result<Option<T>, Refusal> {
        self.worker_of(id).map(|worker| self.ask(id, &worker, message)).transpose()
    }

    /// Asks the worker of a ring or pair. One that does not answer is given up, and its pair with it.
    pub(super) fn ask<T>(
        &self,
        id: QueueId,
        worker: &Mailbox,
        message: impl FnOnce(SyncSender<T>) -> Message,
    ) -> std::result::Result<T, Refusal> {
        worker.ask(id, message).map_err(|e| self.given_up(id, e))
    }

    /// The worker of a ring or pair has not answered.
    pub(super) fn given_up(&self, id: QueueId, error: MailboxError) -> Refusal {
        self.nic.give_up(id);
        Refusal::Worker(error)
    }

    /// Has a line on what the front end does written, unless there are too many.
    pub(super) fn tell(&self, line: impl FnOnce(DeviceName, Option<u64>)) {
        self.nic.front_ends().news.tell(|left_out| line(self.nic.name(), left_out));
    }

    /// Has the network learn that the guest with address `mac` is here now, if it is one that the guest may have.
    pub(super) fn announce(&self, mac: [u8; 6]) -> std::result::Result<(), Refusal> {
        let id = QueueId::of_ring(self.nic.name(), 1);
        let front_ends = self.nic.front_ends();
        match self.ask_if_any(id, |answer| Message::Announce(mac, answer))? {
            Some(Ok(())) => {
                front_ends.news.tell(|left_out| tracing::info!(queue = %id, left_out, "announced the guest by RARP"))
            }
            Some(Err(e)) => front_ends.complaints.tell(|left_out| {
                tracing::warn!(queue = %id, left_out, "the guest is not announced by RARP: {e}");
            }),
            None => {}
        }
        Ok(())
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
