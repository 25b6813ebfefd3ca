//! A test uplink that returns every frame to the guest that sent it, with its MAC addresses swapped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Received, Rx, Sent, Tx, TxFrame};
use crate::memory::{GuestSlice, copy_from_guest, copy_to_guest};
use crate::offload::NetHeader;

/// Most frames on their way; then the sender waits.
const MAX_FRAMES: usize = 1024;
/// Two MAC addresses open a frame (IEEE 802.3, 3.2).
const MAC_LEN: usize = 6;

#[derive(Debug, Default)]
struct Wire {
    frames: VecDeque<(NetHeader, Vec<u8>)>,
    /// Buffers of frames that have arrived, for the next ones.
    spare: Vec<Vec<u8>>,
}

/// The sending half.
#[derive(Debug)]
pub struct LoopbackTx(Arc<Mutex<Wire>>);

/// The receiving half.
#[derive(Debug)]
pub struct LoopbackRx {
    wire: Arc<Mutex<Wire>>,
    /// The frame received last.
    frame: Vec<u8>,
}

/// A wire from a queue pair back to itself.
#[must_use]
pub fn loopback_pair() -> (Tx, Rx) {
    let wire = Arc::default();
    (Tx::Loopback(LoopbackTx(Arc::clone(&wire))), Rx::Loopback(LoopbackRx { wire, frame: Vec::new() }))
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LoopbackTx {
    pub(super) fn send(&mut self, frame: TxFrame<'_>) -> Sent {
        let mut wire = lock(&self.0);
        if wire.frames.len() >= MAX_FRAMES {
            return Sent::Full;
        }
        let mut bytes = wire.spare.pop().unwrap_or_default();
        bytes.resize(frame.len, 0);
        let (mut skip, mut done) = (frame.skip, 0);
        for slice in frame.slices {
            let rest = slice.skip(skip);
            skip -= slice.len() - rest.len();
            done += copy_from_guest(&[rest], &mut bytes[done..]);
        }
        if bytes.len() < 2 * MAC_LEN {
            wire.spare.push(bytes);
            return Sent::Refused;
        }
        bytes[..2 * MAC_LEN].rotate_left(MAC_LEN);
        wire.frames.push_back((frame.header, bytes));
        Sent::Done
    }
}

impl LoopbackRx {
    /// Forgets the frames on their way: who sent them has gone, or takes other frames now.
    pub(super) fn empty(&mut self) {
        let mut wire = lock(&self.wire);
        let Wire { frames, spare } = &mut *wire;
        spare.extend(frames.drain(..).map(|(_, frame)| frame));
    }

    pub(super) fn receive(&mut self, slices: &[GuestSlice<'_>], mut skip: usize) -> Received<'_> {
        let mut wire = lock(&self.wire);
        let Some((header, frame)) = wire.frames.pop_front() else { return Received::Empty };
        wire.spare.push(std::mem::replace(&mut self.frame, frame));
        drop(wire);
        let mut done = 0;
        for slice in slices {
            let rest = slice.skip(skip);
            skip -= slice.len() - rest.len();
            done += copy_to_guest(&self.frame[done..], &[rest]);
        }
        Received::Frame { header, len: self.frame.len(), rest: &self.frame[done..] }
    }
}
