//! A driver of one or more queue pairs on an uplink that returns its frames: numbered frames that come back in their order
//! and as they were sent.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Client, Queue};

/// Bytes of the virtio-net header.
const HEADER: usize = 12;
/// Bytes of each buffer.
const BUFFER: u32 = 2048;
/// Addresses and an EtherType for experiments (IEEE 802), as they are sent.
const SENT: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x77, 0x88, 0xb5];
/// As they come back: with the addresses swapped.
const CAME: [u8; 14] = [2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/// A driver of some pairs.
#[derive(Debug)]
pub struct Numbered {
    /// Its front end.
    pub client: Client,
    /// Its pairs.
    pub pairs: Vec<NumberedPair>,
}

/// A queue pair. It may be used by a thread of its own.
#[derive(Debug)]
pub struct NumberedPair {
    /// Its receive queue.
    pub rx: Queue,
    /// Its transmit queue.
    pub tx: Queue,
    /// Frames may be missing among those that come, such as those on their way when a ring stopped.
    pub may_lose: bool,
    /// Frames may come once more, such as those of which a device that was killed had not said that it sent them.
    pub may_repeat: bool,
    /// Frames that did not come.
    pub lost: u64,
    /// Frames that came once more.
    pub repeated: u64,
    map: GuestMemoryMmap,
    spare: Vec<u64>,
    sent: HashMap<u16, u64>,
    posted: HashMap<u16, u64>,
    next_sent: u64,
    next_received: u64,
}

/// What a thread that keeps frames going shows of it.
#[derive(Debug, Default)]
pub struct Going {
    /// Frames sent.
    pub frames: AtomicU64,
    /// Frames for which the device wanted to be kicked.
    pub kicks: AtomicU64,
}

impl Numbered {
    /// Pairs that run, with rings of `size` entries; half of those of a receive ring have buffers.
    pub fn start(socket: &Path, features: u64, pairs: usize, size: u16) -> Result<Self> {
        let mut client = Client::start(socket, features)?;
        let new = |pair| NumberedPair::start(&mut client, pair, size, size / 2);
        let pairs = (0..pairs).map(new).collect::<Result<_>>()?;
        Ok(Self { client, pairs })
    }

    /// Goes on over another connection with rings that nobody stopped.
    pub fn reconnect(&mut self, stream: UnixStream) -> Result<()> {
        let Self { client, pairs } = self;
        client.reconnect(stream)?;
        for pair in pairs {
            (pair.may_lose, pair.may_repeat) = (true, true);
            for ring in [&pair.rx, &pair.tx] {
                client.resume_queue(ring)?;
            }
        }
        Ok(())
    }

    /// Stops the rings of a pair, whatever is under way, and starts them where they stopped.
    pub fn restart(&mut self, pair: usize) -> Result<()> {
        let Self { client, pairs } = self;
        let pair = &mut pairs[pair];
        pair.may_lose = true;
        let rings = [&pair.rx, &pair.tx];
        let bases = rings.map(|ring| client.front.get_vring_base(ring.index));
        for (ring, base) in rings.into_iter().zip(bases) {
            client.describe_queue(ring)?;
            client.set_base(ring.index, base?)?;
            client.front.set_vring_kick(ring.index, &ring.kick)?;
        }
        Ok(())
    }
}

impl NumberedPair {
    /// Starts pair number `pair` with rings of `size` entries, of which `buffers` receive buffers.
    pub fn start(client: &mut Client, pair: usize, size: u16, buffers: u16) -> Result<Self> {
        let (rx, tx) = (client.running_queue(2 * pair, size)?, client.running_queue(2 * pair + 1, size)?);
        Self::with_queues(client, rx, tx, buffers)
    }

    /// A pair on rings that a test started in its own way.
    pub fn with_queues(client: &mut Client, rx: Queue, tx: Queue, buffers: u16) -> Result<Self> {
        let spare = (0..tx.size).map(|_| client.memory.allocate(BUFFER.into())).collect();
        let mut pair = Self {
            rx,
            tx,
            may_lose: false,
            may_repeat: false,
            lost: 0,
            repeated: 0,
            map: client.memory.map.clone(),
            spare,
            sent: HashMap::new(),
            posted: HashMap::new(),
            next_sent: 0,
            next_received: 0,
        };
        for _ in 0..buffers {
            pair.post(client.memory.allocate(BUFFER.into()))?;
        }
        Ok(pair)
    }

    /// Posts a receive buffer. Says whether the device wanted to be kicked for it.
    pub fn post(&mut self, at: u64) -> Result<bool> {
        let id = self.rx.add(&[(at, BUFFER)], true).context("the receive ring is full")?;
        self.posted.insert(id, at);
        self.rx.kick()
    }

    /// Offers the next frame. Says whether the device wanted to be kicked for it; none if there was no room for it.
    pub fn offer(&mut self) -> Result<Option<bool>> {
        let frame = numbered(self.next_sent, &SENT);
        let kicked = self.offer_frame(&frame)?;
        self.next_sent += u64::from(kicked.is_some());
        Ok(kicked)
    }

    /// The same with any frame.
    pub fn offer_frame(&mut self, frame: &[u8]) -> Result<Option<bool>> {
        while let Some((id, _)) = self.tx.take_used() {
            self.spare.push(self.sent.remove(&id).context("a chain that was not offered is used")?);
        }
        let Some(at) = self.spare.pop() else { return Ok(None) };
        self.map.write_slice(&[&[0; HEADER], frame].concat(), GuestAddress(at))?;
        let Some(id) = self.tx.add(&[(at, (HEADER + frame.len()) as u32)], false) else {
            self.spare.push(at);
            return Ok(None);
        };
        self.sent.insert(id, at);
        self.tx.kick().map(Some)
    }

    /// A frame that has come, if one has, without its header. Its buffer is posted again.
    pub fn take_frame(&mut self) -> Result<Option<Vec<u8>>> {
        let (at, len) = loop {
            let Some((id, len)) = self.rx.take_used() else { return Ok(None) };
            let at = self.posted.remove(&id).context("a buffer that was not posted is used")?;
            if len > 0 || !self.may_repeat {
                break (at, len);
            }
            // What a device that was killed had not finished.
            self.post(at)?;
        };
        ensure!((HEADER as u32..=BUFFER).contains(&len), "{len} bytes in a buffer of {BUFFER}");
        let mut bytes = vec![0; len as usize];
        self.map.read_slice(&mut bytes, GuestAddress(at))?;
        self.post(at)?;
        Ok(Some(bytes.split_off(HEADER)))
    }

    /// Takes all frames that have come, each of which must be the next one, as it was sent. Says how many.
    pub fn receive(&mut self) -> Result<u64> {
        let mut came = 0;
        while let Some(frame) = self.take_frame()? {
            let number = frame.get(14..22).context("a short frame")?;
            let number = u64::from_le_bytes(number.try_into()?);
            if self.may_repeat && number < self.next_received {
                ensure!(frame == numbered(number, &CAME), "frame {number} has changed, and comes once more");
                self.repeated += 1;
                continue;
            }
            let is_next = number == self.next_received || (self.may_lose && number > self.next_received);
            ensure!(is_next, "frame {number} came, {} was to come next", self.next_received);
            ensure!(number < self.next_sent, "frame {number} came and was not sent");
            ensure!(frame == numbered(number, &CAME), "frame {number} has changed");
            self.lost += number - self.next_received;
            self.next_received = number + 1;
            came += 1;
        }
        Ok(came)
    }

    /// Frames that were sent and have not come back, nor any after them.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.next_sent - self.next_received
    }

    /// Sends `count` frames, at most `ahead` before they come back, and waits for all of them, for `patience` at most. The
    /// driver polls.
    pub fn exchange(&mut self, count: u64, ahead: u64, patience: Duration) -> Result<()> {
        let (start, goal) = (Instant::now(), self.next_sent + count);
        while self.next_received < goal {
            while self.next_sent < goal && self.missing() < ahead && self.offer()?.is_some() {}
            if self.receive()? == 0 {
                std::thread::yield_now();
            }
            if start.elapsed() > patience {
                bail!("frame {} has not come back within {patience:?}", self.next_received);
            }
        }
        (self.may_lose, self.may_repeat) = (false, false);
        Ok(())
    }

    /// Keeps `ahead` frames on their way until it is told to stop.
    pub fn keep_going(&mut self, ahead: u64, going: &Going, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.receive()?;
            while self.missing() < ahead
                && let Some(kicked) = self.offer()?
            {
                going.frames.fetch_add(1, Ordering::Relaxed);
                going.kicks.fetch_add(kicked.into(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Waits until nothing is on its way, however much of it was lost.
    pub fn settle(&mut self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        // The frame behind the lost ones comes back, and no other after it.
        self.exchange(1, u64::MAX, patience).with_context(|| format!("after {:?}", start.elapsed()))
    }
}

/// A frame with a number, of a length that goes by it.
fn numbered(number: u64, addresses: &[u8; 14]) -> Vec<u8> {
    let filler = vec![number as u8; 38 + number as usize * 37 % 1400];
    [&addresses[..], &number.to_le_bytes(), &filler].concat()
}
