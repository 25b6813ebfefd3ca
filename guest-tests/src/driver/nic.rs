//! A virtio-net driver on a scripted front end, with a host at the other end of the TAP.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vm_memory::{Bytes, GuestAddress};

use super::frames::{self, Mac};
use super::{Client, Desc, Queue};
use crate::{NetNs, Vnicd};

/// `VIRTIO_F_VERSION_1`.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_NET_F_MRG_RXBUF`.
pub const MRG_RXBUF: u64 = 1 << 15;
/// `VIRTIO_F_INDIRECT_DESC`.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_RING_PACKED`.
pub const PACKED: u64 = 1 << 34;
/// `VIRTIO_F_IN_ORDER`.
pub const IN_ORDER: u64 = 1 << 35;

/// The ring formats, and the features that ask for each.
pub const FORMATS: [(&str, u64); 4] =
    [("split", 0), ("split, in order", IN_ORDER), ("packed", PACKED), ("packed, in order", PACKED | IN_ORDER)];

const GUEST_MAC: Mac = [0x02, 0, 0, 0, 0, 0x77];
const GUEST: [u8; 4] = [10, 77, 0, 2];
const HOST: [u8; 4] = [10, 77, 0, 1];
const PATIENCE: Duration = Duration::from_secs(10);

/// A buffer in pieces: guest address and length of each.
type Pieces = Vec<(u64, u32)>;

/// How the driver posts receive buffers.
#[derive(Clone, Copy, Debug)]
pub struct Posting {
    /// Chains posted at the start.
    pub count: u16,
    /// Bytes of each.
    pub len: u32,
}

/// A running NIC of one pair.
#[derive(Debug)]
pub struct ScriptedNic {
    /// Its front end.
    pub client: Client,
    /// Its receive queue.
    pub rx: Queue,
    /// Its transmit queue.
    pub tx: Queue,
    /// Bytes of the virtio-net header.
    pub header_len: usize,
    /// Whether buffers are posted and frames are sent in indirect tables.
    pub indirect: bool,
    posted: HashMap<u16, Pieces>,
    tx_buffer: u64,
    host: UdpSocket,
    host_mac: Mac,
}

impl ScriptedNic {
    /// Starts vnicd's end and the driver's: both rings run. IPv6 is off at the host, so that only what a test sends
    /// arrives.
    pub fn start(ns: &NetNs, vnicd: &Vnicd, features: u64, size: u16, posting: Posting) -> Result<Self> {
        let mut client = Client::start(vnicd.socket(), features)?;
        let rx = client.running_queue(0, size)?;
        let tx = client.running_queue(1, size)?;
        Self::with_queues(ns, client, rx, tx, features, posting)
    }

