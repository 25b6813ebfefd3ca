//! A test uplink that never runs dry: the same frame as often as the guest has room for it.

use super::{Receive, Received};
use crate::memory::{GuestSlice, copy_to_guest};
use crate::offload::NetHeader;

/// Least bytes of a generated frame: Ethernet, IPv4 and UDP headers.
pub const MIN_LEN: usize = 42;

/// The receiving half; what is sent is discarded.
#[derive(Debug)]
pub struct GenerateRx {
    frame: Vec<u8>,
    header: NetHeader,
}

impl GenerateRx {
    /// An endless stream of UDP frames of `len` bytes, at least [`MIN_LEN`], from and to addresses for documentation and
    /// benchmarks (RFC 2544, RFC 7042), to the discard port. They carry no UDP checksum, which IPv4 allows.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let mut frame = vec![0; len.max(MIN_LEN)];
        let ip_len = (frame.len() - 14) as u16;
        let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2];
        ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
        let sum: u32 = ip.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        frame[..6].fill(0xff);
        frame[6..14].copy_from_slice(&[0x00, 0x00, 0x5e, 0x00, 0x53, 0x01, 0x08, 0x00]);
        frame[14..34].copy_from_slice(&ip);
        frame[34..40].copy_from_slice(&[0, 9, 0, 9, ((ip_len - 20) >> 8) as u8, (ip_len - 20) as u8]);
        Self { frame, header: NetHeader::default() }
    }
}

impl Receive for GenerateRx {
    #[inline]
    fn next_plain(&mut self, room: usize) -> Option<&[u8]> {
        (self.frame.len() <= room).then_some(&self.frame)
    }

    #[inline]
    fn receive(&mut self, slices: &[GuestSlice<'_>], skip: usize, _room: usize) -> Received<'_> {
        let done = copy_to_guest(&self.frame, slices, skip);
        Received::Frame { header: self.header, len: self.frame.len(), rest: &self.frame[done..] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_a_datagram_of_the_length_asked_for() {
        let frame = GenerateRx::new(64).frame;
        assert_eq!((frame.len(), &frame[12..16], &frame[16..18]), (64, &[8, 0, 0x45, 0][..], &[0, 50][..]));
        let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the header's checksum");
        assert_eq!(frame[38..40], [0, 30]);
        assert_eq!(GenerateRx::new(1).frame.len(), MIN_LEN);
    }
}
