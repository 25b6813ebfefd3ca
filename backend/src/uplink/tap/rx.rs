//! The receiving half of a TAP queue: one `readv` a frame, straight into guest memory where the guest takes what the kernel
//! gives.
//!
//! The kernel gives frames to be cut into segments whoever the guest is, for one such frame costs little more than one
//! packet. For a guest that does not cut up, or does not finish checksums, that is done here, in private memory.
//!
//! A read into buffers that are too short would cut the frame without a word, so every read ends in a private
//! buffer that can hold the largest frame. No frame is cut short, whatever the guest has posted.

#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::super::{MAX_FRAME, Receive, Received};
use super::{MAX_IOVECS, Queue, errno};
use crate::memory::{GuestSlice, copy_from_guest, copy_to_guest};
use crate::offload::{Cut, HEADER_LEN, MIN_FRAME, NetHeader, Offloads, finish, pad};

/// The receiving half of a TAP queue.
#[derive(Debug)]
pub struct TapRx {
    queue: Arc<Queue>,
    iovecs: Vec<libc::iovec>,
    /// A header, a frame as far as it does not lie in guest memory, and a place for a short packet that was cut from it.
    buffer: Box<[u8]>,
    next: Next,
    /// Segments of the frame in the buffer that are still to come.
    cut: Option<Cut>,
}

/// What comes next, as far as it is known.
#[derive(Clone, Debug)]
enum Next {
    Unknown,
    /// A packet that lies in the buffer.
    Packet(NetHeader, Range<usize>),
    /// Something else than a frame.
    Nothing(Failure),
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Empty,
    Spoilt,
    Gone,
    Fault,
}

// SAFETY: the iovecs are only filled and used within one call of `read`; between calls nothing looks at them.
unsafe impl Send for TapRx {}

impl Receive for TapRx {
    #[inline]
    fn next_plain(&mut self, room: usize) -> Option<&[u8]> {
        if self.queue.takes().csum {
            // Frames go straight to guest memory, and segments are not plain.
            return None;
        }
        self.look();
        match &self.next {
            Next::Packet(header, place) if header.is_plain() && place.len() <= room => {
                let place = place.clone();
                self.next = Next::Unknown;
                Some(&self.buffer[HEADER_LEN..][place])
            }
            _ => None,
        }
    }

    fn receive(&mut self, slices: &[GuestSlice<'_>], skip: usize, room: usize) -> Received<'_> {
        if !self.queue.takes().csum || self.cut.is_some() {
            self.look();
        }
        match std::mem::replace(&mut self.next, Next::Unknown) {
            Next::Unknown => {}
            Next::Packet(header, place) => return self.deliver(header, place, slices, skip),
            Next::Nothing(failure) => return failure.into(),
        }
        let (header, len, landed) = match self.read(slices, skip, room) {
            Ok(read) => read,
            Err(failure) => return failure.into(),
        };
        if header.is_segmented() && !self.queue.takes().segments_as(&header) {
            // Back from guest memory, and from here on it is the private copy that counts.
            copy_from_guest(slices, skip, &mut self.frame()[..landed]);
            return match self.begin(header, len) {
                Some((header, place)) => self.deliver(header, place, slices, skip),
                None => Received::Spoilt,
            };
        }
        if landed < len {
            let len = pad(self.frame(), len);
            return Received::Frame { header, len, rest: &self.frame()[landed..len] };
        }
        let padding = &[0; MIN_FRAME][len.min(MIN_FRAME)..];
        let padded = if padding.is_empty() { 0 } else { copy_to_guest(padding, slices, skip + len) };
        Received::Frame { header, len: len + padded, rest: &[] }
    }
}

impl TapRx {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            iovecs: Vec::with_capacity(MAX_IOVECS),
            buffer: vec![0; HEADER_LEN + MAX_FRAME + MIN_FRAME].into_boxed_slice(),
            next: Next::Unknown,
            cut: None,
        }
    }

    /// For another thread that uses the same queue.
    pub(in crate::uplink) fn beside(&self) -> Self {
        Self::new(self.queue.clone())
    }

