//! A wire in private memory, on which frames lie in a row: a single-producer, single-consumer queue between the two
//! halves of an uplink or two threads.
//!
//! The frames lie end to end in a stretch of bytes, each behind its virtio-net header and its length. The receiving half
//! takes the whole stretch when it has delivered the one before.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::bell::Bell;
use super::join::{Joiner, Sink};
use super::{Progress, Receive, Received, Sent, TxBurst, TxFrame};
use crate::memory::{GuestSlice, copy_to_guest};
use crate::offload::{HEADER_LEN, Joined, NetHeader};

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
    fate: Fate,
}

#[derive(Debug)]
struct Bells {
    /// A frame lies on the wire.
    frames: Bell,
    /// There is room again.
    room: Bell,
}

/// What became of frames that were taken from the wire and sent on.
#[derive(Debug, Default)]
struct Fate {
    down: AtomicU64,
    refused: AtomicU64,
    is_down: AtomicBool,
    is_gone: AtomicBool,
}

/// The sending half.
#[derive(Debug)]
pub struct WireTx {
    wire: Arc<Wire>,
    /// The frames of a burst, before they are put on the wire.
    own: Stretch,
    /// Frames come back to their sender: their MAC addresses are swapped.
    comes_back: bool,
    joiner: Option<Box<Joiner>>,
}

/// The receiving half.
#[derive(Debug)]
pub struct WireRx {
    wire: Arc<Wire>,
    stretch: Stretch,
    /// Where the next frame of the stretch starts.
    at: usize,
}

/// A wire from a sender to another.
#[must_use]
pub fn wire() -> (WireTx, WireRx) {
    let wire = Arc::default();
    let rx = WireRx { wire: Arc::clone(&wire), stretch: Stretch::default(), at: 0 };
    (WireTx { wire, own: Stretch::default(), comes_back: false, joiner: None }, rx)
}

/// A test uplink: a wire that returns every frame to the guest that sent it, with its MAC addresses swapped.
#[must_use]
pub fn loopback_pair() -> (WireTx, WireRx) {
    let (tx, rx) = wire();
    (WireTx { comes_back: true, ..tx }, rx)
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Stretch> {
        self.stretch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bells.get_or_init(|| Bells { frames: Bell::new(false), room: Bell::new(true) });
    }
}

impl Stretch {
    fn size(&self) -> (usize, usize) {
        (self.frames, self.bytes.len())
    }

    /// Takes all frames of `other`, to come after its own.
    fn take_from(&mut self, other: &mut Self) {
        if self.frames == 0 {
            std::mem::swap(self, other);
        } else {
            self.bytes.extend_from_slice(&other.bytes);
            self.frames += other.frames;
        }
        other.bytes.clear();
        other.frames = 0;
    }

    fn is_full(&self) -> bool {
        self.frames >= MAX_FRAMES || self.bytes.len() >= MAX_BYTES
    }

    /// Puts what comes before a frame of `len` bytes.
    #[inline]
    fn begin(&mut self, header: &NetHeader, len: usize) {
        self.bytes.reserve(PREFIX + len);
        let mut prefix = [0; PREFIX];
        prefix[..HEADER_LEN].copy_from_slice(&header.0);
        prefix[HEADER_LEN..].copy_from_slice(&(len as u32).to_le_bytes());
        self.bytes.extend_from_slice(&prefix);
        self.frames += 1;
    }
}

/// Puts the frames of a burst behind each other.
struct Loader<'a> {
    own: &'a mut Stretch,
    /// What lies on the wire already.
    frames: usize,
    bytes: usize,
    comes_back: bool,
}

impl Loader<'_> {
    fn is_full(&self) -> bool {
        self.frames + self.own.frames >= MAX_FRAMES || self.bytes + self.own.bytes.len() >= MAX_BYTES
    }
}

impl Sink for Loader<'_> {
    #[inline]
    fn send(&mut self, frame: &TxFrame<'_>) -> Sent {
        if self.is_full() {
            return Sent::Full;
        }
        if frame.len < 2 * MAC_LEN {
            return Sent::Refused;
        }
        self.own.begin(frame.header, frame.len);
        let start = self.own.bytes.len();
        frame.append(0..frame.len, &mut self.own.bytes);
        if self.comes_back
            && let Some((addresses, _)) = self.own.bytes[start..].split_first_chunk_mut::<{ 2 * MAC_LEN }>()
        {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *addresses;
            *addresses = [g, h, i, j, k, l, a, b, c, d, e, f];
        }
        Sent::Done
    }

    fn send_joined(&mut self, joined: &Joined<'_>, burst: &TxBurst<'_>) -> Sent {
        if self.is_full() {
            return Sent::Full;
        }
        self.own.begin(joined.header(), joined.frame_len());
        joined.gather(burst, &mut self.own.bytes);
        Sent::Done
    }
}

