//! The half that sends: each frame is copied to packet memory, finished or cut where its header leaves that to us, and
//! handed to the kernel with the rest of its burst.

#![forbid(unsafe_code)]

use std::sync::Arc;

use rustix::io::Errno;

use super::chunks::Chunks;
use super::port::XdpPort;
use super::ring::{Consumer, Descriptor, Producer};
use super::socket::Bound;
use crate::offload::{NetHeader, Offloads, Segments, finish, pad};
use crate::uplink::{Progress, Sent, TxBurst, TxFrame};

/// What the wire finishes: nothing.
const TAKES: Offloads = Offloads { csum: false, tso4: false, tso6: false, ecn: false, uso4: false, uso6: false };

/// Bytes of an Ethernet header; less is no frame.
const LINK_LEN: usize = 14;

/// Most chunks that a frame may lie in: what a packet of the kernel's can be made of.
const MAX_PIECES: usize = 17;

/// Descriptors that the kernel takes in a call, at least, where it copies.
const TAKES_A_CALL: u32 = 16;

/// Longest headers that a segment has, in bytes.
const MAX_HEADERS: usize = 142;

/// The half of a queue that sends.
#[derive(Debug)]
pub struct XdpTx {
    port: Arc<XdpPort>,
    rings: Option<TxRings>,
    /// A frame that is to be worked on.
    gathered: Vec<u8>,
    is_down: bool,
    /// Frames are left that the kernel did not take yet.
    is_full: bool,
}

/// Rings and memory of the half.
#[derive(Debug)]
pub(super) struct TxRings {
    socket: Arc<Bound>,
    tx: Producer<Descriptor>,
    completion: Consumer<u64>,
    chunks: Chunks,
    /// Addresses of chunks that no frame lies in.
    free: Vec<u64>,
}

/// What the kernel did with what was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It took all, or will without being told.
    All,
    /// It is to be asked again for the rest.
    Some,
    /// Its interface is down or has gone.
    Down,
}

impl XdpTx {
    pub(super) fn new(port: Arc<XdpPort>) -> Self {
        Self { port, rings: None, gathered: Vec::new(), is_down: false, is_full: false }
    }

    pub(in crate::uplink) fn port(&self) -> &XdpPort {
        &self.port
    }

    #[inline]
    pub(in crate::uplink) fn send(&mut self, burst: &TxBurst<'_>) -> Progress {
        let Some(mut rings) = self.ready() else { return burst.each(|_| Sent::Down) };
        let mut progress = burst.each(|frame| rings.put(frame, &mut self.gathered));
        let taken = rings.flush();
        let has_room = !rings.free.is_empty();
        self.rings = Some(rings);
        let state = self.settle(taken);
        if state != Sent::Done {
            progress.end = Some(state);
        } else if has_room && progress.end == Some(Sent::Full) {
            // What the flush made room for goes next.
            progress.end = None;
        } else if progress.end == Some(Sent::Full) {
            self.settle(Taken::Some);
        }
        progress
    }

    pub(in crate::uplink) fn send_private(&mut self, header: &NetHeader, frame: &[u8]) -> Sent {
        let Some(mut rings) = self.ready() else { return Sent::Down };
        self.gathered.clear();
        self.gathered.extend_from_slice(frame);
        let sent = rings.put_gathered(header, &mut self.gathered);
        let taken = rings.flush();
        self.rings = Some(rings);
        match (sent, self.settle(taken)) {
            (Sent::Done, Sent::Down) => Sent::Down,
            (Sent::Full, Sent::Done) => {
                self.settle(Taken::Some);
                Sent::Full
            }
            (sent, _) => sent,
        }
    }

    /// Has the kernel take what it did not take yet. Says whether nothing is left.
    #[inline]
    pub(in crate::uplink) fn flush(&mut self) -> bool {
        if !self.is_full {
            return true;
        }
        match self.rings.as_mut().map(TxRings::flush) {
            Some(taken) => self.settle(taken) != Sent::Full,
            None => true,
        }
    }

    /// The rings, unless nothing can be sent by them.
    fn ready(&mut self) -> Option<TxRings> {
        if let Some(rings) = self.port.new_tx() {
            self.rings = Some(rings);
            self.is_down = false;
        }
        let mut rings = self.rings.take()?;
        rings.reclaim();
        // What is added while the interface is down would go out, late, when it is up again.
        if self.is_down && rings.kick() == Taken::Down {
            self.rings = Some(rings);
            return None;
        }
        Some(rings)
    }

    fn settle(&mut self, taken: Taken) -> Sent {
        self.is_down = taken == Taken::Down;
        self.is_full = taken == Taken::Some;
        match taken {
            Taken::All => Sent::Done,
            Taken::Some => {
                self.port.retry_soon();
                Sent::Full
            }
            Taken::Down => Sent::Down,
        }
    }
}

impl TxRings {
    pub(super) fn new(socket: Arc<Bound>, tx: Producer<Descriptor>, completion: Consumer<u64>, chunks: Chunks) -> Self {
        let free = chunks.addresses().collect();
        Self { socket, tx, completion, chunks, free }
    }

