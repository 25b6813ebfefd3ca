//! The sending half of a TAP queue: one `writev` a frame, and packets of one flow joined into frames that the kernel cuts
//! up again where it must.

#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::super::join::{Joiner, Sink};
use super::super::{Progress, Sent, TxBurst, TxFrame};
use super::{MAX_IOVECS, Queue, errno, iovec_of};
use crate::offload::{HEADER_LEN, Joined, MIN_FRAME, NetHeader};

/// Up to this size a frame, or a piece of a joined one, is gathered, in bytes: copying it costs less than the kernel's look
/// at another piece.
const SMALL_FRAME: usize = 256;

/// Bytes of an Ethernet header: what is shorter is no frame, and is not made one by padding.
const ETHERNET_LEN: usize = 14;

/// The sending half of a TAP queue.
#[derive(Debug)]
pub struct TapTx {
    writer: Writer,
    /// Joins packets, unless they are to be left as they are.
    joiner: Option<Box<Joiner>>,
}

/// Writes frames to the queue.
#[derive(Debug)]
struct Writer {
    queue: Arc<Queue>,
    iovecs: Vec<libc::iovec>,
    /// Gathers small frames, and frames in more pieces than the kernel takes.
    bounce: Vec<u8>,
}

// SAFETY: the iovecs are only filled and used within one call of `send`; between calls nothing looks at them.
unsafe impl Send for Writer {}

impl TapTx {
    pub(super) fn new(queue: Arc<Queue>, joiner: Option<Box<Joiner>>) -> Self {
        Self { writer: Writer { queue, iovecs: Vec::with_capacity(MAX_IOVECS), bounce: Vec::new() }, joiner }
    }

    #[inline]
    pub(in crate::uplink) fn send(&mut self, burst: &TxBurst<'_>) -> Progress {
        let Self { writer, joiner } = self;
        match joiner {
            Some(joiner) => joiner.send(burst, writer),
            None => burst.each(|frame| writer.send(frame)),
        }
    }

    pub(in crate::uplink) fn send_private(&mut self, header: &NetHeader, frame: &[u8]) -> Sent {
        let padding = &[0; MIN_FRAME][frame.len().min(MIN_FRAME)..];
        let padding = if frame.len() < ETHERNET_LEN || header.is_segmented() { &[] } else { padding };
        let iovecs = &mut self.writer.iovecs;
        iovecs.clear();
        iovecs.extend([iovec_of(&header.0), iovec_of(frame), iovec_of(padding)]);
        // SAFETY: the iovecs point to `header`, `frame` and a constant.
        unsafe { self.writer.write() }
    }

    /// Takes the joiner: who fills the queue joins.
    pub(in crate::uplink) fn take_joiner(&mut self) -> Option<Box<Joiner>> {
        self.joiner.take()
    }
}

impl Sink for Writer {
    #[inline]
    fn send(&mut self, frame: &TxFrame<'_>) -> Sent {
        self.iovecs.clear();
        if frame.len > SMALL_FRAME {
            self.iovecs.push(iovec_of(&frame.header.0));
            self.push(frame, 0..frame.len);
        }
        if frame.len <= SMALL_FRAME || self.iovecs.len() > MAX_IOVECS {
            // The judged header takes the place of the guest's, and both go out in one piece.
            self.bounce.clear();
            self.bounce.extend_from_slice(&frame.header.0);
            frame.append(0..frame.len, &mut self.bounce);
            if (ETHERNET_LEN..MIN_FRAME).contains(&frame.len) && !frame.header.is_segmented() {
                self.bounce.resize(HEADER_LEN + MIN_FRAME, 0);
            }
            self.iovecs.clear();
            self.iovecs.push(iovec_of(&self.bounce));
        }
        // SAFETY: the iovecs point to `frame.header`, `frame.head`, `self.bounce` and memory that `frame.slices` vouches for.
        unsafe { self.write() }
    }

    fn send_joined(&mut self, joined: &Joined<'_>, burst: &TxBurst<'_>) -> Sent {
        self.iovecs.clear();
        let small = joined.segment_len() <= SMALL_FRAME;
        if !small {
            self.iovecs.extend([iovec_of(&joined.header().0), iovec_of(joined.head())]);
            for part in joined.parts() {
                self.push(&burst.frame(part.frame), part.bytes);
            }
        }
        if small || self.iovecs.len() > MAX_IOVECS {
            self.bounce.clear();
            self.bounce.extend_from_slice(&joined.header().0);
            joined.gather(burst, &mut self.bounce);
            self.iovecs.clear();
            self.iovecs.push(iovec_of(&self.bounce));
        }
        // SAFETY: the iovecs point to `joined`, `self.bounce`, heads and memory that the frames of `burst` vouch for.
        unsafe { self.write() }
    }
}

impl Writer {
    /// Adds `bytes` of the frame, or as many of them as there are.
    #[inline]
    fn push(&mut self, frame: &TxFrame<'_>, bytes: Range<usize>) {
        let mut len = bytes.len();
        let head = frame.head.get(bytes.start..).unwrap_or_default();
        let head = &head[..head.len().min(len)];
        if !head.is_empty() {
            self.iovecs.push(iovec_of(head));
            len -= head.len();
        }
        let mut skip = frame.skip + bytes.start + head.len();
        for slice in frame.slices {
            let rest = slice.skip(skip).first(len);
            skip = skip.saturating_sub(slice.len());
            if !rest.is_empty() {
                len -= rest.len();
                self.iovecs.push(rest.iovec());
            }
        }
    }

    /// Writes what the iovecs hold as one frame.
    ///
    /// # Safety
    /// The iovecs point to memory that can be read until the call returns.
    unsafe fn write(&mut self) -> Sent {
        let fd = self.queue.as_raw_fd();
        loop {
            let wrote = match self.iovecs[..] {
                // For one piece the kernel has a shorter way.
                // SAFETY: the caller vouches for the memory; the kernel only reads from it.
                [one] => unsafe { libc::write(fd, one.iov_base, one.iov_len) },
                // SAFETY: as above.
                ref all => unsafe { libc::writev(fd, all.as_ptr(), all.len() as libc::c_int) },
            };
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
