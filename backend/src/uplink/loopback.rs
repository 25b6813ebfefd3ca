//! A test uplink that returns every frame to the guest that sent it, with its MAC addresses swapped.
//!
//! The frames lie end to end in a stretch of bytes, each behind its virtio-net header and its length. The receiving half
//! takes the whole stretch when it has delivered the one before.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::bell::Bell;
use super::{Progress, Receive, Received, Rx, Sent, Tx, TxBurst};
use crate::memory::{GuestSlice, append_from_guest, copy_to_guest};
use crate::offload::{HEADER_LEN, NetHeader};

/// Most frames on their way in a stretch, and most bytes, give or take the last; then the sender waits.
const MAX_FRAMES: usize = 1024;
const MAX_BYTES: usize = 4 << 20;
/// Two MAC addresses open a frame (IEEE 802.3, 3.2).
const MAC_LEN: usize = 6;
/// Bytes before each frame: its virtio-net header and its length.
const PREFIX: usize = HEADER_LEN + 4;

#[derive(Debug, Default)]
struct Stretch {
    bytes: Vec<u8>,
    frames: usize,
}

/// What lies between the halves.
#[derive(Debug, Default)]
struct Wire {
    stretch: Mutex<Stretch>,
    /// Wakes the other half where each has a thread of its own.
    bells: OnceLock<Bells>,
}

#[derive(Debug)]
struct Bells {
    /// A frame lies on the wire.
    frames: Bell,
    /// There is room again.
    room: Bell,
}

/// The sending half.
#[derive(Debug)]
pub struct LoopbackTx(Arc<Wire>);

/// The receiving half.
#[derive(Debug)]
pub struct LoopbackRx {
    wire: Arc<Wire>,
    stretch: Stretch,
    /// Where the next frame of the stretch starts.
    at: usize,
}

/// Tells the thread of the sending half when there is room.
#[derive(Debug)]
pub struct LoopbackRoom(Arc<Wire>);

/// A wire from a queue pair back to itself.
#[must_use]
pub fn loopback_pair() -> (Tx, Rx) {
    let wire = Arc::default();
    let rx = LoopbackRx { wire: Arc::clone(&wire), stretch: Stretch::default(), at: 0 };
    (Tx::Loopback(LoopbackTx(wire)), Rx::Loopback(rx))
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Stretch> {
        self.stretch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoopbackTx {
    pub(super) fn send(&mut self, burst: &TxBurst<'_>) -> Progress {
        let mut wire = self.0.lock();
        let Stretch { bytes, frames } = &mut *wire;
        let was_empty = *frames == 0;
        let progress = burst.each(|frame| {
            if *frames >= MAX_FRAMES || bytes.len() >= MAX_BYTES {
                return Sent::Full;
            }
            if frame.len < 2 * MAC_LEN {
                return Sent::Refused;
            }
            bytes.reserve(PREFIX + frame.len);
            let mut prefix = [0; PREFIX];
            prefix[..HEADER_LEN].copy_from_slice(&frame.header.0);
            prefix[HEADER_LEN..].copy_from_slice(&(frame.len as u32).to_le_bytes());
            bytes.extend_from_slice(&prefix);
            let start = bytes.len();
            append_from_guest(frame.slices, frame.skip, frame.len, bytes);
            if let Some((addresses, _)) = bytes[start..].split_first_chunk_mut::<{ 2 * MAC_LEN }>() {
                let [a, b, c, d, e, f, g, h, i, j, k, l] = *addresses;
                *addresses = [g, h, i, j, k, l, a, b, c, d, e, f];
            }
            *frames += 1;
            Sent::Done
        });
        if let Some(bells) = self.0.bells.get() {
            // While nobody else can take or put anything, so that a bell rings when and only when it should.
            bells.room.set(*frames < MAX_FRAMES && bytes.len() < MAX_BYTES);
            if was_empty && *frames > 0 {
                bells.frames.set(true);
            }
        }
        progress
    }
}

impl LoopbackRx {
    /// Forgets the frames on their way: who sent them has gone, or takes other frames now.
    pub(super) fn empty(&mut self) {
        *self.wire.lock() = Stretch::default();
        if let Some(bells) = self.wire.bells.get() {
            bells.frames.set(false);
            bells.room.set(true);
        }
        self.stretch = Stretch::default();
        self.at = 0;
    }
}

impl LoopbackRx {
    /// Has the halves wake each other from now on.
    pub(super) fn beside(&self) -> LoopbackRoom {
        self.wire.bells.get_or_init(|| Bells { frames: Bell::new(false), room: Bell::new(true) });
        LoopbackRoom(self.wire.clone())
    }

    /// Readable while a frame lies on the wire, if the halves wake each other.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.wire.bells.get().and_then(|bells| bells.frames.fd())
    }

    /// Takes what was sent meanwhile.
    #[cold]
    fn take_stretch(&mut self) {
        self.stretch.bytes.clear();
        self.stretch.frames = 0;
        self.at = 0;
        let mut wire = self.wire.lock();
        std::mem::swap(&mut self.stretch, &mut *wire);
        if self.stretch.frames > 0
            && let Some(bells) = self.wire.bells.get()
        {
            bells.frames.set(false);
            bells.room.set(true);
        }
    }

    /// The frame that is next: its header and where it lies.
    #[inline(always)]
    fn front(&mut self) -> Option<(NetHeader, Range<usize>)> {
        if self.at == self.stretch.bytes.len() {
            self.take_stretch();
        }
        let prefix = self.stretch.bytes[self.at..].first_chunk::<PREFIX>()?;
        let [header @ .., a, b, c, d] = *prefix;
        let start = self.at + PREFIX;
        Some((NetHeader(header), start..start + u32::from_le_bytes([a, b, c, d]) as usize))
    }
}

impl LoopbackRoom {
    /// Readable while there is room on the wire.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.bells.get().and_then(|bells| bells.room.fd())
    }
}

impl Receive for LoopbackRx {
    #[inline]
    fn next_plain(&mut self, room: usize) -> Option<&[u8]> {
        let (header, place) = self.front()?;
        if !header.is_plain() || place.len() > room {
            return None;
        }
        self.at = place.end;
        Some(&self.stretch.bytes[place])
    }

    fn receive(&mut self, slices: &[GuestSlice<'_>], skip: usize, _room: usize) -> Received<'_> {
        let Some((header, place)) = self.front() else { return Received::Empty };
        self.at = place.end;
        let frame = &self.stretch.bytes[place];
        let done = copy_to_guest(frame, slices, skip);
        Received::Frame { header, len: frame.len(), rest: &frame[done..] }
    }
}