    pub(in crate::uplink) fn fd(&self) -> BorrowedFd<'_> {
        self.queue.fd.as_fd()
    }

    /// Begins anew, for whoever takes that, or for nobody.
    pub(in crate::uplink) fn attach(&mut self, takes: Option<Offloads>) {
        self.forget();
        if let Some(takes) = takes {
            self.queue.set_takes(takes);
        }
    }

    /// Forgets what lies in the buffer.
    pub(in crate::uplink) fn forget(&mut self) {
        self.next = Next::Unknown;
        self.cut = None;
    }

    /// Finds out what comes next: another segment, or a frame read into private memory.
    #[inline]
    fn look(&mut self) {
        if matches!(self.next, Next::Unknown) {
            self.next = match self.next_segment() {
                Some((header, place)) => Next::Packet(header, place),
                None => self.look_at_queue(),
            };
        }
    }

    fn look_at_queue(&mut self) -> Next {
        match self.read(&[], 0, 0) {
            Err(failure) => Next::Nothing(failure),
            Ok((header, len, _)) => match self.begin(header, len) {
                Some((header, place)) => Next::Packet(header, place),
                None => Next::Nothing(Failure::Spoilt),
            },
        }
    }

    /// Makes a frame of `len` bytes in the buffer what the guest takes; gives the first packet of it, none if it makes no
    /// sense.
    fn begin(&mut self, mut header: NetHeader, len: usize) -> Option<(NetHeader, Range<usize>)> {
        if header.is_segmented() && !self.queue.takes().segments_as(&header) {
            self.cut = Cut::new(&header, &self.buffer[HEADER_LEN..][..len], self.queue.takes()).ok();
            return self.next_segment();
        }
        if !header.is_segmented() {
            finish(&mut header, &mut self.buffer[HEADER_LEN..][..len], self.queue.takes()).ok()?;
        }
        Some((header, 0..pad(self.frame(), len)))
    }

    /// Cuts the next segment.
    #[inline]
    fn next_segment(&mut self) -> Option<(NetHeader, Range<usize>)> {
        let cut = self.cut.as_mut()?;
        let (header, place) = cut.next_in(&mut self.buffer[HEADER_LEN..])?;
        if cut.is_done() {
            self.cut = None;
        }
        if place.len() >= MIN_FRAME {
            return Some((header, place));
        }
        // Behind it lies the payload of the next one, so it is filled up elsewhere.
        let len = place.len();
        self.frame().copy_within(place, MAX_FRAME);
        Some((header, MAX_FRAME..MAX_FRAME + pad(&mut self.frame()[MAX_FRAME..], len)))
    }

    /// Puts a packet from the buffer into guest memory.
    fn deliver(&self, header: NetHeader, place: Range<usize>, slices: &[GuestSlice<'_>], skip: usize) -> Received<'_> {
        let packet = &self.buffer[HEADER_LEN..][place];
        let done = copy_to_guest(packet, slices, skip);
        Received::Frame { header, len: packet.len(), rest: &packet[done..] }
    }

    /// Reads a frame: about `room` bytes of it into `slices` from byte `skip` on, the rest into the buffer, each byte where
    /// it would lie if all were there. Says its header, its length and how much of it lies in guest memory.
    fn read(
        &mut self,
        slices: &[GuestSlice<'_>],
        skip: usize,
        room: usize,
    ) -> Result<(NetHeader, usize, usize), Failure> {
        let (header, frame) = self.buffer.split_at_mut(HEADER_LEN);
        self.iovecs.clear();
        self.iovecs.push(iovec_of(header));
        let mut offered = 0;
        let mut left = skip;
        for slice in slices {
            if offered >= room || self.iovecs.len() == MAX_IOVECS - 1 {
                break;
            }
            let rest = slice.skip(left).first(MAX_FRAME - offered);
            left = left.saturating_sub(slice.len());
            if !rest.is_empty() {
                offered += rest.len();
                self.iovecs.push(rest.iovec());
            }
        }
        self.iovecs.push(iovec_of(&mut frame[offered..MAX_FRAME]));
        if offered == 0 {
            // Header and frame in one piece, for which the kernel has a shorter way.
            self.iovecs.clear();
            self.iovecs.push(iovec_of(&mut self.buffer[..HEADER_LEN + MAX_FRAME]));
        }
        let fd = self.queue.as_raw_fd();
        loop {
            let got = match self.iovecs[..] {
                // SAFETY: the buffer lives until the call returns, and nothing else refers to it.
                [one] => unsafe { libc::read(fd, one.iov_base, one.iov_len) },
                // SAFETY: as above, and guest memory is what `slices` vouches for.
                ref all => unsafe { libc::readv(fd, all.as_ptr(), all.len() as libc::c_int) },
            };
            if let Ok(got) = usize::try_from(got) {
                let len = got.saturating_sub(HEADER_LEN);
                let header = self.buffer.first_chunk().map_or_else(NetHeader::default, |bytes| NetHeader(*bytes));
                return Ok((header, len, len.min(offered)));
            }
            return Err(match errno() {
                libc::EINTR => continue,
                libc::EAGAIN | libc::EIO => Failure::Empty,
                libc::EFAULT => Failure::Fault,
                // A frame that no virtio-net header can describe; it has left the queue.
                libc::EINVAL => Failure::Spoilt,
                _ => Failure::Gone,
            });
        }
    }

    /// The frame in the buffer, behind the header.
    fn frame(&mut self) -> &mut [u8] {
        &mut self.buffer[HEADER_LEN..]
    }
}

fn iovec_of(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

impl From<Failure> for Received<'_> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Empty => Self::Empty,
            Failure::Spoilt => Self::Spoilt,
            Failure::Gone => Self::Gone,
            Failure::Fault => Self::Fault,
        }
    }
}
