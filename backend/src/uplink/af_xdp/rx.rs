//! The half that receives: frames lie in packet memory, and are copied from there to the guest.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::batch::{Batch, Step};
use super::chunks::Chunks;
use super::groups::Groups;
use super::port::XdpPort;
use super::ring::{Consumer, Descriptor, Producer};
use super::socket::Bound;
use crate::memory::{GuestSlice, copy_to_guest};
use crate::offload::{NetHeader, Offloads};
use crate::uplink::{MAX_FRAME, Receive, Received};

/// How many descriptors are given back at a time.
const BATCH: usize = 64;

/// Batches after which frames to groups are looked for even though the queue always has others.
const GROUPS_EVERY: u32 = 8;

/// The half of a queue that receives.
#[derive(Debug)]
pub struct XdpRx {
    port: Arc<XdpPort>,
    /// Another half receives; this one attaches and detaches.
    is_beside: bool,
    /// Packets may be joined.
    coalesce: bool,
    /// What the guest takes, as far as packets are joined for it.
    takes: Offloads,
    rings: Option<RxRings>,
    /// It is attached by this half.
    is_attached: bool,
    /// The worker looks all the time, and so is to poll the queue for the kernel.
    is_polling: bool,
    /// A frame that lay in several chunks, or came another way.
    gathered: Vec<u8>,
}

/// Rings and memory of the half.
#[derive(Debug)]
pub(super) struct RxRings {
    /// The socket, once it is bound.
    pub(super) socket: Option<Arc<Bound>>,
    /// Frames to groups, which come another way.
    pub(super) groups: Option<Groups>,
    rx: Consumer<Descriptor>,
    fill: Producer<u64>,
    chunks: Chunks,
    /// The chunks of descriptors that were taken and not given back; none where the kernel named none of ours.
    held: Vec<Option<u64>>,
    batches: u32,
    batch: Batch,
    /// Descriptors that were looked at already, and are not joined.
    looked: usize,
}

impl RxRings {
    pub(super) fn new(rx: Consumer<Descriptor>, fill: Producer<u64>, chunks: Chunks) -> Self {
        Self {
            socket: None,
            groups: None,
            rx,
            fill,
            chunks,
            held: Vec::with_capacity(2 * BATCH),
            batches: 0,
            batch: Batch::default(),
            looked: 0,
        }
    }

    /// Gives the kernel all chunks.
    pub(super) fn fill(&mut self) {
        for addr in self.chunks.addresses() {
            self.fill.push(addr);
        }
        self.fill.publish();
    }

    /// What the guest gets next, if it takes `takes`.
    #[inline]
    fn front(&mut self, takes: Offloads) -> Option<Step> {
        if let Some(step) = self.batch.step() {
            return Some(step);
        }
        if self.held.len() >= BATCH {
            self.release();
        }
        if takes.segments() && self.looked == 0 && self.rx.peek(self.held.len() as u32 + 1).is_some() {
            // A plan is for whole batches.
            self.release();
            let Self { rx, chunks, batch, .. } = self;
            self.looked = batch.look(chunks, takes, |at| rx.peek(at));
            if let Some(step) = self.batch.step() {
                self.looked = 0;
                return Some(step);
            }
        }
        let mut front = self.rx.peek(self.held.len() as u32);
        if front.is_none() && !self.held.is_empty() {
            // Whoever sleeps until there is a frame must have given the ones before back.
            self.release();
            front = self.rx.peek(0);
        }
        front.map(Step::Alone)
    }

    /// Takes what is next.
    #[inline]
    fn take(&mut self, step: Step) {
        let Self { held, chunks, batch, .. } = self;
        let mut hold = |descriptor: Descriptor| held.push(chunks.chunk_of(descriptor.addr));
        match step {
            _ if batch.step().is_some() => batch.made(hold),
            Step::Alone(descriptor) => {
                hold(descriptor);
                self.looked = self.looked.saturating_sub(1);
            }
            Step::Joined(_) => {}
        }
    }

    /// Gives back what was taken.
    #[inline]
    fn release(&mut self) {
        self.rx.release(self.held.len() as u32);
        for chunk in self.held.drain(..).flatten() {
            self.fill.push(chunk);
        }
        self.fill.publish();
        self.batches = self.batches.wrapping_add(1);
    }

    /// Throws away what waits. What comes meanwhile may be left.
    fn drain(&mut self) {
        for _ in 0..self.chunks.count() {
            let Some(step) = self.front(Offloads::default()) else { break };
            self.take(step);
        }
        self.looked = 0;
        if let Some(groups) = &mut self.groups {
            groups.drain();
        }
    }

