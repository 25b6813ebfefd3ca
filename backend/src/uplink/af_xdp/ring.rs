//! The rings of an AF_XDP socket (Linux, Documentation/networking/af_xdp.rst): single producer, single consumer, one
//! side of each the kernel's.
//!
//! What the kernel writes is read once and checked: an index can claim no more entries than the ring has.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::xdp::{XdpRingFlags, XdpRingOffset};

use super::area::Area;

/// `struct xdp_desc`: a piece of packet memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) options: u32,
}

impl Descriptor {
    /// Whether the frame goes on in the next descriptor.
    pub(super) fn goes_on(self) -> bool {
        self.options & libc::XDP_PKT_CONTD != 0
    }
}

/// What an entry of a ring may be.
///
/// # Safety
/// Every pattern of bits is a value.
pub(super) unsafe trait Entry: Copy {}
// SAFETY: three integers.
unsafe impl Entry for Descriptor {}
// SAFETY: an integer.
unsafe impl Entry for u64 {}

/// What both kinds of rings are made of.
#[derive(Debug)]
struct Ring<T> {
    area: Area,
    /// Where things are, in bytes from the start of the area; checked to lie in it, on their alignment.
    producer: usize,
    consumer: usize,
    flags: Option<usize>,
    entries: usize,
    mask: u32,
    kind: std::marker::PhantomData<T>,
}

impl<T: Entry> Ring<T> {
    fn map(socket: BorrowedFd<'_>, page: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let end = at(offsets.desc).saturating_add(size as usize * size_of::<T>());
        let area = Area::of_ring(socket, page, end)?;
        let is_word = |offset: usize| offset.is_multiple_of(4) && offset < area.len() - 3;
        let (producer, consumer, flags) = (at(offsets.producer), at(offsets.consumer), offsets.flags.map(at));
        let words = [producer, consumer, flags.unwrap_or(0)];
        let entries = at(offsets.desc);
        if !size.is_power_of_two() || !words.into_iter().all(is_word) || !entries.is_multiple_of(align_of::<T>()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { area, producer, consumer, flags, entries, mask: size - 1, kind: std::marker::PhantomData })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `map` saw to it that four aligned bytes are there; everybody who uses them uses atomics.
        unsafe { AtomicU32::from_ptr(self.area.start().wrapping_add(at).cast()) }
    }

    fn size(&self) -> u32 {
        self.mask + 1
    }

    /// The place of entry number `index`, counted on and on.
    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        self.area.start().wrapping_add(self.entries).cast::<T>().wrapping_add((index & self.mask) as usize)
    }

    fn needs_wakeup(&self) -> bool {
        self.flags.is_some_and(|at| {
            let flags = XdpRingFlags::from_bits_retain(self.word(at).load(Ordering::Relaxed));
            flags.contains(XdpRingFlags::XDP_RING_NEED_WAKEUP)
        })
    }
}

