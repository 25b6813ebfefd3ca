//! A TAP or macvtap queue (Linux, Documentation/networking/tuntap.rst): one `writev` a frame sent, one `readv` a frame received,
//! the payload straight from and to guest memory.
//!
//! A read into buffers that are too short would cut the frame without a word, so every read ends in a private
//! overflow buffer that can hold the largest frame. No frame is cut, whatever the guest has posted.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::{MAX_FRAME, Receive, Received, Rx, Sent, Tx, TxFrame};
use crate::memory::{GuestSlice, append_from_guest};
use crate::offload::{HEADER_LEN, NetHeader, Offloads};

/// Most pieces that the kernel takes in one call (IOV_MAX).
const MAX_IOVECS: usize = 1024;

/// Up to this size a frame is gathered, in bytes: copying it costs less than the kernel's look at a second piece.
const SMALL_FRAME: usize = 256;

/// Frames that a TAP queues at most, unless somebody made its queue longer (1000 by default).
const MAX_QUEUED: usize = 16_384;

/// Makes the halves of each queue of an open TAP. The queues are detached until they are wanted.
///
/// # Errors
/// When the kernel refuses to detach a queue of a multi-queue TAP.
pub fn tap_pairs(queues: Vec<OwnedFd>, multi_queue: bool, uso: bool) -> io::Result<Vec<(Tx, Rx)>> {
    let pair = |fd: OwnedFd| {
        if multi_queue {
            set_queue(fd.as_raw_fd(), false)?;
        }
        let queue = Arc::new(Queue { fd, multi_queue, users: Mutex::new(0) });
        let tx = TapTx { queue: queue.clone(), iovecs: Vec::with_capacity(MAX_IOVECS), bounce: Vec::new() };
        let rx = TapRx::new(queue, uso);
        Ok((Tx::Tap(tx), Rx::Tap(rx)))
    };
    queues.into_iter().map(pair).collect()
}

/// A TAP queue, and how many are using it now.
#[derive(Debug)]
struct Queue {
    fd: OwnedFd,
    /// Queues of a single-queue TAP cannot be detached.
    multi_queue: bool,
    users: Mutex<u32>,
}

impl Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// One more or one less uses the queue. Says whether it is the first.
    fn count_user(&self, comes: bool) -> io::Result<bool> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = if comes { *users == 0 } else { *users == 1 };
        if changes && self.multi_queue {
            set_queue(self.as_raw_fd(), comes)?;
        }
        *users = if comes { *users + 1 } else { users.saturating_sub(1) };
        Ok(changes && comes)
    }
}

/// The sending half of a TAP queue.
#[derive(Debug)]
pub struct TapTx {
    queue: Arc<Queue>,
    iovecs: Vec<libc::iovec>,
    /// Gathers frames in more pieces than the kernel takes.
    bounce: Vec<u8>,
}

// SAFETY: the iovecs are only filled and used within one call of `send`; between calls nothing looks at them.
unsafe impl Send for TapTx {}

impl TapTx {
    #[inline]
    pub(super) fn send(&mut self, frame: TxFrame<'_>) -> Sent {
        self.iovecs.clear();
        if frame.len > SMALL_FRAME {
            self.iovecs.push(iovec_of(&frame.header.0));
            let mut skip = frame.skip;
            for slice in frame.slices {
                let rest = slice.skip(skip);
                skip -= slice.len() - rest.len();
                if !rest.is_empty() {
                    self.iovecs.push(rest.iovec());
                }
            }
        }
        if frame.len <= SMALL_FRAME || self.iovecs.len() > MAX_IOVECS {
            // The judged header takes the place of the guest's, and both go out in one piece.
            self.bounce.clear();
            self.bounce.extend_from_slice(&frame.header.0);
            append_from_guest(frame.slices, frame.skip, frame.len, &mut self.bounce);
            self.iovecs.clear();
            self.iovecs.push(iovec_of(&self.bounce));
        }
        // SAFETY: the iovecs point to `frame.header`, `self.bounce` and memory that `frame.slices` vouches for.
        unsafe { self.write() }
    }

    pub(super) fn send_private(&mut self, header: &NetHeader, frame: &[u8]) -> Sent {
        self.iovecs.clear();
        self.iovecs.extend([iovec_of(&header.0), iovec_of(frame)]);
        // SAFETY: the iovecs point to `header` and `frame`.
        unsafe { self.write() }
    }

    /// Writes what the iovecs hold as one frame.
    ///
    /// # Safety
    /// The iovecs point to memory that can be read until the call returns.
    unsafe fn write(&mut self) -> Sent {
        loop {
            // SAFETY: the caller vouches for the memory; the kernel only reads from it.
            let wrote =
                unsafe { libc::writev(self.queue.as_raw_fd(), self.iovecs.as_ptr(), self.iovecs.len() as libc::c_int) };
            if wrote >= 0 {
                return Sent::Done;
            }
            return match errno() {
                libc::EINTR => continue,
                libc::EAGAIN => Sent::Full,
                // The interface is down.
                libc::EIO => Sent::Down,
                // The interface is deleted: of a detached queue nothing is sent.
                libc::EBADFD => Sent::Gone,
                libc::EFAULT => Sent::Fault,
                _ => Sent::Refused,
            };
        }
    }
}

