//! The packets: UDP over IPv4 (RFC 768, RFC 791) that must not be fragmented, 64 bytes, checksums right; and the capture
//! file from which testpmd takes them.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use guest_tests::driver::frames::{self, HEADERS, Mac};
use guest_tests::testpmd::write_capture;

/// Bytes of a packet.
pub const LEN: usize = 64;
/// Bytes of its payload.
pub const PAYLOAD: usize = LEN - HEADERS;

/// Where they come from: an address, and a MAC address.
pub const CLIENT: ([u8; 4], Mac) = ([10, 77, 0, 2], [0x02, 0, 0, 0, 0, 0x77]);
/// Whom they are for.
pub const HOST: ([u8; 4], Mac) = ([10, 77, 0, 1], [0x02, 0, 0, 0, 0, 0x01]);
/// Another host's MAC address: packets to it are dropped by who gets them.
pub const STRANGER: Mac = [0x02, 0, 0, 0, 0, 0x99];
/// The port that they are for.
pub const PORT: u16 = 5001;

/// Source ports begin here.
const FIRST_PORT: u16 = 10_000;
/// Packets of few flows before they come again.
const FEW: u16 = 256;
/// Packets each of another flow: many more than a ring holds.
const MANY: u16 = 8192;

/// What the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// Packets of one flow.
    OneFlow,
    /// Packets of eight flows in turn.
    EightFlows,
    /// Every packet of another flow: there is nothing to join.
    EachAnother,
    /// testpmd's own: one flow, no UDP checksum, so that they must not be joined.
    Txonly,
}

impl Stream {
    /// The packets, which come again after the last.
    #[must_use]
    pub fn frames(self, to: Mac) -> Vec<Vec<u8>> {
        let (count, flows) = match self {
            Self::OneFlow => (FEW, 1),
            Self::EightFlows => (FEW, 8),
            Self::EachAnother => (MANY, MANY),
            Self::Txonly => (FEW, 1),
        };
        let frame = |number: u16| {
            let frame = frame(to, FIRST_PORT + number % flows);
            if self == Self::Txonly { frame } else { with_checksum(frame) }
        };
        (0..count).map(frame).collect()
    }

    /// Writes the file from which testpmd takes them.
    pub fn write(self, path: &Path, to: Mac) -> Result<()> {
        write_capture(path, &self.frames(to))
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneFlow => "one flow",
            Self::EightFlows => "8 flows in turn",
            Self::EachAnother => "every packet another flow",
            Self::Txonly => "no UDP checksum (txonly)",
        })
    }
}

/// A packet from a port, without a UDP checksum.
fn frame(to: Mac, port: u16) -> Vec<u8> {
    let payload: [u8; PAYLOAD] = std::array::from_fn(|at| at as u8);
    frames::udp(CLIENT.1, to, (CLIENT.0, port), (HOST.0, PORT), &payload)
}

/// Gives a UDP packet its checksum.
fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = frames::checksum(&covered(&frame));
    // A sum of zero would say that there is none.
    frame[40..42].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    frame
}

/// What the checksum of a UDP packet covers: the pseudo header, and the datagram.
fn covered(frame: &[u8]) -> Vec<u8> {
    [&frame[26..34], &[0, 17], &frame[38..40], &frame[34..]].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn flows(stream: Stream) -> usize {
        stream.frames(STRANGER).iter().map(|frame| frame[26..38].to_vec()).collect::<HashSet<_>>().len()
    }

    #[test]
    fn every_packet_is_one_that_may_be_joined_or_none() {
        for stream in [Stream::OneFlow, Stream::EightFlows, Stream::EachAnother, Stream::Txonly] {
            for frame in stream.frames(HOST.1) {
                assert_eq!((frame.len(), frame[20]), (LEN, 0x40), "64 bytes, don't fragment");
                assert_eq!(frames::checksum(&frame[14..34]), 0);
                let full = frames::checksum(&covered(&frame)) == 0;
                let none = frame[40..42] == [0, 0];
                assert_eq!((full, none), if stream == Stream::Txonly { (false, true) } else { (true, false) });
            }
        }
    }

    #[test]
    fn flows_are_as_many_as_said() {
        let streams = [Stream::OneFlow, Stream::EightFlows, Stream::EachAnother, Stream::Txonly];
        assert_eq!(streams.map(flows), [1, 8, 8192, 1]);
        let eight = Stream::EightFlows.frames(STRANGER);
        assert!(eight.windows(8).all(|run| run.iter().collect::<HashSet<_>>().len() == 8), "in turn, without a gap");
        assert_eq!(eight.len() % 8, 0, "also where they begin again");
    }

    #[test]
    fn a_sum_of_zero_is_not_left_out() {
        // The source port that makes the sum zero: what is left of all else.
        let mut packet = frame(HOST.1, 0);
        let rest = frames::checksum(&covered(&packet));
        packet[34..36].copy_from_slice(&rest.to_be_bytes());
        assert_eq!(with_checksum(packet)[40..42], [0xff, 0xff]);
    }
}