    /// The next descriptor, after a look at the queue itself if that is ours to poll.
    fn front_polled(&mut self, takes: Offloads, is_polling: bool) -> Option<Step> {
        let front = self.front(takes);
        if front.is_none()
            && let Some(socket) = &self.socket
            && (is_polling && socket.busy_poll || self.fill.needs_wakeup())
        {
            socket.wake_rx();
            return self.front(takes);
        }
        front
    }

    /// Whether frames to groups waited long enough for the others.
    #[inline]
    fn are_groups_due(&self) -> bool {
        self.batches >= GROUPS_EVERY && self.groups.is_some()
    }

    /// Takes a frame to a group. Says whether there was one.
    fn take_from_groups(&mut self, frame: &mut Vec<u8>) -> bool {
        self.batches = 0;
        self.groups.as_mut().is_some_and(|groups| groups.receive(frame))
    }

    /// Takes a frame that lies in several chunks, of which `descriptor` is the first, and puts it together. Says
    /// whether it is whole.
    #[cold]
    fn gather(&mut self, mut descriptor: Descriptor, frame: &mut Vec<u8>) -> bool {
        frame.clear();
        let mut is_whole = true;
        loop {
            self.take(Step::Alone(descriptor));
            match self.chunks.bytes(descriptor.addr, descriptor.len as usize) {
                Some(bytes) => frame.extend_from_slice(bytes),
                None => is_whole = false,
            }
            if !descriptor.goes_on() {
                return is_whole && frame.len() <= MAX_FRAME;
            }
            match self.rx.peek(self.held.len() as u32) {
                Some(next) => descriptor = next,
                None => return false,
            }
        }
    }
}

impl XdpRx {
    pub(super) fn new(port: Arc<XdpPort>, coalesce: bool) -> Self {
        let (takes, gathered) = (Offloads::default(), Vec::new());
        Self { port, is_beside: false, coalesce, takes, rings: None, is_attached: false, is_polling: false, gathered }
    }

    /// For another thread that uses the same queue and receives nothing.
    pub(in crate::uplink) fn beside(&self) -> Self {
        Self { is_beside: true, ..Self::new(self.port.clone(), false) }
    }

    pub(in crate::uplink) fn fd(&self) -> BorrowedFd<'_> {
        self.port.frames_fd()
    }

    /// Whether the worker looks all the time.
    pub(in crate::uplink) fn set_polling(&mut self, on: bool) {
        self.is_polling = on;
        if !self.is_beside
            && let Err(e) = self.port.set_polled(on)
        {
            tracing::error!("an AF_XDP socket cannot be watched: {e}");
        }
    }

    /// Throws away what waits.
    pub(in crate::uplink) fn forget(&mut self) {
        self.take_new();
        if let Some(rings) = &mut self.rings {
            rings.drain();
        }
    }

    /// Lets frames come, or keeps them away. What waits then was for another guest.
    pub(in crate::uplink) fn attach(&mut self, takes: Option<Offloads>) -> io::Result<()> {
        self.takes = takes.filter(|_| self.coalesce).unwrap_or_default();
        if takes.is_some() != self.is_attached {
            if takes.is_some() {
                self.forget();
            }
            self.port.count_user(takes.is_some())?;
            self.is_attached = takes.is_some();
        }
        Ok(())
    }

    #[inline]
    fn take_new(&mut self) {
        if !self.is_beside
            && let Some(new) = self.port.new_rx()
        {
            self.rings = Some(new);
        }
    }
}

impl Receive for XdpRx {
    #[inline]
    fn next_plain(&mut self, room: usize) -> Option<&[u8]> {
        self.take_new();
        let rings = self.rings.as_mut().filter(|rings| !rings.are_groups_due())?;
        let step = rings.front(self.takes)?;
        let Step::Alone(descriptor) = step else { return None };
        let len = descriptor.len as usize;
        if descriptor.goes_on() || len > room || rings.chunks.read(descriptor.addr, len).is_none() {
            return None;
        }
        rings.take(step);
        rings.chunks.read(descriptor.addr, len)
    }

