//! What both sides share: the memory, the ways to wake each other, and dice.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use vnicd::memory::{MemoryTable, RegionInfo, Window};

/// Entries of every ring: few, so that it is full and empty often.
pub(crate) const SIZE: u16 = 32;
/// Bytes of every chain.
pub(crate) const BUFFER: usize = 16;

/// Descriptors.
pub(crate) const DESC: u64 = 0;
/// What the driver writes: available ring or event area.
pub(crate) const DRIVER: u64 = 0x1000;
/// What the device writes: used ring or event area.
pub(crate) const DEVICE: u64 = 0x2000;
/// The chains' memory.
pub(crate) const BUFFERS: u64 = 0x3000;
const END: u64 = 0x4000;

/// A sleep that lasts so long is one for ever.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How often a side looks whether it was woken before it sleeps.
const LOOKS: u64 = 200;

/// A kind of ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) packed: bool,
    pub(crate) event_idx: bool,
}

/// The guest's memory, as a file.
pub(crate) struct Memory(File);

impl Memory {
    pub(crate) fn new() -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(END).unwrap();
        Self(file)
    }

    /// A mapping of its own for each side.
    pub(crate) fn map(&self) -> Arc<MemoryTable> {
        let info = RegionInfo { guest_address: 0, size: END, user_address: 0, mmap_offset: 0 };
        Arc::new(MemoryTable::default().with_region(info, self.0.try_clone().unwrap()).unwrap())
    }
}

/// A page of it, with the driver's eyes.
pub(crate) fn page(table: &Arc<MemoryTable>, at: u64) -> Window {
    table.window(at, 0x1000, 16).unwrap()
}

/// Where the buffer of a descriptor starts in its page.
pub(crate) fn buffer(slot: u16) -> usize {
    usize::from(slot) * BUFFER
}

/// An eventfd that a side sleeps on as the daemon's workers do: edge-triggered and never read.
pub(crate) struct Wake {
    eventfd: OwnedFd,
    epoll: OwnedFd,
}

impl Wake {
    pub(crate) fn new() -> Self {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, &eventfd, EventData::new_u64(0), EventFlags::IN | EventFlags::ET).unwrap();
        Self { eventfd, epoll }
    }

    pub(crate) fn wake(&self) {
        rustix::io::write(&self.eventfd, &1u64.to_ne_bytes()).unwrap();
    }

    /// Sleeps until the other side wakes us; most often by looking for that a while, which leaves both sides running at
    /// the same time, where they can miss each other. Says whether it did.
    #[must_use]
    pub(crate) fn sleep(&self, dice: &mut Dice) -> bool {
        let looks = if dice.roll(16) == 1 { 0 } else { LOOKS };
        (0..looks).any(|_| self.wait(NO_TIME)) || self.wait(PATIENCE)
    }

    fn wait(&self, at_most: Timespec) -> bool {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 1];
        loop {
            match epoll::wait(&self.epoll, &mut events[..], Some(&at_most)) {
                Ok(n) => return n > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => panic!("epoll_wait: {e}"),
            }
        }
    }
}

/// Numbers in no order (xorshift), the same in each run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of 1 to `n`.
    pub(crate) fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n + 1
    }

    /// Takes up to `n` steps of time, so that the sides meet at other points each time.
    pub(crate) fn pause(&mut self, n: u64) {
        (0..self.roll(n)).for_each(|step| _ = std::hint::black_box(step));
    }
}
