//! The rings of a session: how they are described, started and stopped (vhost-user, "Ring states").

use vhost::vhost_user::Result;
use vhost::vhost_user::message::VhostUserVirtioFeatures;
use virtio_bindings::virtio_config::VIRTIO_F_IN_ORDER;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::refusal::Refusal;
use super::session::Session;
use crate::record::{Identity, RingRecord};
use crate::ring::{Access, RingLog, RingSetup};
use crate::worker::{Direction, Message, QueueId, RingFds, RingStart, Threads, deadline};

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

impl Session {
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
        self.ask(id, &worker, |answer| Message::Features(self.understood(), answer))?;
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
    pub(super) fn ring_log(&self, at: usize) -> Option<RingLog> {
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

    /// Stops all rings at once: workers that do not answer are not waited for one after another.
    pub(super) fn halt_all(&mut self) {
        let running = (0..self.rings.len()).filter(|at| self.rings[*at].started);
        let asked: Vec<_> = running
            .filter_map(|at| {
                let (id, worker) = (self.id(at), self.worker_of(self.id(at))?);
                let question = worker.question(id, Message::RingDown);
                Some((id, worker, question))
            })
            .collect();
        for ring in &mut self.rings {
            (ring.started, ring.fds) = (false, RingFds::default());
        }
        self.note();
        let deadline = deadline();
        for (id, worker, question) in asked {
            if let Err(e) = worker.answer(&question, deadline) {
                tracing::error!(queue = %id, "ring not stopped: {}", self.given_up(id, e));
            }
        }
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
}