/// The receiving half of a TAP queue.
#[derive(Debug)]
pub struct TapRx {
    queue: Arc<Queue>,
    attached: bool,
    uso: bool,
    iovecs: Vec<libc::iovec>,
    overflow: Box<[u8]>,
}

// SAFETY: the iovecs are only filled and used within one call of `receive`; between calls nothing looks at them.
unsafe impl Send for TapRx {}

impl Receive for TapRx {
    fn receive(&mut self, slices: &[GuestSlice<'_>], skip: usize, room: usize) -> Received<'_> {
        let mut header = NetHeader::default();
        self.iovecs.clear();
        self.iovecs.push(libc::iovec { iov_base: header.0.as_mut_ptr().cast(), iov_len: HEADER_LEN });
        let mut offered = 0;
        let mut left = skip;
        for slice in slices {
            if offered >= room || self.iovecs.len() == MAX_IOVECS - 1 {
                break;
            }
            let rest = slice.skip(left);
            left -= slice.len() - rest.len();
            if !rest.is_empty() {
                offered += rest.len();
                self.iovecs.push(rest.iovec());
            }
        }
        self.iovecs.push(libc::iovec { iov_base: self.overflow.as_mut_ptr().cast(), iov_len: self.overflow.len() });
        loop {
            // SAFETY: the iovecs point to the header and the overflow buffer, which live until the call returns and
            // which nothing else refers to, and to guest memory that `slices` vouches for.
            let got =
                unsafe { libc::readv(self.queue.as_raw_fd(), self.iovecs.as_ptr(), self.iovecs.len() as libc::c_int) };
            if let Ok(got) = usize::try_from(got) {
                let len = got.saturating_sub(HEADER_LEN);
                let rest = &self.overflow[..len.saturating_sub(offered)];
                return Received::Frame { header, len, rest };
            }
            return match errno() {
                libc::EINTR => continue,
                libc::EAGAIN | libc::EIO => Received::Empty,
                libc::EFAULT => Received::Fault,
                // A frame that no virtio-net header can describe; it has left the queue.
                libc::EINVAL => Received::Spoilt,
                _ => Received::Gone,
            };
        }
    }
}

impl TapRx {
    fn new(queue: Arc<Queue>, uso: bool) -> Self {
        Self {
            queue,
            attached: false,
            uso,
            iovecs: Vec::with_capacity(MAX_IOVECS),
            overflow: vec![0; MAX_FRAME].into_boxed_slice(),
        }
    }

    /// For another thread that uses the same queue.
    pub(super) fn beside(&self) -> Self {
        Self::new(self.queue.clone(), self.uso)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.queue.fd.as_fd()
    }

    pub(super) fn attach(&mut self, takes: Option<Offloads>) -> io::Result<()> {
        if takes.is_some() != self.attached {
            let is_first = self.queue.count_user(takes.is_some())?;
            self.attached = takes.is_some();
            if is_first && !self.queue.multi_queue {
                self.drain();
            }
        }
        if let Some(takes) = takes {
            self.set_offload(takes)?;
        }
        Ok(())
    }

    /// Throws away what was queued while nobody read: it was for another guest. What the kernel does itself to a queue
    /// that it detaches.
    fn drain(&mut self) {
        for _ in 0..MAX_QUEUED {
            if rustix::io::read(&self.queue.fd, &mut self.overflow[..]).is_err() {
                break;
            }
        }
    }

    /// Tells the kernel which unfinished frames the guest takes. USO for one IP version is offered by the kernel only
    /// together with the other.
    fn set_offload(&self, takes: Offloads) -> io::Result<()> {
        let mut flags = 0;
        if takes.csum {
            flags |= libc::TUN_F_CSUM;
            let uso = self.uso && takes.uso4 && takes.uso6;
            for (wanted, flag) in [
                (takes.tso4, libc::TUN_F_TSO4),
                (takes.tso6, libc::TUN_F_TSO6),
                (takes.ecn && (takes.tso4 || takes.tso6), libc::TUN_F_TSO_ECN),
                (uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
            ] {
                flags |= if wanted { flag } else { 0 };
            }
        }
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let status = unsafe { libc::ioctl(self.queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Attaches or detaches a queue of a multi-queue TAP.
fn set_queue(queue: RawFd, attach: bool) -> io::Result<()> {
    let flags = if attach { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    };
    // SAFETY: TUNSETQUEUE reads the ifreq, which is initialised and ours.
    let status = unsafe { libc::ioctl(queue, libc::TUNSETQUEUE, &raw const request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn iovec_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