impl WireTx {
    pub(super) fn send(&mut self, burst: &TxBurst<'_>) -> Progress {
        // Guest memory is read before the lock is taken: it may be slow to come, and the other half is not to wait for it.
        let (frames, bytes) = self.wire.lock().size();
        let mut loader = Loader { own: &mut self.own, frames, bytes, comes_back: self.comes_back };
        let mut progress = match &mut self.joiner {
            Some(joiner) => joiner.send(burst, &mut loader),
            None => burst.each(|frame| loader.send(frame)),
        };
        let mut stretch = self.wire.lock();
        let was_empty = stretch.frames == 0;
        stretch.take_from(&mut self.own);
        if let Some(bells) = self.wire.bells.get() {
            bells.settle(&stretch, was_empty);
            drop(stretch);
            self.wire.fate.tell(&mut progress);
        }
        progress
    }

    /// Joins packets from now on, for the uplink at the other end.
    pub fn join_by(&mut self, joiner: Option<Box<Joiner>>) {
        self.joiner = joiner;
    }

    /// Puts a frame on the wire that lies in private memory.
    pub(super) fn put_private(&mut self, header: &NetHeader, frame: &[u8]) -> Sent {
        let Some((addresses, rest)) = frame.split_first_chunk::<{ 2 * MAC_LEN }>() else { return Sent::Refused };
        let (to, from) = addresses.split_at(MAC_LEN);
        if self.comes_back { self.put(header, &[from, to, rest]) } else { self.put(header, &[frame]) }
    }

    /// Puts a frame on the wire that lies in pieces of private memory.
    pub fn put(&mut self, header: &NetHeader, frame: &[&[u8]]) -> Sent {
        let mut stretch = self.wire.lock();
        if stretch.is_full() {
            return Sent::Full;
        }
        let was_empty = stretch.frames == 0;
        stretch.begin(header, frame.iter().map(|part| part.len()).sum());
        for part in frame {
            stretch.bytes.extend_from_slice(part);
        }
        if let Some(bells) = self.wire.bells.get() {
            bells.settle(&stretch, was_empty);
        }
        Sent::Done
    }

    /// Whether the wire takes another frame. Only this half makes it full.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.wire.lock().is_full()
    }

    /// Has the halves wake each other from now on.
    pub fn ring_bells(&self) {
        self.wire.ring();
    }

    /// Readable while there is room on the wire, if the halves wake each other.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.wire.bells.get().and_then(|bells| bells.room.fd())
    }
}

impl Bells {
    /// After frames were put: while nobody else can take or put any, so that a bell rings when and only when it should.
    fn settle(&self, stretch: &Stretch, was_empty: bool) {
        self.room.set(!stretch.is_full());
        if was_empty && stretch.frames > 0 {
            self.frames.set(true);
        }
    }
}

impl Fate {
    /// Tells the sender of what became of earlier frames.
    fn tell(&self, progress: &mut Progress) {
        progress.down += self.down.swap(0, Ordering::Relaxed);
        progress.refused += self.refused.swap(0, Ordering::Relaxed);
        if self.is_gone.load(Ordering::Relaxed) {
            progress.end = Some(Sent::Gone);
        } else if self.is_down.load(Ordering::Relaxed) {
            progress.end.get_or_insert(Sent::Down);
        }
    }
}

impl WireRx {
    /// Forgets the frames on their way: who sent them has gone, or takes other frames now.
    pub fn empty(&mut self) {
        let mut stretch = self.wire.lock();
        *stretch = Stretch::default();
        if let Some(bells) = self.wire.bells.get() {
            bells.frames.set(false);
            bells.room.set(true);
        }
        drop(stretch);
        self.stretch = Stretch::default();
        self.at = 0;
    }

    /// Takes the next frame, whatever it is.
    pub fn take(&mut self) -> Option<(NetHeader, &[u8])> {
        let (header, place) = self.front()?;
        self.at = place.end;
        Some((header, &self.stretch.bytes[place]))
    }

    /// Puts back the frame that was taken last.
    pub fn put_back(&mut self, frame_len: usize) {
        self.at -= PREFIX + frame_len;
    }

    /// Tells the sender what became of the frame that was taken last.
    pub fn tell(&self, sent: Sent) {
        let fate = &self.wire.fate;
        match sent {
            Sent::Done => fate.is_down.store(false, Ordering::Relaxed),
            Sent::Down => {
                fate.is_down.store(true, Ordering::Relaxed);
                fate.down.fetch_add(1, Ordering::Relaxed);
            }
            Sent::Gone => {
                fate.is_gone.store(true, Ordering::Relaxed);
                fate.down.fetch_add(1, Ordering::Relaxed);
            }
            Sent::Refused => drop(fate.refused.fetch_add(1, Ordering::Relaxed)),
            Sent::Full | Sent::Fault => {}
        }
    }

    /// Readable while a frame lies on the wire, if the halves wake each other.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
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

impl Receive for WireRx {
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
