//! Frames of flows that could be joined, with whatever is wrong with them, in memory that changes while it is read.

use std::cell::{Cell, RefCell};

use arbitrary::Arbitrary;
use vnicd::offload::{Frames, NetHeader};

use super::check::{partial, sum};

/// What is special about a frame.
#[derive(Arbitrary, Debug)]
pub struct Spec {
    /// Bits: IPv6, UDP, two of VLAN tags, do not fragment, TCP options, two of the number of the flow.
    flow: u8,
    /// Bits: what the flow sends goes on elsewhere, the last of a stream, a large payload.
    quirks: u8,
    payload: u8,
    checksum: Checksum,
    header: Header,
    edits: Vec<(u8, u8)>,
    /// Bytes that are cut off.
    cut: Option<u8>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Checksum {
    Whole,
    Left,
    Zero,
    Any(u16),
}

#[derive(Arbitrary, Debug)]
enum Header {
    /// What belongs to the frame.
    Fitting,
    /// The same, but to be cut into segments, with any length of the headers.
    Segmented(u16, u16),
    /// The same with any place of the checksum.
    Placed(u16, u16),
    Any([u8; 12]),
}

/// A byte that the guest changes when the bytes of its frames are asked for once more.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Change {
    frame: u8,
    at: u8,
    xor: u8,
}

/// Where the flows have come.
#[derive(Debug)]
pub struct Flows([(u32, u16); 256]);

impl Default for Flows {
    fn default() -> Self {
        // Both about to wrap around.
        Self([(u32::MAX - 500, u16::MAX - 3); 256])
    }
}

impl Flows {
    /// The next frame of its flow, and its virtio-net header.
    pub fn next(&mut self, spec: &Spec) -> (NetHeader, Vec<u8>) {
        let bit = |at: u8| spec.flow >> at & 1 != 0;
        let (v6, udp, tags) = (bit(0), bit(1), (spec.flow >> 2 & 3).min(2));
        let large = if spec.quirks & 4 != 0 { 37 } else { 1 };
        let payload = usize::from(spec.payload) * large;
        let (sequence, id) = &mut self.0[usize::from(spec.flow)];
        if spec.quirks & 1 != 0 {
            (*sequence, *id) = (sequence.wrapping_add(9), id.wrapping_add(9));
        }
        let transport_header = if udp {
            let ports = [8 + (spec.flow >> 6), 0, 7, 0];
            [&ports[..], &((8 + payload) as u16).to_be_bytes(), &[0; 2]].concat()
        } else {
            let (words, flags) = (if bit(5) { 8 } else { 5 }, if spec.quirks & 2 != 0 { 0x19 } else { 0x10 });
            let ports = [9, 9, 8, spec.flow >> 6];
            let fixed = [words << 4, flags, 1, 1, 0, 0, 0, 0];
            [&ports[..], &sequence.to_be_bytes(), &[5; 4], &fixed, &vec![1; usize::from(words - 5) * 4]].concat()
        };
        let body: Vec<_> = (0..payload).map(|at| (at as u8).wrapping_mul(7) ^ *id as u8).collect();
        let transport_part = transport_header.len() + payload;
        let protocol = if udp { 17 } else { 6 };
        let ip = if v6 {
            let fixed = [&[0x60, 0, 0, 5][..], &(transport_part as u16).to_be_bytes(), &[protocol, 64]].concat();
            [&fixed[..], &[0xfd; 16], &[0xfe; 16]].concat()
        } else {
            let len = ((20 + transport_part) as u16).to_be_bytes();
            let fragment = if bit(4) { 0x40 } else { 0 };
            let fixed = [&[0x45, 0][..], &len, &id.to_be_bytes(), &[fragment, 0, 64, protocol, 0, 0]].concat();
            let mut ip = [&fixed[..], &[10, 0, 0, 1, 10, 0, 0, 2]].concat();
            let checksum = !sum(&[&ip]);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            ip
        };
        (*sequence, *id) = (sequence.wrapping_add(payload as u32), id.wrapping_add(1));
        let mut frame = vec![2; 12];
        (0..tags).for_each(|_| frame.extend([0x81, 0, 0, 5]));
        frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
        let addresses = if v6 { &ip[8..] } else { &ip[12..] };
        let left = partial(addresses, protocol, transport_part);
        let whole = !sum(&[&left.to_be_bytes(), &transport_header, &body]);
        frame.extend(&ip);
        let transport = frame.len();
        frame.extend(&transport_header);
        frame.extend(&body);
        let offset = if udp { 6 } else { 16 };
        let (checksum, is_left) = match spec.checksum {
            Checksum::Whole => (whole, false),
            Checksum::Left => (left, true),
            Checksum::Zero => (0, false),
            Checksum::Any(any) => (any, any & 1 != 0),
        };
        frame[transport + offset..transport + offset + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut header = NetHeader::default();
        if is_left {
            header = NetHeader::unfinished(transport, offset);
        }
        match spec.header {
            Header::Fitting => {}
            Header::Segmented(size, hdr_len) => {
                header = NetHeader::unfinished(transport, offset);
                header.0[1] = [1, 4, 5, 5][usize::from(spec.flow & 3)];
                header.0[2..4].copy_from_slice(&hdr_len.to_le_bytes());
                header.0[4..6].copy_from_slice(&size.to_le_bytes());
            }
            Header::Placed(start, offset) => header = NetHeader::unfinished(start.into(), offset.into()),
            Header::Any(any) => header = NetHeader(any),
        }
        for (at, byte) in &spec.edits {
            if let Some(place) = frame.get_mut(usize::from(*at)) {
                *place = *byte;
            }
        }
        frame.truncate(frame.len() - frame.len().min(spec.cut.unwrap_or(0).into()));
        (header, frame)
    }
}

/// Frames in a guest's memory. Lengths and headers are private, all else may change whenever it is read.
#[derive(Debug)]
pub struct Hostile<'a> {
    pub headers: Vec<NetHeader>,
    lens: Vec<usize>,
    bytes: RefCell<Vec<Vec<u8>>>,
    changes: &'a [Change],
    reads: Cell<usize>,
}

impl<'a> Hostile<'a> {
    pub fn new(frames: Vec<(NetHeader, Vec<u8>)>, changes: &'a [Change]) -> Self {
        let (headers, bytes): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let lens = bytes.iter().map(Vec::len).collect();
        Self { headers, lens, bytes: RefCell::new(bytes), changes, reads: Cell::new(0) }
    }

    /// The first `count` frames are done with.
    pub fn settle(&mut self, count: usize) {
        self.headers.drain(..count);
        self.lens.drain(..count);
        self.bytes.get_mut().drain(..count);
    }
}

impl Frames for Hostile<'_> {
    fn count(&self) -> usize {
        self.headers.len()
    }

    fn header(&self, at: usize) -> &NetHeader {
        &self.headers[at]
    }

    fn frame_len(&self, at: usize) -> usize {
        self.lens[at]
    }

    fn copy(&self, at: usize, from: usize, to: &mut [u8]) -> usize {
        let mut bytes = self.bytes.borrow_mut();
        if let Some(Change { frame, at, xor }) = self.changes.get(self.reads.replace(self.reads.get() + 1)) {
            let frame = bytes.get_mut(usize::from(*frame));
            if let Some(byte) = frame.and_then(|frame| frame.get_mut(usize::from(*at))) {
                *byte ^= xor;
            }
        }
        let bytes = bytes[at].get(from..).unwrap_or_default();
        let len = bytes.len().min(to.len());
        to[..len].copy_from_slice(&bytes[..len]);
        len
    }
}
