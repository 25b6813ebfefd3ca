//! A driver on the uplink `loopback`: every frame that it sends must come back to it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_memory::{Bytes, GuestAddress};

use super::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use super::{Client, Queue};
use crate::Vnicd;

const PATIENCE: Duration = Duration::from_secs(20);
const HEADER_LEN: usize = 12;
const FRAME_LEN: usize = 200;
const BUFFER_LEN: u32 = 2048;

/// A driver with one running queue pair.
#[derive(Debug)]
pub struct Echo {
    /// Its front end.
    pub client: Client,
    /// Its receive queue.
    pub rx: Queue,
    /// Its transmit queue.
    pub tx: Queue,
    out: u64,
    back: u64,
    /// Frames that came back.
    pub rounds: u64,
}

impl Echo {
    /// Starts the first queue pair.
    pub fn start(vnicd: &Vnicd) -> Result<Self> {
        Self::at(vnicd.socket())
    }

    /// The same of the device at a socket.
    pub fn at(socket: &Path) -> Result<Self> {
        let mut client = Client::start(socket, VERSION_1 | MRG_RXBUF | EVENT_IDX)?;
        let (rx, tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        let (out, back) = (client.memory.allocate(4096), client.memory.allocate(BUFFER_LEN.into()));
        Ok(Self { client, rx, tx, out, back, rounds: 0 })
    }

    /// Sends a frame, different each time, and compares what comes back.
    pub fn round(&mut self) -> Result<()> {
        let payload: Vec<u8> = (0..FRAME_LEN as u64).map(|i| (i * 7 + self.rounds) as u8).collect();
        self.rx.add(&[(self.back, BUFFER_LEN)], true).context("the receive ring is full")?;
        self.rx.kick()?;
        self.client.memory.map.write_slice(&[&[0; HEADER_LEN], &payload[..]].concat(), GuestAddress(self.out))?;
        self.tx.add(&[(self.out, (HEADER_LEN + FRAME_LEN) as u32)], false).context("the transmit ring is full")?;
        self.tx.kick()?;
        self.tx.wait_used(PATIENCE).context("the frame was not sent")?;
        let (_, len) = self.rx.wait_used(PATIENCE).context("the frame did not come back")?;
        ensure!(len as usize == HEADER_LEN + FRAME_LEN, "a frame of {len} bytes came back");
        let mut got = vec![0; FRAME_LEN];
        self.client.memory.map.read_slice(&mut got, GuestAddress(self.back + HEADER_LEN as u64))?;
        let swapped = [&payload[6..12], &payload[..6], &payload[12..]].concat();
        ensure!(got == swapped, "frame {} came back otherwise", self.rounds);
        self.rounds += 1;
        Ok(())
    }
}
