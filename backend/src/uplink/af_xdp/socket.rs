//! Sets an AF_XDP socket up (Linux, Documentation/networking/af_xdp.rst): packet memory, four rings, and the queue that
//! it is bound to. The socket is open already: nothing here needs rights.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{RecvFlags, SendFlags};

use super::area::Area;
use super::budget;
use super::chunks::Chunks;
use super::ring::{Consumer, Descriptor, Producer};
use super::rx::RxRings;
use super::tx::TxRings;

/// Entries of the rings of each half, and its chunks. What is to be received must wait for the worker; what is sent
/// leaves burst by burst.
const RX_SIZE: u32 = 2048;
const TX_SIZE: u32 = 1024;

/// Entries of the ring of empty chunks. The kernel tells of those that it took only after it has filled them, so that
/// there may be twice as many as there are chunks.
const FILL_SIZE: u32 = 2 * RX_SIZE;

/// Bytes that the kernel leaves free before each frame that it receives (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// Sizes of chunks that every kernel takes.
const SMALL_CHUNK: usize = 2048;
const LARGE_CHUNK: usize = 4096;

/// How often, and how much later, a queue is tried again that another socket has.
const BUSY_RETRIES: u32 = 50;
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// Bytes of Ethernet's header with two VLAN tags.
const LINK_LEN: usize = 14 + 2 * 4;

/// An open socket, and where it goes.
#[derive(Debug)]
pub struct XdpSocket {
    /// The socket.
    pub fd: OwnedFd,
    /// Index of the interface.
    pub interface: u32,
    /// Number of its queue.
    pub queue: u32,
    /// Largest packet of the interface, in bytes of IP.
    pub mtu: u32,
    /// Whether driver and socket share packet memory: they must, must not, or do if they can.
    pub zero_copy: Option<bool>,
    /// Whether the kernel lets it poll the queue itself (`SO_PREFER_BUSY_POLL`).
    pub busy_poll: bool,
}

/// Why a socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// Another socket has the queue.
    #[error("queue {0} is in use by another AF_XDP socket: choose another with queue=N, or end that program")]
    Busy(u32),
    /// The driver cannot do it.
    #[error("the driver of queue {0} has no zero copy, or not now: use mode=auto or mode=copy")]
    NoZeroCopy(u32),
    /// Too much memory is locked.
    #[error(
        "no right to lock {kib} KiB of packet memory: raise the limit (ulimit -l, LimitMEMLOCK=), or start vnicd with \
         CAP_IPC_LOCK"
    )]
    Locked {
        /// How much, in KiB.
        kib: usize,
    },
    /// Anything else the kernel refused.
    #[error("cannot {what} an AF_XDP socket on queue {queue}")]
    Kernel {
        /// The queue.
        queue: u32,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A bound socket, and what it got.
#[derive(Debug)]
pub(super) struct Bound {
    fd: OwnedFd,
    pub(super) zero_copy: bool,
    /// A frame may lie in several chunks (`XDP_USE_SG`, Linux 6.6).
    pub(super) multi_buffer: bool,
    pub(super) busy_poll: bool,
    huge_pages: bool,
    chunk: usize,
}

impl Bound {
    /// Has the kernel look at the rings for sending.
    pub(super) fn wake_tx(&self) -> Result<(), Errno> {
        rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT).map(drop)
    }

    /// Has the kernel look at the rings for receiving, and at the queue itself if it is to be polled.
    pub(super) fn wake_rx(&self) {
        // What fails is tried again with the next look.
        let _ = rustix::net::recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (true, if self.zero_copy { "zero copy" } else { "copy" }),
            (self.multi_buffer, "multi-buffer"),
            (self.huge_pages, "huge pages"),
            (self.busy_poll, "busy poll"),
        ];
        for (_, word) in words.iter().filter(|(is, _)| *is) {
            write!(f, "{word}, ")?;
        }
        write!(f, "chunks of {} bytes", self.chunk)
    }
}

