//! What an honest front end says.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use guest_tests::driver::{GUEST_BASE, Queue, RingFormat, SharedMemory, USER_BASE};
use rustix::event::{EventfdFlags, eventfd};
use vhost::vhost_user::message::FrontendReq as Req;

use super::FEATURES;

const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Entries of the rings.
const SIZE: u16 = 16;
// Header flags.
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

/// A message, and the descriptors that come with it.
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

fn event() -> std::io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn long_words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn message(request: Req, body: &[u8], fds: Vec<OwnedFd>) -> Message {
    Message { bytes: [&words(&[request as u32, VERSION | NEED_REPLY, body.len() as u32]), body].concat(), fds }
}

/// Memory with two rings that have something in them.
pub(super) struct Guest {
    memory: SharedMemory,
    rings: [Queue; 2],
    kicks: [OwnedFd; 2],
    features: u64,
}

impl Guest {
    pub(super) fn new(format: u64) -> Result<Self> {
        let mut memory = SharedMemory::new(1 << 20)?;
        let features = FEATURES | PROTOCOL_FEATURES | format;
        let ring = |memory: &mut SharedMemory, index| Queue::new(memory, index, SIZE, RingFormat::of(features));
        let mut rings = [ring(&mut memory, 0)?, ring(&mut memory, 1)?];
        for (ring, is_rx) in rings.iter_mut().zip([true, false]) {
            for _ in 0..SIZE / 2 {
                ring.add(&[(memory.allocate(4096), 1500)], is_rx).context("the ring is full")?;
            }
        }
        Ok(Self { memory, rings, kicks: [event()?, event()?], features })
    }

    /// What an honest front end says of it, from the first word to the last.
    pub(super) fn conversation(&self, protocol: u64) -> Result<Vec<Message>> {
        let file = || std::io::Result::Ok(vec![OwnedFd::from(self.memory.file.try_clone()?)]);
        let region = [GUEST_BASE, self.memory.size, USER_BASE, 0];
        let more = [0, 1 << 32, 1 << 20, USER_BASE + (1 << 32), 0];
        let mut all = vec![
            message(Req::SET_OWNER, &[], vec![]),
            message(Req::GET_FEATURES, &[], vec![]),
            message(Req::GET_PROTOCOL_FEATURES, &[], vec![]),
            message(Req::SET_PROTOCOL_FEATURES, &long_words(&[protocol]), vec![]),
            message(Req::GET_QUEUE_NUM, &[], vec![]),
            message(Req::GET_MAX_MEM_SLOTS, &[], vec![]),
            message(Req::SET_FEATURES, &long_words(&[self.features]), vec![]),
            message(Req::SET_MEM_TABLE, &[words(&[1, 0]), long_words(&region)].concat(), file()?),
        ];
        for (ring, kick) in self.rings.iter().zip(&self.kicks) {
            let index = ring.index as u32;
            let at = |guest: u64| guest - GUEST_BASE + USER_BASE;
            let layout = [at(ring.layout.desc), at(ring.layout.used), at(ring.layout.avail), 0];
            all.extend([
                message(Req::SET_VRING_NUM, &words(&[index, SIZE.into()]), vec![]),
                message(Req::SET_VRING_ADDR, &[words(&[index, 0]), long_words(&layout)].concat(), vec![]),
                // Where it stood before there was something in it.
                message(
                    Req::SET_VRING_BASE,
                    &words(&[index, if ring.format().packed { 0x8000_8000 } else { 0 }]),
                    vec![],
                ),
                message(Req::SET_VRING_CALL, &long_words(&[index.into()]), vec![event()?]),
                message(Req::SET_VRING_ERR, &long_words(&[index.into()]), vec![event()?]),
                message(Req::SET_VRING_KICK, &long_words(&[index.into()]), vec![kick.try_clone()?]),
                message(Req::SET_VRING_ENABLE, &words(&[index, 1]), vec![]),
            ]);
        }
        all.push(message(Req::ADD_MEM_REG, &long_words(&more), file()?));
        all.push(message(Req::REM_MEM_REG, &long_words(&more), vec![]));
        all.push(message(Req::SET_LOG_BASE, &long_words(&[4096, 0]), file()?));
        all.extend([0, 1].map(|index| message(Req::GET_VRING_BASE, &words(&[index, 0]), vec![])));
        Ok(all)
    }

    /// Kicks both rings.
    pub(super) fn kick(&self) -> Result<()> {
        self.kicks.iter().try_for_each(|kick| Ok(rustix::io::write(kick, &1u64.to_ne_bytes()).map(drop)?))
    }
}
