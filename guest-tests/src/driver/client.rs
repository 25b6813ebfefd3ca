//! A front end whose every message a test decides on.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

use super::{GUEST_BASE, Queue, RingFormat, SharedMemory, USER_BASE};

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_VRING_F_LOG`.
const VRING_F_LOG: u32 = 1;
const SET_VRING_BASE: u32 = 10;
// Header flags.
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;
/// Most rings that a test asks for.
const MAX_RINGS: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(10);

/// A front end connected to vnicd.
pub struct Client {
    /// The `vhost` crate's front end; it asks for an answer to every message.
    pub front: Frontend,
    /// The same connection, for messages in the raw.
    raw: UnixStream,
    /// What the driver shares.
    pub memory: SharedMemory,
    features: u64,
}

/// An answer in the raw.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request that is answered.
    pub request: u32,
    /// Header flags.
    pub flags: u32,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as a number.
    pub fn value(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.body.as_slice().try_into().ok()?))
    }
}

impl Client {
    /// Connects and says nothing.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        Self::from_stream(stream)
    }

    /// Takes over a connection and says nothing.
    pub fn from_stream(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let raw = stream.try_clone()?;
        let front = Frontend::from_stream(stream, MAX_RINGS);
        front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        Ok(Self { front, raw, memory: SharedMemory::new(16 << 20)?, features: 0 })
    }

    /// Whether the device has closed the connection; answers that wait are left where they are.
    pub fn is_closed(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.raw, &mut [0u8; 1], flags) {
            Ok((came, _)) => came == 0,
            Err(e) => e != Errno::AGAIN && e != Errno::INTR,
        }
    }

    /// Ends the connection.
    pub fn hang_up(&self) {
        let _ = self.raw.shutdown(std::net::Shutdown::Both);
    }

    /// Goes on over another connection with the same memory and features, as a front end does that lost its device.
    pub fn reconnect(&mut self, stream: UnixStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        self.hang_up();
        self.raw = stream.try_clone()?;
        self.front = Frontend::from_stream(stream, MAX_RINGS);
        self.front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.negotiate(self.features)?;
        self.share_memory()
    }

    /// Connects, takes the features of `wanted` that are offered, and shares the memory.
    pub fn start(socket: &Path, wanted: u64) -> Result<Self> {
        let mut client = Self::connect(socket)?;
        client.negotiate(wanted)?;
        client.share_memory()?;
        Ok(client)
    }

    /// Takes the features of `wanted` that are offered, and all protocol features.
    pub fn negotiate(&mut self, wanted: u64) -> Result<()> {
        self.front.set_owner()?;
        let offered = self.front.get_features()?;
        let protocol = self.front.get_protocol_features()?;
        self.front.set_protocol_features(protocol)?;
        self.features = (wanted | PROTOCOL_FEATURES) & offered;
        ensure!(self.features & wanted == wanted, "{:#x} is not offered", wanted & !self.features);
        Ok(self.front.set_features(self.features)?)
    }

    /// The whole shared memory as one region.
    pub fn region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: self.memory.size,
            userspace_addr: USER_BASE,
            mmap_offset: 0,
            mmap_handle: self.memory.file.as_raw_fd(),
        }
    }

    /// Shares the memory by SET_MEM_TABLE.
    pub fn share_memory(&self) -> Result<()> {
        self.front.set_mem_table(&[self.region()])?;
        Ok(())
    }

    /// A ring in fresh memory, not yet known to the device.
    pub fn queue(&mut self, index: usize, size: u16) -> Result<Queue> {
        Queue::new(&mut self.memory, index, size, RingFormat::of(self.features))
    }

    /// Tells the device of a ring, up to its kick fd, which starts it.
    pub fn start_queue(&mut self, queue: &Queue) -> Result<()> {
        self.describe_queue(queue)?;
        self.front.set_vring_kick(queue.index, &queue.kick)?;
        Ok(())
    }

    /// Starts and enables a ring that nobody stopped. All that is known of where it stands is where it stood when it was
    /// set up, which is what QEMU remembers.
    pub fn resume_queue(&mut self, queue: &Queue) -> Result<()> {
        self.describe_queue(queue)?;
        self.set_base(queue.index, if queue.format().packed { 0x8000_8000 } else { 0 })?;
        self.front.set_vring_kick(queue.index, &queue.kick)?;
        Ok(self.front.set_vring_enable(queue.index, true)?)
    }

    /// Tells the device of a ring, all but its kick fd.
    pub fn describe_queue(&mut self, queue: &Queue) -> Result<()> {
        self.front.set_vring_num(queue.index, queue.size)?;
        self.set_addresses(queue, false)?;
        self.set_base(queue.index, queue.base())?;
        self.front.set_vring_call(queue.index, &queue.call)?;
        Ok(self.front.set_vring_err(queue.index, &queue.err)?)
    }

    /// Tells the device where a ring lies, and whether it is to log what it writes into the used ring.
    pub fn set_addresses(&self, queue: &Queue, log_used: bool) -> Result<()> {
        let user = |guest: u64| guest - GUEST_BASE + USER_BASE;
        let layout = VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: if log_used { VRING_F_LOG } else { 0 },
            desc_table_addr: user(queue.layout.desc),
            used_ring_addr: user(queue.layout.used),
            avail_ring_addr: user(queue.layout.avail),
            log_addr: log_used.then_some(queue.layout.used),
        };
        Ok(self.front.set_vring_addr(queue.index, &layout)?)
    }

    /// Says where a ring stands, in all of 32 bits.
    pub fn set_base(&self, index: usize, base: u32) -> Result<()> {
        // The crate has sixteen of them.
        if let Ok(base) = base.try_into() {
            return Ok(self.front.set_vring_base(index, base)?);
        }
        let body = [(index as u32).to_le_bytes(), base.to_le_bytes()].concat();
        self.send(SET_VRING_BASE, VERSION | NEED_REPLY, &body, &[])?;
        let reply = self.reply()?.context("the connection was closed")?;
        ensure!(reply.request == SET_VRING_BASE && reply.value() == Some(0), "the base was refused: {reply:?}");
        Ok(())
    }

    /// Changes the features of a running device.
    pub fn set_features(&mut self, features: u64) -> Result<()> {
        self.features = features | PROTOCOL_FEATURES;
        Ok(self.front.set_features(self.features)?)
    }

    /// The features that are acknowledged.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Starts and enables a new ring.
    pub fn running_queue(&mut self, index: usize, size: u16) -> Result<Queue> {
        let queue = self.queue(index, size)?;
        self.start_queue(&queue)?;
        self.front.set_vring_enable(index, true)?;
        Ok(queue)
    }

    /// Sends a message as it stands.
    pub fn send(&self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut bytes = Vec::new();
        for word in [request, flags, body.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        self.send_bytes(&bytes, fds)
    }

    /// Sends bytes as they stand.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ensure!(ancillary.push(SendAncillaryMessage::ScmRights(fds)), "too many file descriptors");
        }
        sendmsg(&self.raw, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next answer; none if the device closed the connection.
    pub fn reply(&self) -> Result<Option<Reply>> {
        let mut header = [0; 12];
        match (&self.raw).read(&mut header) {
            Ok(0) => return Ok(None),
            Ok(12) => {}
            Ok(n) => (&self.raw).read_exact(&mut header[n..])?,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(e).context("no answer came"),
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut body = vec![0; word(8) as usize];
        (&self.raw).read_exact(&mut body)?;
        Ok(Some(Reply { request: word(0), flags: word(4), body }))
    }

    /// Waits until the device has closed the connection.
    pub fn wait_closed(&self) -> Result<()> {
        while self.reply()?.is_some() {}
        Ok(())
    }
}

impl Drop for Client {
    /// Hangs up even while a child that another thread is just forking still holds the socket.
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("features", &self.features).finish_non_exhaustive()
    }
}
