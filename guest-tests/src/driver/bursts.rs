//! A virtio-net driver that hands the device whole bursts of frames with the virtio-net headers that it likes, and
//! shows those of the frames that come.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_memory::{Bytes, GuestAddress};

use super::{Client, Kicks, Posting, Queue};
use crate::packets::{Frame, VnetHeader};

/// Entries of its rings.
const SIZE: u16 = 256;
/// Bytes of the virtio-net header, with the number of buffers.
const HEADER_LEN: usize = 12;
/// Frames of a burst at most, and bytes of memory for each.
const FRAMES: u64 = 64;
const SLOT: u64 = 68 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// A driver of one queue pair.
#[derive(Debug)]
pub struct BurstNic {
    /// Its front end.
    pub client: Client,
    rx: Queue,
    tx: Queue,
    slots: u64,
    posted: HashMap<u16, (u64, u32)>,
}

impl BurstNic {
    /// Starts both rings, without EVENT_IDX.
    ///
    /// # Errors
    /// When the daemon does not offer the features, or ends.
    pub fn start(socket: &Path, features: u64, posting: Posting) -> Result<Self> {
        let mut client = Client::start(socket, features)?;
        let (rx, tx) = (client.running_queue(0, SIZE)?, client.running_queue(1, SIZE)?);
        let slots = client.memory.allocate(FRAMES * SLOT);
        let mut nic = Self { client, rx, tx, slots, posted: HashMap::new() };
        for _ in 0..posting.count {
            let at = nic.client.memory.allocate(posting.len.into());
            nic.post(at, posting.len)?;
        }
        nic.rx.kick()?;
        Ok(nic)
    }

    fn post(&mut self, at: u64, len: u32) -> Result<()> {
        let id = self.rx.add(&[(at, len)], true).context("the receive ring is full")?;
        self.posted.insert(id, (at, len));
        Ok(())
    }

    /// Where frame `at` of a burst lies with its virtio-net header.
    #[must_use]
    pub fn place(&self, at: usize) -> GuestAddress {
        GuestAddress(self.slots + at as u64 * SLOT)
    }

    /// Has the device find all frames at once: it sleeps when the first is offered. Waits until it has used all.
    ///
    /// # Errors
    /// When it does not.
    pub fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let lens = self.write(frames)?;
        self.offer(&lens)
    }

    /// Writes the frames of a burst; says the length of each with its header.
    ///
    /// # Errors
    /// When one is too long.
    pub fn write(&mut self, frames: &[Frame]) -> Result<Vec<u32>> {
        ensure!(frames.len() as u64 <= FRAMES, "a burst of {} frames", frames.len());
        let write = |(at, (header, frame)): (usize, &Frame)| {
            let bytes = [&header.to_bytes()[..], &[0; 2], frame].concat();
            ensure!(bytes.len() as u64 <= SLOT, "a frame of {} bytes", frame.len());
            self.client.memory.map.write_slice(&bytes, self.place(at))?;
            Ok(bytes.len() as u32)
        };
        frames.iter().enumerate().map(write).collect()
    }

    /// Offers what was written at the places of a burst, and waits until the device has used all.
    ///
    /// # Errors
    /// When it does not.
    pub fn offer(&mut self, lens: &[u32]) -> Result<()> {
        let start = Instant::now();
        while self.tx.kicks() != Kicks::Always {
            ensure!(start.elapsed() < PATIENCE, "the device does not fall asleep");
            std::thread::sleep(Duration::from_micros(50));
        }
        for (n, len) in lens.iter().enumerate() {
            let at = self.place(n).0;
            // In one to three pieces; one of them may end in the headers, which another then begins with.
            let first = (HEADER_LEN as u32 + [0, 20, 70][n / 3 % 3]).min(len - 1);
            let second = first + (len - first) / 2;
            let pieces = match n % 3 {
                0 => vec![(at, *len)],
                1 => vec![(at, first), (at + u64::from(first), len - first)],
                _ => vec![(at, first), (at + u64::from(first), second - first), (at + u64::from(second), len - second)],
            };
            self.tx.add(&pieces, false).context("the transmit ring is full")?;
        }
        self.tx.kick()?;
        for _ in lens {
            let (_, written) = self.tx.wait_used(PATIENCE)?;
            ensure!(written == 0, "the device wrote to a frame of the driver's");
        }
        Ok(())
    }

    /// The next frame; none if none comes in time. Its buffers are posted again.
    ///
    /// # Errors
    /// When what the device says of it cannot be.
    pub fn receive(&mut self, patience: Duration) -> Result<Option<Frame>> {
        let start = Instant::now();
        let first = loop {
            match self.rx.take_used() {
                Some(used) => break used,
                None if start.elapsed() > patience => return Ok(None),
                None => std::thread::sleep(Duration::from_micros(50)),
            }
        };
        let mut bytes = self.take(first)?;
        let count = bytes.get(10..HEADER_LEN).context("a frame shorter than its header")?;
        let count = u16::from_le_bytes([count[0], count[1]]);
        ensure!(count > 0, "a frame in no buffer");
        for _ in 1..count {
            let used = self.rx.wait_used(PATIENCE)?;
            bytes.extend(self.take(used)?);
        }
        self.rx.kick()?;
        let frame = bytes.split_off(HEADER_LEN);
        let header = bytes.first_chunk().context("a frame shorter than its header")?;
        Ok(Some((VnetHeader::from_bytes(header), frame)))
    }

    fn take(&mut self, (id, len): (u16, u32)) -> Result<Vec<u8>> {
        let (at, room) = self.posted.remove(&id).context("the device used a buffer that was not posted")?;
        ensure!(len <= room, "{len} bytes in a buffer of {room}");
        let mut bytes = vec![0; len as usize];
        self.client.memory.map.read_slice(&mut bytes, GuestAddress(at))?;
        self.post(at, room)?;
        Ok(bytes)
    }
}