    /// Takes back the chunks that the kernel is done with.
    #[inline]
    fn reclaim(&mut self) {
        let mut n = 0;
        while let Some(addr) = self.completion.peek(n) {
            n += 1;
            // No more than there are, whatever comes back.
            if let Some(chunk) = self.chunks.chunk_of(addr)
                && self.free.len() < self.chunks.count()
            {
                self.free.push(chunk);
            }
        }
        if n > 0 {
            self.completion.release(n);
        }
    }

    #[inline]
    fn put(&mut self, frame: &TxFrame<'_>, gathered: &mut Vec<u8>) -> Sent {
        if frame.len < LINK_LEN {
            return Sent::Refused;
        }
        if !frame.header.is_plain() || frame.len > self.chunks.size() {
            gathered.clear();
            frame.append(0..frame.len, gathered);
            return self.put_gathered(frame.header, gathered);
        }
        let Some(chunk) = self.room(1) else { return Sent::Full };
        let len = frame.len.max(crate::offload::MIN_FRAME);
        let Some(bytes) = self.chunks.bytes(chunk, len) else { return Sent::Refused };
        frame.copy(0, &mut bytes[..frame.len]);
        let len = pad(bytes, frame.len);
        self.free.pop();
        self.tx.push(Descriptor { addr: chunk, len: len as u32, options: 0 });
        Sent::Done
    }

    /// Adds a frame in private memory, finished, in as many packets as it stands for.
    #[inline(never)]
    fn put_gathered(&mut self, header: &NetHeader, frame: &mut [u8]) -> Sent {
        if !header.is_segmented() {
            let mut header = *header;
            return match finish(&mut header, frame, TAKES) {
                Ok(()) if frame.len() >= LINK_LEN => self.put_bytes(&[frame]),
                _ => Sent::Refused,
            };
        }
        let Ok(segments) = Segments::new(header, frame, TAKES) else { return Sent::Refused };
        // All of it or nothing: a packet that is sent is not taken back.
        let count = header.segments(frame.len(), |at| frame.get(at).copied().unwrap_or(0));
        let needed = count * self.pieces(header.gso_size().min(frame.len()) + MAX_HEADERS);
        if needed > self.chunks.count() {
            return Sent::Refused;
        }
        if self.room(needed).is_none() {
            return Sent::Full;
        }
        for segment in segments {
            let sent = self.put_bytes(&[segment.head(), segment.payload]);
            if sent != Sent::Done {
                return Sent::Refused;
            }
        }
        Sent::Done
    }

    fn pieces(&self, len: usize) -> usize {
        len.div_ceil(self.chunks.size()).max(1)
    }

    /// The next free chunk, if there are `needed` ones and room in the ring for them.
    #[inline]
    fn room(&mut self, needed: usize) -> Option<u64> {
        let has_room = self.free.len() >= needed && self.tx.room(needed as u32) as usize >= needed;
        self.free.last().copied().filter(|_| has_room)
    }

    /// Adds a finished frame that lies in two parts at most.
    fn put_bytes(&mut self, parts: &[&[u8]]) -> Sent {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let pieces = self.pieces(len);
        if pieces > 1 && !self.socket.multi_buffer || pieces > MAX_PIECES {
            return Sent::Refused;
        }
        if self.room(pieces).is_none() {
            return Sent::Full;
        }
        let mut parts = parts.iter().copied();
        let mut part = parts.next().unwrap_or_default();
        let mut left = len;
        while left > 0 {
            let Some(chunk) = self.free.pop() else { return Sent::Refused };
            let size = left.min(self.chunks.size());
            let Some(bytes) = self.chunks.bytes(chunk, self.chunks.size()) else { return Sent::Refused };
            let mut filled = 0;
            while filled < size {
                if part.is_empty() {
                    let Some(next) = parts.next() else { break };
                    part = next;
                }
                let n = part.len().min(size - filled);
                bytes[filled..filled + n].copy_from_slice(&part[..n]);
                (filled, part) = (filled + n, &part[n..]);
            }
            left -= size;
            let size = if pieces == 1 { pad(bytes, size) } else { size };
            let options = if left > 0 { libc::XDP_PKT_CONTD } else { 0 };
            self.tx.push(Descriptor { addr: chunk, len: size as u32, options });
        }
        Sent::Done
    }

    /// Shows the kernel what was added.
    fn flush(&mut self) -> Taken {
        self.tx.publish();
        let taken = self.kick();
        self.reclaim();
        taken
    }

    /// Has the kernel send what is in the ring. It takes some dozens of packets a call, and before Linux 6.17 does not
    /// tell how many while there are more: so it is asked as often as it may take.
    fn kick(&mut self) -> Taken {
        if self.socket.zero_copy && !self.tx.needs_wakeup() {
            return Taken::All;
        }
        let mut before = self.tx.pending();
        let mut patience = before / TAKES_A_CALL + 1;
        loop {
            match self.socket.wake_tx() {
                // Without a queue to send on it takes nothing and says nothing.
                Ok(()) if !self.socket.zero_copy && self.tx.pending() > 0 => return Taken::Down,
                Ok(()) => return Taken::All,
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR | Errno::NOMEM) => {
                    let left = self.tx.pending();
                    match left {
                        0 => return Taken::All,
                        left if left < before => before = left,
                        _ if patience == 0 => return Taken::Some,
                        _ => patience -= 1,
                    }
                }
                // Down, gone, or something that is not to be known: it is tried again with the next frame.
                Err(_) => return Taken::Down,
            }
        }
    }
}
