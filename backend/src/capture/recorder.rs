//! What a worker has while its lane is captured.

#![forbid(unsafe_code)]

use super::{MAX_SNAPLEN, Meta, Producer};
use crate::mode::Time;

/// Copies frames into a ring.
#[derive(Debug)]
pub struct Recorder {
    ring: Producer,
    /// When the round began whose frames come.
    at: Time,
    /// Bytes of a frame, as many as are kept: they are read from the guest once.
    bytes: Vec<u8>,
}

impl Recorder {
    /// One that keeps the first `snaplen` bytes of each frame, at most [`MAX_SNAPLEN`].
    #[must_use]
    pub fn new(ring: Producer, snaplen: usize) -> Self {
        Self { ring, at: Time::default(), bytes: vec![0; snaplen.min(MAX_SNAPLEN)] }
    }

    /// Frames that come are of this moment.
    pub fn set_time(&mut self, at: Time) {
        self.at = at;
    }

    /// Keeps a frame of `len` bytes, which `copy` puts where it is told and says how many, or counts it as dropped.
    pub fn record(&mut self, to_guest: bool, len: usize, copy: impl FnOnce(&mut [u8]) -> usize) {
        let kept = len.min(self.bytes.len());
        if self.ring.makes_room(kept) {
            let bytes = &mut self.bytes[..kept];
            let kept = copy(bytes).min(kept);
            self.ring.push(&Meta { at: self.at, to_guest, len: len as u32 }, &self.bytes[..kept]);
        }
    }
}
