//! What a front end has told so far, and what each of its messages means to the device (vhost-user, "Message types").
//!
//! A session lasts as long as its connection. When it ends, its rings are stopped and its memory is let go.

use std::error::Error as StdError;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::device::{Device, FeatureNames, FrontEnd, understood};
use crate::memory::{MemoryError, MemoryTable, RegionInfo};
use crate::ring::{Access, RingSetup};
use crate::worker::{Direction, Mailbox, MailboxError, Message, QueueId, RingFds};

/// Memory regions that a guest may have: what KVM itself allows, less what VMMs keep for other things.
const MAX_MEM_SLOTS: u64 = 509;

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("ring {index} does not exist: this device has {rings}; start vnicd with --queue-pairs for more")]
    NoSuchRing { index: u32, rings: u16 },
    #[error("ring {id} cannot have {size} entries: a power of two up to {max} is possible")]
    RingSize { id: QueueId, size: u32, max: u16 },
    #[error("ring {id} is running: it must be stopped before its size is changed")]
    Running { id: QueueId },
    #[error("ring {id} was started before its size and addresses were set")]
    NotSetUp { id: QueueId },
    #[error("ring {id} lies at {address:#x} of the front end, which is not in the memory that it shares")]
    NotShared { id: QueueId, address: u64 },
    #[error("features {} were acknowledged but not offered", FeatureNames(*.0))]
    NotOffered(u64),
    #[error("protocol features {0:#x} were acknowledged but not offered")]
    ProtocolNotOffered(u64),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Worker(#[from] MailboxError),
    #[error(transparent)]
    Start(#[from] crate::device::StartError),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::ReqHandlerError(io::Error::other(refusal))
    }
}

/// A ring as the front end has described it so far.
#[derive(Debug, Default)]
struct Ring {
    size: u16,
    /// Descriptor table, available and used ring, in the front end's address space.
    addresses: Option<[u64; 3]>,
    started: bool,
    enabled: bool,
    fds: RingFds,
}

/// One front end's session with the device.
#[derive(Debug)]
pub(super) struct Session {
    device: Arc<Device>,
    /// Process of the front end.
    pid: i32,
    features: Option<u64>,
    protocol_features: u64,
    status: u8,
    memory: Arc<MemoryTable>,
    rings: Vec<Ring>,
}

impl Session {
    pub(super) fn new(device: Arc<Device>, pid: i32) -> Self {
        let rings = (0..device.rings()).map(|_| Ring::default()).collect();
        let memory = Arc::default();
        let session = Self { device, pid, features: None, protocol_features: 0, status: 0, memory, rings };
        session.note();
        session
    }

