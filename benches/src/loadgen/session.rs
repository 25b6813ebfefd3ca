//! A vhost-user connection with its memory and rings: what stands between two programs before packets move.

#![forbid(unsafe_code)]

use std::fs;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

use super::eventfd::Event;
use super::frame::{BUFFER_OFFSET, MAX_FRAME, MIN_FRAME, NET_HEADER};
use super::memory::{GUEST_BASE, Memory, View};
use super::ring::{Ring, RingConfig};

const VERSION_1: u64 = 1 << 32;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT_DESC: u64 = 1 << 28;
const MRG_RXBUF: u64 = 1 << 15;

/// Most regions in a message of the whole memory (vhost-user, "Memory regions description").
const MAX_TABLE: usize = 8;

/// How long the other side may take to listen or to connect, and to answer a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked of the device.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The socket.
    pub socket: PathBuf,
    /// Listen there for the device instead of connecting to it.
    pub server: bool,
    /// Queue pairs.
    pub queues: usize,
    /// Entries of each ring.
    pub queue_size: u16,
    /// Ask for EVENT_IDX; without it flags alone tell who wants to be told.
    pub event_idx: bool,
    /// Send by indirect tables of two descriptors, header and frame.
    pub indirect: bool,
    /// Bytes of a receive buffer; longer frames fill several.
    pub rx_buffer: u32,
    /// Put the memory on huge pages of 2 MiB.
    pub huge_pages: bool,
    /// Regions in which the memory is shared: the first pair's packets to send are spread over them.
    pub regions: usize,
}

impl SessionConfig {
    /// One pair of 256 entries with EVENT_IDX on small pages.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let (socket, server, queues, queue_size) = (socket.into(), false, 1, 256);
        Self {
            socket,
            server,
            queues,
            queue_size,
            event_idx: true,
            indirect: false,
            rx_buffer: 2048,
            huge_pages: false,
            regions: 1,
        }
    }

    fn features(&self) -> u64 {
        let optional = [(self.event_idx, EVENT_IDX), (self.indirect, INDIRECT_DESC)];
        let wanted = VERSION_1 | PROTOCOL_FEATURES | MRG_RXBUF;
        optional.iter().filter(|(on, _)| *on).fold(wanted, |bits, (_, bit)| bits | bit)
    }
}

/// A ring and the fds that go with it.
#[derive(Debug)]
pub struct Queue {
    /// The ring.
    pub ring: Ring,
    kick: Event,
    call: Event,
    err: Event,
}

impl Queue {
    fn new(memory: &mut Memory, config: RingConfig) -> Result<Self> {
        Ok(Self { ring: Ring::new(memory, config)?, kick: Event::new()?, call: Event::new()?, err: Event::new()? })
    }

    /// Kicks the device.
    pub fn kick(&self) -> Result<()> {
        self.kick.write(1).context("cannot kick")
    }

    /// What to write to for a kick.
    #[must_use]
    pub fn kick_fd(&self) -> &Event {
        &self.kick
    }

    /// How often the device called since this was asked last.
    pub fn calls(&self) -> u64 {
        self.call.read().unwrap_or(0)
    }

    /// The device said that this ring is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.err.read().is_ok()
    }

    /// What to wait on for calls.
    #[must_use]
    pub fn call_fd(&self) -> &Event {
        &self.call
    }
}

/// Receive and transmit queue.
#[derive(Debug)]
pub struct QueuePair {
    /// Device to driver.
    pub rx: Queue,
    /// Driver to device.
    pub tx: Queue,
}

/// A connection whose rings run; the device lets go of them when it is dropped.
pub struct Session {
    front: Frontend,
    /// The same connection.
    stream: UnixStream,
    peer: u32,
    _memory: Memory,
    /// The pairs; a driver takes them out.
    pub pairs: Vec<QueuePair>,
}