impl XdpSocket {
    /// Gives the socket its memory and its rings and binds it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn bind(self) -> Result<(Arc<Bound>, TxRings, RxRings), XdpError> {
        let Self { fd, interface, queue, mtu, zero_copy, busy_poll } = self;
        let kernel = |what| move |e: Errno| XdpError::Kernel { queue, what, source: e.into() };
        let chunk = if mtu as usize + LINK_LEN <= SMALL_CHUNK - HEADROOM { SMALL_CHUNK } else { LARGE_CHUNK };
        let len = (TX_SIZE + RX_SIZE) as usize * chunk;
        let (memory, huge_pages) =
            Area::of_memory(len).map_err(|source| XdpError::Kernel { queue, what: "find memory for", source })?;
        let region = XdpUmemReg {
            addr: memory.start() as u64,
            len: len as u64,
            chunk_size: chunk as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&fd, region).map_err(|e| match e {
            Errno::NOBUFS | Errno::PERM => XdpError::Locked { kib: len >> 10 },
            e => kernel("register packet memory of")(e),
        })?;
        let sizes = sockopt::set_xdp_umem_fill_ring_size(&fd, FILL_SIZE)
            .and_then(|()| sockopt::set_xdp_umem_completion_ring_size(&fd, TX_SIZE))
            .and_then(|()| sockopt::set_xdp_rx_ring_size(&fd, RX_SIZE))
            .and_then(|()| sockopt::set_xdp_tx_ring_size(&fd, TX_SIZE));
        sizes.map_err(kernel("make the rings of"))?;
        // A call costs the same for one as for many. Before Linux 6.17 it takes 32 at most.
        let _ = budget::set(&fd, TX_SIZE);
        let offsets = sockopt::xdp_mmap_offsets(&fd).map_err(kernel("find the rings of"))?;
        let unmapped = |source| XdpError::Kernel { queue, what: "map the rings of", source };
        let fill = Producer::map(fd.as_fd(), XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, FILL_SIZE).map_err(unmapped)?;
        let completion = Consumer::map(fd.as_fd(), XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, TX_SIZE);
        let rx = Consumer::<Descriptor>::map(fd.as_fd(), XDP_PGOFF_RX_RING, &offsets.rx, RX_SIZE).map_err(unmapped)?;
        let tx = Producer::<Descriptor>::map(fd.as_fd(), XDP_PGOFF_TX_RING, &offsets.tx, TX_SIZE).map_err(unmapped)?;
        let completion = completion.map_err(unmapped)?;
        let (tx_chunks, rx_chunks) = Chunks::split(memory, chunk, TX_SIZE as usize);
        // Some drivers look for chunks while the socket is bound, and only then.
        let mut rx = RxRings::new(rx, fill, rx_chunks);
        rx.fill();
        let (zero_copy, multi_buffer) = bind(&fd, interface, queue, zero_copy)?;
        let bound = Arc::new(Bound { fd, zero_copy, multi_buffer, busy_poll, huge_pages, chunk });
        let tx = TxRings::new(bound.clone(), tx, completion, tx_chunks);
        rx.socket = Some(bound.clone());
        Ok((bound, tx, rx))
    }
}

/// Binds the socket to its queue in the best way that the kernel lets it. Says whether without copying, and whether
/// frames may lie in several chunks.
fn bind(fd: &OwnedFd, interface: u32, queue: u32, zero_copy: Option<bool>) -> Result<(bool, bool), XdpError> {
    const NEED_WAKEUP: SocketAddrXdpFlags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    const SG: SocketAddrXdpFlags = SocketAddrXdpFlags::XDP_USE_SG;
    let ways = [(true, true), (true, false), (false, true), (false, false)];
    let mut last = Errno::INVAL;
    for (zero, sg) in ways.into_iter().filter(|(zero, _)| zero_copy.is_none_or(|wanted| wanted == *zero)) {
        let mut flags = NEED_WAKEUP;
        flags |= if zero { SocketAddrXdpFlags::XDP_ZEROCOPY } else { SocketAddrXdpFlags::XDP_COPY };
        flags.set(SG, sg);
        match bind_when_free(fd, &SocketAddrXdp::new(flags, interface, queue)) {
            Ok(()) => return Ok((zero, sg)),
            Err(Errno::BUSY) => return Err(XdpError::Busy(queue)),
            Err(e) => last = e,
        }
    }
    if zero_copy == Some(true) && matches!(last, Errno::OPNOTSUPP | Errno::INVAL) {
        return Err(XdpError::NoZeroCopy(queue));
    }
    Err(XdpError::Kernel { queue, what: "bind", source: last.into() })
}

/// Binds the socket, with patience: the kernel lets go of a queue some time after its socket was closed, as when a
/// daemon takes the place of one that has just ended.
fn bind_when_free(fd: &OwnedFd, address: &SocketAddrXdp) -> Result<(), Errno> {
    for _ in 0..BUSY_RETRIES {
        match rustix::net::bind(fd, address) {
            Err(Errno::BUSY) => std::thread::sleep(BUSY_INTERVAL),
            other => return other,
        }
    }
    rustix::net::bind(fd, address)
}
