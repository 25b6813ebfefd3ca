//! A scripted virtio-user client: a driver in user space whose frames come back to it, each as it was sent and in order.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use vhost::VhostUserMemoryRegionInfo;
use vhost::vhost_user::VhostUserFrontend;

use crate::driver::nic::{EVENT_IDX, FORMATS, MRG_RXBUF, VERSION_1};
use crate::driver::{Numbered, NumberedPair};
use crate::patience::Patience;

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PAIRS: usize = 2;
const SIZE: u16 = 256;
/// Frames on their way at a time on each pair, and how long the driver rests before it looks again.
const AHEAD: u64 = 64;
const REST: Duration = Duration::from_millis(2);
/// How long it waits before it connects again.
const RETRY: Duration = Duration::from_millis(20);
/// How long frames may take to come back after a connection was lost; a machine that stands still takes its part of it.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where memory is plugged in, and how much.
const PLUGGED: u64 = 0x4000_0000;
const PLUGGED_USER: u64 = 0x6000_0000_0000;
const PLUGGED_SIZE: u64 = 1 << 20;

/// What it is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// To lose its connection.
    HangUp,
    /// To end, and begin anew with the next ring format.
    Next,
    /// To share more memory, or to take that back.
    Memory,
    /// To end.
    End,
}

/// Frames, as counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) repeated: u64,
}

/// What a client shows while it runs.
#[derive(Debug, Default)]
struct Shown {
    sent: AtomicU64,
    /// Orders that it has carried out.
    done: AtomicU64,
    has_more_memory: AtomicBool,
}

/// A client on a thread of its own.
#[derive(Debug)]
pub(super) struct Client {
    orders: Sender<Order>,
    told: AtomicU64,
    shown: Arc<Shown>,
    thread: JoinHandle<Result<Frames>>,
}

impl Client {
    /// Starts one at this socket; `format` is the first of the ring formats.
    pub(super) fn start(socket: &Path, format: usize) -> Self {
        let (orders, taken) = mpsc::channel();
        let shown = Arc::<Shown>::default();
        let worker = Worker { socket: socket.into(), format, shown: shown.clone(), gone: Frames::default() };
        Self { orders, told: AtomicU64::new(0), shown, thread: thread::spawn(move || worker.run(&taken)) }
    }

    /// Frames that it has sent; almost as many have come back.
    pub(super) fn moved(&self) -> u64 {
        self.shown.sent.load(Ordering::Relaxed)
    }

    /// Whether it shares more memory than at first.
    pub(super) fn has_more_memory(&self) -> bool {
        self.shown.has_more_memory.load(Ordering::Relaxed)
    }

    /// Tells it what to do.
    pub(super) fn tell(&self, order: Order) {
        self.told.fetch_add(1, Ordering::Relaxed);
        // One that has failed is noticed by its end.
        let _ = self.orders.send(order);
    }

    /// Whether it has done all that it was told.
    pub(super) fn is_done(&self) -> bool {
        self.shown.done.load(Ordering::Relaxed) == self.told.load(Ordering::Relaxed)
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it: what it counted.
    pub(super) fn finish(self) -> Result<Frames> {
        self.tell(Order::End);
        self.thread.join().map_err(|_| anyhow!("a client panicked"))?
    }
}

struct Worker {
    socket: PathBuf,
    format: usize,
    shown: Arc<Shown>,
    /// Frames of drivers that have ended.
    gone: Frames,
}

impl Worker {
    fn run(mut self, orders: &Receiver<Order>) -> Result<Frames> {
        let mut replaces = false;
        loop {
            let (name, format) = FORMATS[self.format % FORMATS.len()];
            self.format += 1;
            let mut driver = Numbered::start(&self.socket, FEATURES | format, PAIRS, SIZE)?;
            if std::mem::take(&mut replaces) {
                self.shown.done.fetch_add(1, Ordering::Relaxed);
            }
            let end = self.drive(&mut driver, orders).with_context(|| format!("a client with {name} rings"))?;
            for pair in &mut driver.pairs {
                pair.settle(PATIENCE)?;
                self.gone.lost += pair.lost;
                self.gone.repeated += pair.repeated;
            }
            if end == Order::End {
                return Ok(Frames { sent: self.shown.sent.load(Ordering::Relaxed), ..self.gone });
            }
            replaces = true;
        }
    }

    /// Keeps frames going until it is told to end, or to begin anew.
    fn drive(&self, driver: &mut Numbered, orders: &Receiver<Order>) -> Result<Order> {
        let mut plugged = None;
        loop {
            let order = orders.try_recv();
            match order {
                Ok(Order::HangUp) => driver.client.hang_up(),
                Ok(Order::Memory) => plugged = change_memory(driver, plugged)?,
                Ok(order) => return Ok(order),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(Order::End),
            }
            if driver.client.is_closed() {
                self.reconnect(driver)?;
                plugged = None;
            }
            self.shown.has_more_memory.store(plugged.is_some(), Ordering::Relaxed);
            self.shown.done.fetch_add(order.is_ok().into(), Ordering::Relaxed);
            for pair in &mut driver.pairs {
                pair.receive()?;
                self.send(pair)?;
            }
            thread::sleep(REST);
        }
    }

    fn send(&self, pair: &mut NumberedPair) -> Result<()> {
        while pair.missing() < AHEAD && pair.offer()?.is_some() {
            self.shown.sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Connects again, and waits until the rings have come back to life.
    fn reconnect(&self, driver: &mut Numbered) -> Result<()> {
        let mut patience = Patience::new(PATIENCE);
        loop {
            match UnixStream::connect(&self.socket).map_err(Into::into).and_then(|stream| driver.reconnect(stream)) {
                Ok(()) => break,
                // One that is just ending lets somebody in and does not answer.
                Err(_) if driver.client.is_closed() && !patience.is_over() => thread::sleep(RETRY),
                Err(error) => return Err(error.context("the client does not come back")),
            }
        }
        driver.pairs.iter_mut().try_for_each(|pair| pair.settle(PATIENCE))
    }
}

/// Adds a region to the device's memory table, or removes that which was added.
fn change_memory(driver: &mut Numbered, plugged: Option<std::fs::File>) -> Result<Option<std::fs::File>> {
    use std::os::fd::AsRawFd;
    let region = |file: &std::fs::File| VhostUserMemoryRegionInfo {
        guest_phys_addr: PLUGGED,
        memory_size: PLUGGED_SIZE,
        userspace_addr: PLUGGED_USER,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    let memory = &mut driver.client.memory;
    match plugged {
        None => {
            let file = memory.plug(PLUGGED, PLUGGED_SIZE)?;
            memory.unplug(PLUGGED, PLUGGED_SIZE)?;
            driver.client.front.add_mem_region(&region(&file))?;
            Ok(Some(file))
        }
        Some(file) => {
            driver.client.front.remove_mem_region(&region(&file))?;
            Ok(None)
        }
    }
}