impl Session {
    /// Connects, negotiates, shares memory, and starts and enables every ring. Nothing is posted.
    ///
    /// # Errors
    /// When the device does not come, does not offer what is needed, or refuses.
    pub fn start(config: &SessionConfig) -> Result<Self> {
        let rings = 2 * config.queues;
        ensure!((1..=128).contains(&config.queues), "{} queue pairs: 1 to 128 can be", config.queues);
        ensure!(config.rx_buffer as usize >= NET_HEADER + MIN_FRAME, "receive buffers of {} bytes", config.rx_buffer);
        let stream = if config.server { accept(config)? } else { connect(config)? };
        stream.set_read_timeout(Some(PATIENCE))?;
        let peer = serving(rustix::net::sockopt::socket_peercred(&stream)?.pid.as_raw_nonzero().get().unsigned_abs());
        let mut front = Frontend::from_stream(stream.try_clone()?, rings as u64);
        let features = config.features();
        front.set_owner()?;
        let offered = front.get_features()?;
        ensure!(offered & features == features, "the device does not offer {:#x}", features & !offered);
        // A device that is to be told the driver's status does not begin before it is.
        let protocol = front.get_protocol_features()? - VhostUserProtocolFeatures::STATUS;
        front.set_protocol_features(protocol)?;
        // Not before: a device answers what it is asked to, whether or not the crate reads it.
        front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        front.set_features(features)?;

        let (tx, rx) = (ring_config(config, false), ring_config(config, true));
        let mut memory = Memory::new(config.queues * (Ring::bytes(&tx) + Ring::bytes(&rx)), config.huge_pages)?;
        let mut pairs = Vec::new();
        for _ in 0..config.queues {
            pairs.push(QueuePair { rx: Queue::new(&mut memory, rx)?, tx: Queue::new(&mut memory, tx)? });
        }
        share(&mut front, &memory, config, pairs[0].tx.ring.buffers())?;
        for (pair, QueuePair { rx, tx }) in pairs.iter().enumerate() {
            for (index, queue) in [(2 * pair, rx), (2 * pair + 1, tx)] {
                start_queue(&mut front, index, queue).with_context(|| format!("ring {index} cannot be started"))?;
            }
        }
        for index in 0..rings {
            front.set_vring_enable(index, true)?;
        }
        Ok(Self { front, stream, peer, _memory: memory, pairs })
    }

    /// Process id of the device.
    #[must_use]
    pub fn peer(&self) -> u32 {
        self.peer
    }

    /// The protocol, for tests that go on talking.
    pub fn front(&mut self) -> &mut Frontend {
        &mut self.front
    }
}

/// The process that serves a connection whose socket `pid` made: vnicd has a child that makes its sockets.
fn serving(pid: u32) -> u32 {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    if read("comm").trim() != "vnicd-opener" {
        return pid;
    }
    let parent = read("status").lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    parent.unwrap_or(pid)
}

impl Drop for Session {
    /// Hangs up even while a child that another thread is just forking still holds the socket.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).field("pairs", &self.pairs.len()).finish_non_exhaustive()
    }
}

fn ring_config(config: &SessionConfig, device_writes: bool) -> RingConfig {
    let buffer_len = if device_writes { config.rx_buffer } else { (NET_HEADER + MAX_FRAME) as u32 };
    let stride = (BUFFER_OFFSET + buffer_len as usize).next_multiple_of(64);
    // A stride that is a power of two would put all packets into the same sets of a cache.
    let stride = if stride.is_power_of_two() { stride + 64 } else { stride };
    let indirect_split = (config.indirect && !device_writes).then_some(NET_HEADER as u32);
    let (size, event_idx) = (config.queue_size, config.event_idx);
    RingConfig { size, event_idx, device_writes, buffer_len, stride, offset: BUFFER_OFFSET, indirect_split }
}

/// Tells of the memory: in one message if that holds all regions, else one by one.
fn share(front: &mut Frontend, memory: &Memory, config: &SessionConfig, spread: &View) -> Result<()> {
    ensure!(config.regions == 1 || !config.huge_pages, "regions end where pages do: no huge pages then");
    let region = |(offset, size): (u64, u64)| VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST_BASE + offset,
        memory_size: size,
        userspace_addr: memory.user_address() + offset,
        mmap_offset: offset,
        mmap_handle: memory.file().as_raw_fd(),
    };
    let regions: Vec<_> = memory.split(config.regions, spread)?.into_iter().map(region).collect();
    if regions.len() <= MAX_TABLE {
        front.set_mem_table(&regions)?;
    } else {
        for region in &regions {
            front.add_mem_region(region).context("the device takes no more regions")?;
        }
    }
    Ok(())
}

fn start_queue(front: &mut Frontend, index: usize, queue: &Queue) -> Result<()> {
    let size = queue.ring.config().size;
    let [desc, avail, used] = queue.ring.parts().map(View::user_address);
    front.set_vring_num(index, size)?;
    front.set_vring_addr(
        index,
        &VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: desc,
            used_ring_addr: used,
            avail_ring_addr: avail,
            log_addr: None,
        },
    )?;
    front.set_vring_base(index, 0)?;
    front.set_vring_call(index, &queue.call)?;
    front.set_vring_err(index, &queue.err)?;
    Ok(front.set_vring_kick(index, &queue.kick)?)
}

/// Connects to a device that listens, or soon will.
fn connect(config: &SessionConfig) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(&config.socket) {
            Ok(stream) => return Ok(stream),
            Err(e) if start.elapsed() > PATIENCE => {
                return Err(e).with_context(|| format!("cannot connect to {}", config.socket.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Listens until a device has connected; the socket is gone afterwards.
fn accept(config: &SessionConfig) -> Result<UnixStream> {
    let path = &config.socket;
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let mut fds = [PollFd::new(&listener, PollFlags::IN)];
    let came = poll(&mut fds, Some(&Timespec::try_from(PATIENCE)?));
    fs::remove_file(path)?;
    match came? {
        0 => bail!("nobody connected to {}", path.display()),
        _ => Ok(listener.accept()?.0),
    }
}