    fn receive(&mut self, slices: &[GuestSlice<'_>], skip: usize, _room: usize) -> Received<'_> {
        self.take_new();
        let Some(rings) = &mut self.rings else { return Received::Empty };
        let frame = if rings.are_groups_due() && rings.take_from_groups(&mut self.gathered) {
            &self.gathered[..]
        } else {
            match rings.front_polled(self.takes, self.is_polling) {
                None if rings.take_from_groups(&mut self.gathered) => &self.gathered[..],
                None => return Received::Empty,
                Some(Step::Joined(first)) => {
                    let (header, len) = rings.batch.write(first, &rings.chunks, slices, skip, &mut self.gathered);
                    rings.take(Step::Joined(first));
                    let done = copy_to_guest(&self.gathered, slices, skip);
                    return Received::Frame { header, len, rest: &self.gathered[done..] };
                }
                Some(Step::Alone(descriptor)) if descriptor.goes_on() => {
                    if !rings.gather(descriptor, &mut self.gathered) {
                        return Received::Spoilt;
                    }
                    &self.gathered[..]
                }
                Some(step @ Step::Alone(descriptor)) => {
                    rings.take(step);
                    match rings.chunks.read(descriptor.addr, descriptor.len as usize) {
                        Some(bytes) => bytes,
                        None => return Received::Spoilt,
                    }
                }
            }
        };
        let done = copy_to_guest(frame, slices, skip);
        Received::Frame { header: NetHeader::default(), len: frame.len(), rest: &frame[done..] }
    }
}

#[cfg(test)]
mod tests {
    use super::super::area::Area;
    use super::super::ring::testing::Kernel;
    use super::*;

    const CHUNK: usize = 2048;
    const COUNT: u32 = 16;

    /// Frames go round and round, and the kernel always shows them before it shows that it took their chunks.
    #[test]
    fn no_chunk_is_lost_to_a_kernel_that_is_late() {
        let (rx_kernel, rx) = Kernel::<Descriptor>::new(COUNT, Consumer::map);
        let (fill_kernel, fill) = Kernel::<u64>::new(2 * COUNT, Producer::map);
        let memory = Area::of_small_pages(CHUNK * COUNT as usize).unwrap();
        let (chunks, _) = Chunks::split(memory, CHUNK, COUNT as usize);
        let mut rings = RxRings::new(rx, fill, chunks);
        rings.fill();
        let mut taken = 0;
        for round in 0..50 {
            let burst = 1 + round % COUNT;
            for n in 0..burst {
                let addr = fill_kernel.get(taken + n) + 256;
                rx_kernel.put(taken + n, Descriptor { addr, len: 60, options: 0 });
            }
            rx_kernel.set_producer(taken + burst);
            for n in 0..burst {
                let step = rings.front(Offloads::default()).unwrap_or_else(|| panic!("frame {n} of round {round}"));
                rings.take(step);
            }
            assert!(rings.front(Offloads::default()).is_none());
            taken += burst;
            assert_eq!(fill_kernel.producer() - taken, COUNT, "chunks after round {round}");
            fill_kernel.set_consumer(taken);
        }
    }

    /// The rings, with frames of these descriptors in them.
    fn with(descriptors: &[Descriptor]) -> RxRings {
        let (kernel, rx) = Kernel::<Descriptor>::new(COUNT, Consumer::map);
        let (_, fill) = Kernel::<u64>::new(2 * COUNT, Producer::map);
        let memory = Area::of_small_pages(CHUNK * COUNT as usize).unwrap();
        let (mut chunks, _) = Chunks::split(memory, CHUNK, COUNT as usize);
        (0..).zip(descriptors).for_each(|(n, descriptor)| {
            if let Some(bytes) = chunks.bytes(descriptor.addr, descriptor.len as usize) {
                bytes.fill(n as u8 + 1);
            }
            kernel.put(n, *descriptor);
        });
        kernel.set_producer(descriptors.len() as u32);
        RxRings::new(rx, fill, chunks)
    }

    #[test]
    fn frames_in_several_chunks_are_put_together() {
        let goes_on = libc::XDP_PKT_CONTD;
        let piece = |chunk: u64, len, options| Descriptor { addr: chunk * CHUNK as u64 + 256, len, options };
        let mut frame = Vec::new();
        let mut rings = with(&[piece(3, 1700, goes_on), piece(1, 1700, goes_on), piece(2, 5, 0), piece(4, 60, 0)]);
        let Some(Step::Alone(first)) = rings.front(Offloads::ALL) else { panic!("no frame") };
        assert!(rings.gather(first, &mut frame));
        assert_eq!(frame, [vec![1; 1700], vec![2; 1700], vec![3; 5]].concat());
        assert!(matches!(rings.front(Offloads::ALL), Some(Step::Alone(next)) if next == piece(4, 60, 0)));
        // One that the kernel names nonsense in, and one that ends before its end.
        let nonsense = Descriptor { addr: u64::MAX, len: 5, options: 0 };
        let mut rings = with(&[piece(3, 1700, goes_on), nonsense, piece(1, 1700, goes_on)]);
        for _ in 0..2 {
            let Some(Step::Alone(first)) = rings.front(Offloads::ALL) else { panic!("no frame") };
            assert!(!rings.gather(first, &mut frame));
        }
        assert!(rings.front(Offloads::ALL).is_none());
    }
}