    /// A NIC on rings that a test started in its own way.
    pub fn with_queues(
        ns: &NetNs,
        mut client: Client,
        rx: Queue,
        tx: Queue,
        features: u64,
        posting: Posting,
    ) -> Result<Self> {
        ns.sh("ip addr replace 10.77.0.1/24 dev tap0 && ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
        let host_mac = frames::mac(&ns.sh("cat /sys/class/net/tap0/address")?).context("tap0 has no MAC address")?;
        let host = ns.run_in(|| UdpSocket::bind((std::net::Ipv4Addr::from(HOST), 0)))??;
        host.set_read_timeout(Some(PATIENCE))?;
        let header_len = if features & (VERSION_1 | MRG_RXBUF) != 0 { 12 } else { 10 };
        let tx_buffer = client.memory.allocate(128 << 10);
        let (posted, indirect) = (HashMap::new(), false);
        let mut nic = Self { client, rx, tx, header_len, indirect, posted, tx_buffer, host, host_mac };
        for _ in 0..posting.count {
            let at = nic.client.memory.allocate(posting.len.into());
            nic.post(at, posting.len)?;
        }
        Ok(nic)
    }

    /// Posts a receive buffer.
    pub fn post(&mut self, at: u64, len: u32) -> Result<()> {
        self.post_chain(&[(at, len)])
    }

    /// Posts a receive buffer in pieces.
    pub fn post_chain(&mut self, pieces: &[(u64, u32)]) -> Result<()> {
        let head = if self.indirect {
            let table = self.client.memory.allocate(pieces.len() as u64 * Desc::SIZE);
            self.rx.add_indirect(table, pieces, true)
        } else {
            self.rx.add(pieces, true)
        };
        self.posted.insert(head.context("the receive ring is full")?, pieces.to_vec());
        self.rx.kick().map(drop)
    }

    /// Posts a receive buffer of fresh memory.
    pub fn post_fresh(&mut self, len: u32) -> Result<()> {
        let at = self.client.memory.allocate(len.into());
        self.post(at, len)
    }

    /// A frame with a datagram for the host's socket.
    pub fn frame(&self, payload: &[u8]) -> Result<Vec<u8>> {
        let port = self.host.local_addr()?.port();
        Ok(frames::udp(GUEST_MAC, self.host_mac, (GUEST, 9000), (HOST, port), payload))
    }

    /// Sends a frame in `pieces` behind a header, and waits until the device has used it.
    pub fn send_raw(&mut self, header: &[u8], frame: &[u8], pieces: usize) -> Result<()> {
        self.send_from(self.tx_buffer, header, frame, pieces)
    }

    /// The same from a place in memory of the caller's.
    pub fn send_from(&mut self, at: u64, header: &[u8], frame: &[u8], pieces: usize) -> Result<()> {
        let bytes: Vec<u8> = [header, frame].concat();
        self.client.memory.map.write_slice(&bytes, GuestAddress(at))?;
        let piece = bytes.len().div_ceil(pieces.max(1));
        let buffers: Vec<_> =
            bytes.chunks(piece).enumerate().map(|(i, chunk)| (at + (i * piece) as u64, chunk.len() as u32)).collect();
        let head = if self.indirect {
            let table = self.client.memory.allocate(buffers.len() as u64 * Desc::SIZE);
            self.tx.add_indirect(table, &buffers, false)
        } else {
            self.tx.add(&buffers, false)
        };
        let head = head.context("the transmit ring is full")?;
        self.tx.kick()?;
        match self.tx.wait_used(PATIENCE)? {
            (used, 0) if used == head => Ok(()),
            other => bail!("chain {head} came back as {other:?}"),
        }
    }

    /// Sends a datagram to the host and checks that it arrives as it was.
    pub fn send(&mut self, payload: &[u8], pieces: usize) -> Result<()> {
        let frame = self.frame(payload)?;
        self.send_raw(&vec![0; self.header_len], &frame, pieces)?;
        self.host_receives(payload)
    }

    /// Waits for a datagram at the host and compares it.
    pub fn host_receives(&self, payload: &[u8]) -> Result<()> {
        let mut got = vec![0; 70_000];
        let n = self.host.recv(&mut got).context("the host got no datagram")?;
        if got[..n] != *payload {
            bail!("the host got {n} bytes that differ from the {} sent", payload.len());
        }
        Ok(())
    }

    /// The host's socket.
    pub fn host(&self) -> &UdpSocket {
        &self.host
    }

    /// Has the host send a datagram to the guest.
    pub fn host_sends(&self, payload: &[u8]) -> Result<()> {
        self.host.send_to(payload, (std::net::Ipv4Addr::from(GUEST), 9000))?;
        Ok(())
    }

    /// Waits for a frame from the device: its bytes without the header, and over how many buffers it came.
    pub fn receive(&mut self) -> Result<(Vec<u8>, u16)> {
        self.take_frame().map(|(bytes, buffers)| (bytes, buffers.len() as u16))
    }

    /// The next frame, and the buffers over which it came.
    fn take_frame(&mut self) -> Result<(Vec<u8>, Vec<Pieces>)> {
        let (mut bytes, first) = self.take_posted()?;
        let mut buffers = vec![first];
        if self.header_len == 12 {
            let count = bytes.get(10..12).context("the buffer is too short for the header")?;
            for _ in 1..u16::from_le_bytes([count[0], count[1]]) {
                let (more, buffer) = self.take_posted()?;
                bytes.extend(more);
                buffers.push(buffer);
            }
        }
        Ok((bytes.split_off(self.header_len), buffers))
    }

    /// The next buffer that the device used: what is in it, and the pieces in which it was posted.
    fn take_posted(&mut self) -> Result<(Vec<u8>, Pieces)> {
        let (head, len) = self.rx.wait_used(PATIENCE)?;
        let pieces = self.posted.remove(&head).context("the device used a buffer that was not posted")?;
        let room = pieces.iter().map(|(_, len)| len).sum();
        if len == 0 {
            bail!("the device used a receive buffer and says that it wrote nothing");
        }
        if len > room {
            bail!("the device claims {len} bytes in a buffer of {room}");
        }
        let mut bytes = vec![0; room as usize];
        let mut rest = bytes.as_mut_slice();
        for (at, len) in &pieces {
            let (piece, behind) = rest.split_at_mut(*len as usize);
            self.client.memory.map.read_slice(piece, GuestAddress(*at))?;
            rest = behind;
        }
        bytes.truncate(len as usize);
        Ok((bytes, pieces))
    }

    /// Waits for a datagram at the guest, compares it, and posts its buffers again unless `keep` says otherwise: over how
    /// many it came.
    pub fn expect_and_post(&mut self, payload: &[u8], keep: impl Fn(u64) -> bool) -> Result<u16> {
        let buffers = self.expect_in(payload)?;
        for pieces in buffers.iter().filter(|pieces| !keep(pieces[0].0)) {
            self.post_chain(pieces)?;
        }
        Ok(buffers.len() as u16)
    }

    /// Has the host send a datagram and checks that it comes to the guest as it was: over how many buffers.
    pub fn exchange(&mut self, payload: &[u8]) -> Result<u16> {
        self.host_sends(payload)?;
        self.expect(payload)
    }

    /// Waits for a datagram at the guest and compares it: over how many buffers it came.
    pub fn expect(&mut self, payload: &[u8]) -> Result<u16> {
        self.expect_in(payload).map(|buffers| buffers.len() as u16)
    }

    fn expect_in(&mut self, payload: &[u8]) -> Result<Vec<Pieces>> {
        let (frame, buffers) = self.take_frame()?;
        match frames::udp_payload(&frame) {
            Some((9000, got)) if got == payload => Ok(buffers),
            other => bail!("the guest got another frame: {:?} bytes of payload", other.map(|(_, p)| p.len())),
        }
    }
}