/// A ring that we fill and the kernel empties.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Index of the next entry.
    next: u32,
    /// The consumer's index when it was last read.
    consumer: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn map(socket: BorrowedFd<'_>, page: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let ring = Ring::map(socket, page, offsets, size)?;
        let next = ring.word(ring.producer).load(Ordering::Relaxed);
        let consumer = ring.word(ring.consumer).load(Ordering::Acquire);
        Ok(Self { ring, next, consumer })
    }

    /// How many entries have room.
    #[inline]
    pub(super) fn room(&mut self, wanted: u32) -> u32 {
        let size = self.ring.size();
        let mut room = size - self.next.wrapping_sub(self.consumer).min(size);
        if room < wanted {
            self.consumer = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
            room = size - self.next.wrapping_sub(self.consumer).min(size);
        }
        room
    }

    /// Adds an entry, which the kernel does not see before [`Producer::publish`]. Says whether there was room.
    #[inline]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: the place lies in the ring, and is ours: the kernel is done with it and not told of it yet.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel what was added.
    #[inline]
    pub(super) fn publish(&mut self) {
        self.ring.word(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Entries that the kernel has not taken.
    pub(super) fn pending(&mut self) -> u32 {
        self.consumer = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.next.wrapping_sub(self.consumer)
    }

    /// Whether the kernel wants a call to look at the ring.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel fills and we empty.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// Index of the first entry that was not given back.
    next: u32,
    /// The producer's index when it was last read.
    producer: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn map(socket: BorrowedFd<'_>, page: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let ring = Ring::map(socket, page, offsets, size)?;
        let next = ring.word(ring.consumer).load(Ordering::Relaxed);
        Ok(Self { producer: next, ring, next })
    }

    /// Entry number `at` of those that were not given back, if the kernel has filled it.
    #[inline]
    pub(super) fn peek(&mut self, at: u32) -> Option<T> {
        if at >= self.filled() {
            self.producer = self.ring.word(self.ring.producer).load(Ordering::Acquire);
            if at >= self.filled() {
                return None;
            }
        }
        // SAFETY: the place lies in the ring, every pattern of bits is an entry, and the kernel filled it before it
        // moved its index, and does not write to it again before it is given back.
        Some(unsafe { self.ring.entry(self.next.wrapping_add(at)).read() })
    }

    #[inline]
    fn filled(&self) -> u32 {
        self.producer.wrapping_sub(self.next).min(self.ring.size())
    }

    /// Gives the first `n` entries back.
    #[inline]
    pub(super) fn release(&mut self, n: u32) {
        self.next = self.next.wrapping_add(n);
        self.ring.word(self.ring.consumer).store(self.next, Ordering::Release);
    }
}

/// The kernel's side of a ring, for tests.
#[cfg(test)]
pub(super) mod testing {
    use std::os::fd::AsFd;

    use super::*;
    use crate::memory::memfd;

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, desc: 192, flags: Some(128) };

    /// A ring whose other side a test plays.
    pub(in crate::uplink) struct Kernel<T>(Ring<T>);

    impl<T: Entry> Kernel<T> {
        /// Maps a ring of `size` entries, and again by `map`, for our side.
        pub(in crate::uplink) fn new<R>(
            size: u32,
            map: impl FnOnce(BorrowedFd<'_>, u64, &XdpRingOffset, u32) -> io::Result<R>,
        ) -> (Self, R) {
            let file = memfd(64 << 10).unwrap();
            let kernel = Self(Ring::map(file.as_fd(), 0, &OFFSETS, size).unwrap());
            (kernel, map(file.as_fd(), 0, &OFFSETS, size).unwrap())
        }

        pub(in crate::uplink) fn set_producer(&self, index: u32) {
            self.0.word(self.0.producer).store(index, Ordering::Release);
        }

        pub(in crate::uplink) fn set_consumer(&self, index: u32) {
            self.0.word(self.0.consumer).store(index, Ordering::Release);
        }

        pub(in crate::uplink) fn producer(&self) -> u32 {
            self.0.word(self.0.producer).load(Ordering::Acquire)
        }

        pub(in crate::uplink) fn get(&self, index: u32) -> T {
            // SAFETY: the place lies in the ring, and every pattern of bits is an entry.
            unsafe { self.0.entry(index).read() }
        }

        pub(in crate::uplink) fn put(&self, index: u32, entry: T) {
            // SAFETY: the place lies in the ring; the test has one thread.
            unsafe { self.0.entry(index).write(entry) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Kernel;
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn a_producer_fills_what_the_kernel_has_taken_and_no_more() {
        let (kernel, mut ring) = Kernel::<u64>::new(4, Producer::map);
        let filled = (0..10).take_while(|n| ring.push(*n)).count();
        assert_eq!((filled, kernel.producer()), (4, 0), "nothing is shown yet");
        ring.publish();
        assert_eq!((kernel.producer(), kernel.get(3), ring.pending()), (4, 3, 4));
        kernel.set_consumer(3);
        assert_eq!((ring.pending(), ring.room(4)), (1, 3));
        assert!(ring.push(9) && !ring.needs_wakeup());
        ring.publish();
        assert_eq!((kernel.producer(), kernel.get(4)), (5, 9));
        // An index that cannot be.
        kernel.set_consumer(5u32.wrapping_sub(1 << 31));
        assert_eq!(ring.room(5), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn a_consumer_sees_what_is_filled_and_never_more_than_there_is() {
        let (kernel, mut ring) = Kernel::<u64>::new(4, Consumer::map);
        assert_eq!(ring.peek(0), None);
        (0..4).for_each(|n| kernel.put(n, u64::from(n) + 10));
        kernel.set_producer(3);
        assert_eq!((ring.peek(0), ring.peek(2), ring.peek(3)), (Some(10), Some(12), None));
        ring.release(2);
        assert_eq!((ring.peek(0), ring.peek(1)), (Some(12), None));
        // An index that cannot be.
        kernel.set_producer(1 << 31);
        assert_eq!((ring.peek(3).is_some(), ring.peek(4)), (true, None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn offsets_that_lead_out_of_the_ring_are_refused() {
        use std::os::fd::AsFd;
        let file = crate::memory::memfd(64 << 10).unwrap();
        let offsets = XdpRingOffset { producer: 0, consumer: 64, desc: 128, flags: None };
        let map = |offsets: &XdpRingOffset, size| Producer::<u64>::map(file.as_fd(), 0, offsets, size).is_ok();
        assert!(map(&offsets, 4));
        assert!(!map(&offsets, 3) && !map(&offsets, 0));
        assert!(!map(&XdpRingOffset { producer: 2, ..offsets }, 4));
        assert!(!map(&XdpRingOffset { consumer: 160, ..offsets }, 4));
        assert!(!map(&XdpRingOffset { flags: Some(u64::MAX - 3), ..offsets }, 4));
        assert!(!map(&XdpRingOffset { desc: 132, ..offsets }, 4));
    }
}
