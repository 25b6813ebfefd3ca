//! What each message means to a session (vhost-user, "Front-end message types"). The `vhost` crate has read and checked
//! its form before.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::fstatfs;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::refusal::Refusal;
use super::session::Session;
use crate::memory::{DirtyLog, MemoryTable, RegionInfo};
use crate::nic::{FeatureNames, read_config};
use crate::worker::{Message, QueueId};

/// Memory regions that a guest may have: what KVM itself allows, less what VMMs keep for other things.
const MAX_MEM_SLOTS: u64 = 509;

/// What holds eventfds and the like, instead of a file system (`ANON_INODE_FS_MAGIC` of linux/magic.h).
const ANON_INODES: i64 = 0x0904_1934;

/// What is offered of the protocol. QEMU acknowledges every bit that it sees, so only what works stands here.
const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::STATUS)
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::MTU)
    .union(VhostUserProtocolFeatures::RARP);

/// What is offered on top to a front end that leaves the configuration space to the back end.
const CONFIG_FEATURES: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::CONFIG.union(VhostUserProtocolFeatures::BACKEND_REQ);

fn region(info: &VhostUserMemoryRegion) -> RegionInfo {
    RegionInfo {
        guest_address: info.guest_phys_addr,
        size: info.memory_size,
        user_address: info.user_addr,
        mmap_offset: info.mmap_offset,
    }
}

/// A file descriptor that is to be an eventfd. One with a file system behind it could hold up whoever writes to it.
fn eventfd(id: QueueId, which: &'static str, file: Option<File>) -> std::result::Result<Option<OwnedFd>, Refusal> {
    match file {
        Some(file) if fstatfs(&file).is_ok_and(|stat| stat.f_type == ANON_INODES) => Ok(Some(file.into())),
        Some(_) => Err(Refusal::NotEventfd { id, which }),
        None => Ok(None),
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        self.note_first(true);
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(Refusal::Unsupported("RESET_DEVICE").into())
    }

    fn get_features(&mut self) -> Result<u64> {
        self.note_first(false);
        Ok(self.nic.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !self.nic.offered();
        if unknown != 0 {
            return Err(Refusal::NotOffered(unknown).into());
        }
        let before = self.features.replace(features).unwrap_or(0);
        if before != features {
            self.tell(|device, left_out| tracing::info!(%device, left_out, "features: {}", FeatureNames(features)));
            self.note();
            let understood = self.understood();
            for (id, worker) in self.nic.workers() {
                self.ask(id, &worker, |answer| Message::Features(understood, answer))?;
            }
            self.admit_all();
        }
        // Rings run on while a migration starts or is given up.
        if (before ^ features) & VhostUserVirtioFeatures::LOG_ALL.bits() != 0 {
            self.tell_logs()?;
        }
        // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            for index in 0..self.nic.rings() {
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
        let max = self.nic.max_queue_size();
        let packed = self.is_packed();
        let (_, id, ring) = self.ring(index)?;
        if ring.started {
            return Err(Refusal::Running { id }.into());
        }
        match u16::try_from(num) {
            Ok(size @ 1..) if (packed || size.is_power_of_two()) && size <= max => ring.size = size,
            _ if packed => return Err(Refusal::PackedRingSize { id, size: num, max }.into()),
            _ => return Err(Refusal::RingSize { id, size: num, max }.into()),
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let (at, id, ring) = self.ring(index)?;
        let log_address = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        if std::mem::replace(&mut ring.log_address, log_address) != log_address {
            self.tell_log(at)?;
        }
        let ring = &mut self.rings[at];
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
    /// the driver's index, which would skip what was posted before the ring started. So the base moves only a packed
    /// ring, whose memory does not tell. It is kept for a GET_VRING_BASE of a ring that never started, too.
    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let (_, _, ring) = self.ring(index)?;
        ring.base = base;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (at, ..) = self.ring(index)?;
        let base = self.stop_ring(at)?;
        // From now on the front end knows.
        if let Some(record) = self.nic.record(at) {
            record.forget();
        }
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (at, id, ring) = self.ring(index.into())?;
        let kick = eventfd(id, "kick", file)?;
        if ring.started {
            self.ask_if_any(id, |answer| Message::Kick(kick, answer))?;
            return Ok(());
        }
        ring.fds.kick = kick;
        self.start_ring(at)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (_, id, ring) = self.ring(index.into())?;
        let call = eventfd(id, "call", file)?;
        if ring.started {
            self.ask_if_any(id, |answer| Message::Call(call, answer))?;
        } else {
            ring.fds.call = call;
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (_, id, ring) = self.ring(index.into())?;
        let err = eventfd(id, "err", file)?;
        if ring.started {
            self.ask_if_any(id, |answer| Message::Err(err, answer))?;
        } else {
            ring.fds.err = err;
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(if self.reads_config() { PROTOCOL_FEATURES.union(CONFIG_FEATURES) } else { PROTOCOL_FEATURES })
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !self.get_protocol_features()?.bits();
        if unknown != 0 {
            return Err(Refusal::ProtocolNotOffered(unknown).into());
        }
        self.protocol_features = features;
        self.note();
        Ok(())
    }

    /// The number of rings: some front ends mean pairs, one means rings, and the larger number satisfies both.
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.nic.rings().into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (at, id, ring) = self.ring(index)?;
        ring.enabled = enable;
        if ring.started
            && let Some(worker) = self.worker_of(id)
        {
            if enable {
                self.admit(at);
            }
            self.ask(id, &worker, |answer| Message::RingEnable(enable, answer))?;
            self.admit(at);
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
            if self.memory.len() as u64 >= MAX_MEM_SLOTS {
                return Err(Refusal::TooManyRegions(MAX_MEM_SLOTS).into());
            }
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

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Ok(read_config(&self.nic, offset, size).ok_or(Refusal::OutsideConfig { offset, size })?)
    }

    /// Drivers of old write their MAC address; a device with VERSION_1 has nothing that can be written.
    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Ok(())
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

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let log = DirtyLog::new(file, log.mmap_offset, log.mmap_size).map_err(Refusal::Memory)?;
        self.tell(|device, left_out| tracing::info!(%device, left_out, "dirty log mapped"));
        Ok(self.set_log(log)?)
    }
}