    /// Tells the device what others may want to know of this session.
    fn note(&self) {
        let started = |(at, ring): (usize, &Ring)| ring.started.then(|| self.id(at));
        let started = self.rings.iter().enumerate().filter_map(started).collect();
        self.device.set_front_end(Some(FrontEnd { pid: self.pid, features: self.features, started }));
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
            if let Err(e) = self.stop_ring(index) {
                tracing::error!(queue = %self.id(index), "ring not stopped: {e}");
            }
        }
        self.features = None;
        if let Err(e) = self.change_memory(MemoryTable::default()) {
            tracing::error!("the front end's memory stays mapped: {}", chain(&e));
        }
        self.device.set_front_end(None);
    }

    fn id(&self, index: usize) -> QueueId {
        QueueId::of_ring(self.device.number(), index as u16)
    }

    fn ring(&mut self, index: u32) -> Result<(usize, QueueId, &mut Ring)> {
        let rings = self.device.rings();
        let at = usize::try_from(index).ok().filter(|at| *at < self.rings.len());
        let at = at.ok_or(Refusal::NoSuchRing { index, rings })?;
        let id = self.id(at);
        Ok((at, id, &mut self.rings[at]))
    }

    /// The worker of a ring, if it runs.
    fn worker_of(&self, id: QueueId) -> Option<Arc<Mailbox>> {
        self.device.worker(id.pair)
    }

    /// Tells the worker of a started ring.
    fn tell(&self, id: QueueId, message: Message) {
        if let Some(worker) = self.worker_of(id) {
            worker.send(message);
        }
    }

    fn start_ring(&mut self, at: usize) -> Result<()> {
        let id = self.id(at);
        let setup = self.ring_setup(at, id)?;
        let worker = match self.worker_of(id) {
            Some(worker) => worker,
            None => {
                let worker = self.device.start_worker(id.pair).map_err(Refusal::Start)?;
                worker.send(Message::Features(understood(self.features.unwrap_or(0))));
                drop(worker.ask(|answer| Message::MemoryTable(self.memory.clone(), answer)).map_err(Refusal::Worker)?);
                worker
            }
        };
        let ring = &mut self.rings[at];
        ring.started = true;
        let fds = std::mem::take(&mut ring.fds);
        worker.ask(|answer| Message::RingEnable(id, ring.enabled, answer)).map_err(Refusal::Worker)?;
        worker.ask(|answer| Message::RingUp(id, setup, fds, answer)).map_err(Refusal::Worker)?;
        self.note();
        Ok(())
    }

    fn ring_setup(&self, at: usize, id: QueueId) -> Result<RingSetup> {
        let ring = &self.rings[at];
        let features = self.features.unwrap_or(0);
        let addresses = ring.addresses.filter(|_| ring.size > 0).ok_or(Refusal::NotSetUp { id })?;
        let guest = |address| self.memory.guest_address(address).ok_or(Refusal::NotShared { id, address });
        let [desc, avail, used] = addresses;
        Ok(RingSetup {
            size: ring.size,
            desc: guest(desc)?,
            avail: guest(avail)?,
            used: guest(used)?,
            event_idx: features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
            indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
            access: if id.direction == Direction::Rx { Access::Write } else { Access::Read },
            min_chain_len: understood(features).header_len,
        })
    }

    /// Stops a ring: where it stood. The ring forgets its eventfds, as the specification has it.
    fn stop_ring(&mut self, at: usize) -> std::result::Result<u16, Refusal> {
        let id = self.id(at);
        let ring = &mut self.rings[at];
        ring.fds = RingFds::default();
        if !std::mem::take(&mut ring.started) {
            return Ok(0);
        }
        self.note();
        let Some(worker) = self.worker_of(id) else { return Ok(0) };
        Ok(worker.ask(|answer| Message::RingDown(id, answer))?.unwrap_or(0))
    }

    /// Gives all workers another memory table. The one before is unmapped here, when nobody uses it any more.
    fn change_memory(&mut self, memory: MemoryTable) -> std::result::Result<(), Refusal> {
        self.memory = Arc::new(memory);
        for worker in self.workers() {
            drop(worker.ask(|answer| Message::MemoryTable(self.memory.clone(), answer))?);
        }
        Ok(())
    }

    fn workers(&self) -> impl Iterator<Item = Arc<Mailbox>> + '_ {
        (0..self.device.rings() / 2).filter_map(|pair| self.device.worker(pair))
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers of other crates repeat their cause; once is enough.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn region(info: &VhostUserMemoryRegion) -> RegionInfo {
    RegionInfo {
        guest_address: info.guest_phys_addr,
        size: info.memory_size,
        user_address: info.user_addr,
        mmap_offset: info.mmap_offset,
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(Refusal::Unsupported("RESET_DEVICE").into())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !self.device.offered();
        if unknown != 0 {
            return Err(Refusal::NotOffered(unknown).into());
        }
        if self.features != Some(features) {
            tracing::info!("features: {}", FeatureNames(features));
            self.features = Some(features);
            self.note();
            for worker in self.workers() {
                worker.send(Message::Features(understood(features)));
            }
        }
        // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            for index in 0..self.device.rings() {
                self.set_vring_enable(index.into(), true)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut memory = MemoryTable::default();
        for (info, file) in regions.iter().zip(files) {
            memory = memory.with_region(region(info), file).map_err(Refusal::Memory)?;
        }
        self.change_memory(memory)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let max = self.device.max_queue_size();
        let (_, id, ring) = self.ring(index)?;
        if ring.started {
            return Err(Refusal::Running { id }.into());
        }
        match u16::try_from(num) {
            Ok(size) if size.is_power_of_two() && size <= max => ring.size = size,
            _ => return Err(Refusal::RingSize { id, size: num, max }.into()),
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let (at, id, ring) = self.ring(index)?;
        let addresses = Some([descriptor, available, used]);
        if ring.addresses == addresses {
            return Ok(());
        }
        ring.addresses = addresses;
        if ring.started {
            return Err(Refusal::Running { id }.into());
        }
        // Whoever shares the wrong memory learns of it here rather than from a silent NIC.
        if self.rings[at].size > 0 && !self.memory.is_empty() {
            self.ring_setup(at, id)?;
        }
        Ok(())
    }

    /// A split ring that is quiet stands where its used index says, whatever the front end remembers: some remember
    /// the driver's index, which would skip what was posted before the ring started. So the base is not looked at.
    fn set_vring_base(&mut self, index: u32, _base: u32) -> Result<()> {
        self.ring(index).map(drop)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (at, ..) = self.ring(index)?;
        let base = self.stop_ring(at)?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (at, id, ring) = self.ring(index.into())?;
        let kick = file.map(OwnedFd::from);
        if ring.started {
            self.tell(id, Message::Kick(id, kick));
            return Ok(());
        }
        ring.fds.kick = kick;
        self.start_ring(at)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (_, id, ring) = self.ring(index.into())?;
        let call = file.map(OwnedFd::from);
        if ring.started {
            self.tell(id, Message::Call(id, call));
        } else {
            ring.fds.call = call;
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (_, id, ring) = self.ring(index.into())?;
        let err = file.map(OwnedFd::from);
        if ring.started {
            self.tell(id, Message::Err(id, err));
        } else {
            ring.fds.err = err;
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL_FEATURES)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !PROTOCOL_FEATURES.bits();
        if unknown != 0 {
            return Err(Refusal::ProtocolNotOffered(unknown).into());
        }
        self.protocol_features = features;
        Ok(())
    }

    /// The number of rings: some front ends mean pairs, one means rings, and the larger number satisfies both.
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.device.rings().into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (_, id, ring) = self.ring(index)?;
        ring.enabled = enable;
        if ring.started
            && let Some(worker) = self.worker_of(id)
        {
            worker.ask(|answer| Message::RingEnable(id, enable, answer)).map_err(Refusal::Worker)?;
        }
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_MEM_SLOTS)
    }

    fn add_mem_region(
        &mut self,
        info: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let info = region(info);
        // QEMU adds the same regions once more for its second queue pair.
        if !self.memory.contains(&info) {
            let memory = self.memory.with_region(info, file).map_err(Refusal::Memory)?;
            self.change_memory(memory)?;
        }
        Ok(None)
    }

    fn remove_mem_region(&mut self, info: &VhostUserSingleMemoryRegion) -> Result<()> {
        // For the same reason a region may be gone already.
        if let Some(memory) = self.memory.without_region(info.guest_phys_addr, info.memory_size) {
            self.change_memory(memory)?;
        }
        Ok(())
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(Refusal::Unsupported("GET_CONFIG").into())
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(Refusal::Unsupported("SET_CONFIG").into())
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(Refusal::Unsupported("GPU_SET_SOCKET").into())
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Refusal::Unsupported("GET_SHARED_OBJECT").into())
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Refusal::Unsupported("GET_INFLIGHT_FD").into())
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(Refusal::Unsupported("SET_INFLIGHT_FD").into())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(Refusal::Unsupported("SET_DEVICE_STATE_FD").into())
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Refusal::Unsupported("CHECK_DEVICE_STATE").into())
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Refusal::Unsupported("GET_SHMEM_CONFIG").into())
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(Refusal::Unsupported("SET_LOG_BASE").into())
    }
}

/// What is offered of the protocol. QEMU acknowledges every bit that it sees, so only what works stands here.
const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::STATUS);
