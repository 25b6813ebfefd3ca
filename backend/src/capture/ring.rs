//! The two ends of a ring of frames: a single producer that never waits, a single consumer.
//!
//! Each end keeps its own index for itself and only shows it. The other's is read once and checked: it can claim no more
//! than the ring has.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::area::Area;
use crate::mode::Time;

/// Bytes before those of a frame.
const HEADER: usize = 16;

/// What is known of a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// When it was moved.
    pub at: Time,
    /// Whether the guest got it; if not, it sent it.
    pub to_guest: bool,
    /// Its length in bytes, of which fewer may have been kept.
    pub len: u32,
}

/// What lies in a ring makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory that is shared with the daemon holds no frames")]
pub struct Broken;

/// The end that writes.
#[derive(Debug)]
pub struct Producer {
    area: Area,
    /// Bytes that were ever written.
    head: u64,
    /// Bytes that had been read when that was last looked at.
    tail: u64,
    dropped: u64,
}

/// The end that reads.
#[derive(Debug)]
pub struct Consumer {
    area: Area,
    /// Bytes that had been written when that was last looked at.
    head: u64,
    /// Bytes that were ever read.
    tail: u64,
}

/// Bytes that a frame takes of which so many are kept.
fn record_len(kept: usize) -> u64 {
    (HEADER + kept).next_multiple_of(8) as u64
}

impl Producer {
    /// Of a ring that is new.
    pub(super) fn new(area: Area) -> Self {
        Self { area, head: 0, tail: 0, dropped: 0 }
    }

    /// Whether there is room for so many bytes of a frame. A frame for which there is none is dropped, and counted here.
    #[inline]
    pub fn makes_room(&mut self, kept: usize) -> bool {
        let needed = record_len(kept);
        let has_room = |tail: u64| needed <= self.area.size() - (self.head - tail);
        if !has_room(self.tail) {
            // Pairs with the store in `Consumer::take`: what was there has been copied.
            let tail = self.area.tail().load(Ordering::Acquire);
            // Who claims to have read what was never written has read nothing.
            if self.head.checked_sub(tail).is_some_and(|unread| unread <= self.area.size()) {
                self.tail = tail;
            }
            if !has_room(self.tail) {
                self.dropped += 1;
                self.area.dropped().store(self.dropped, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    /// Adds a frame of which these bytes are kept, for which [`Producer::makes_room`] has just said that there is room.
    #[inline]
    pub fn push(&mut self, meta: &Meta, bytes: &[u8]) {
        debug_assert!(record_len(bytes.len()) <= self.area.size() - (self.head - self.tail));
        self.area.write_word(self.head, bytes.len() as u64 | u64::from(meta.len) << 32);
        self.area.write_word(self.head + 8, meta.at.as_nanos() << 1 | u64::from(meta.to_guest));
        self.area.write(self.head + HEADER as u64, bytes);
        self.head += record_len(bytes.len());
        // Pairs with the load in `Consumer::look`: the frame is there.
        self.area.head().store(self.head, Ordering::Release);
    }
}

impl Consumer {
    /// Of a ring from which nothing was read.
    pub(super) fn new(area: Area) -> Self {
        Self { area, head: 0, tail: 0 }
    }

    /// Looks for frames. Those that come later are seen the next time.
    ///
    /// # Errors
    /// When more was written than the ring has.
    pub fn look(&mut self) -> Result<(), Broken> {
        let head = self.area.head().load(Ordering::Acquire);
        if head.checked_sub(self.tail).is_none_or(|unread| unread > self.area.size()) {
            return Err(Broken);
        }
        self.head = head;
        Ok(())
    }

    /// The next of the frames that were seen.
    ///
    /// # Errors
    /// When that is none.
    pub fn next(&self) -> Result<Option<Meta>, Broken> {
        Ok(self.front()?.map(|(meta, _)| meta))
    }

    /// Takes the next of the frames that were seen: its bytes, as far as they were kept, are in `bytes` then.
    ///
    /// # Errors
    /// When that is none.
    pub fn take(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Meta>, Broken> {
        let Some((meta, kept)) = self.front()? else { return Ok(None) };
        bytes.resize(kept, 0);
        self.area.read(self.tail + HEADER as u64, bytes);
        self.tail += record_len(kept);
        self.area.tail().store(self.tail, Ordering::Release);
        Ok(Some(meta))
    }

    /// Frames that found no room so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.area.dropped().load(Ordering::Relaxed)
    }

    /// The next frame, and how many bytes of it were kept.
    fn front(&self) -> Result<Option<(Meta, usize)>, Broken> {
        let seen = self.head - self.tail;
        if seen == 0 {
            return Ok(None);
        }
        let mut header = [0; HEADER];
        self.area.read(self.tail, &mut header);
        let number = u128::from_le_bytes(header);
        let (kept, len, at) = (number as u32, (number >> 32) as u32, (number >> 64) as u64);
        if record_len(kept as usize) > seen || kept > len {
            return Err(Broken);
        }
        Ok(Some((Meta { at: Time::from_nanos(at >> 1), to_guest: at & 1 == 1, len }, kept as usize)))
    }
}
