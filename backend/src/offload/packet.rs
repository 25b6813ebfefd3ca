//! The headers of a frame: Ethernet with up to two VLAN tags (IEEE 802.1Q), IPv4 (RFC 791) or IPv6 (RFC 8200), and TCP
//! (RFC 9293) or UDP (RFC 768).
//!
//! Only what stands for itself is a packet here: no fragments, no extension headers of IPv6, no header that the frame
//! does not hold to its end. Any bytes may be asked about.

#![forbid(unsafe_code)]

use super::checksum::{Sum, TCP_CHECKSUM, UDP_CHECKSUM, pseudo_header};

/// Bytes of the longest headers of a packet: Ethernet with two tags, IPv4 and TCP with all the options they can have.
pub(super) const MAX_HEADERS: usize = 22 + 60 + 60;

pub(super) const ETHERNET_LEN: usize = 14;
pub(super) const TAG_LEN: usize = 4;
pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const MAX_TAGS: usize = 2;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Of the flags and fragment offset of IPv4: whatever only a fragment has.
const MORE_OR_OFFSET: u16 = 0x3fff;
/// Of the same: do not fragment.
pub(super) const DONT_FRAGMENT: u16 = 0x4000;

/// Bits of the fourteenth byte of a TCP header.
pub(super) mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const CWR: u8 = 0x80;
}

/// Whether a type field announces a VLAN tag: of a customer or of a provider.
pub(super) fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8)
}

/// The version of IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// What IP carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Where the headers of a frame are, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The IP header.
    pub ip: usize,
    /// The TCP or UDP header.
    pub transport: usize,
    /// What follows it.
    pub payload: usize,
    /// The version of IP.
    pub version: Version,
    /// What IP carries.
    pub protocol: Transport,
}

/// Why bytes are not the headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The frame ends before its headers do.
    #[error("it ends before its headers do")]
    Short,
    /// Neither IPv4 nor IPv6.
    #[error("it is not of IP")]
    NotIp,
    /// A header whose version or length cannot be.
    #[error("one of its headers makes no sense")]
    Header,
    /// A part of a packet.
    #[error("it is a fragment")]
    Fragment,
    /// Neither TCP nor UDP.
    #[error("it carries neither TCP nor UDP")]
    Protocol,
}

impl Packet {
    /// Finds the headers in the first bytes of a frame.
    ///
    /// # Errors
    /// When they are not those of a whole TCP or UDP packet, or not all in `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut at = ETHERNET_LEN - 2;
        let mut ether_type = word(bytes, at)?;
        for _ in 0..MAX_TAGS {
            if is_tag(ether_type) {
                at += TAG_LEN;
                ether_type = word(bytes, at)?;
            }
        }
        let ip = at + 2;
        let (version, transport, protocol) = match ether_type {
            IPV4 => (Version::V4, ip + ipv4_len(bytes, ip)?, byte(bytes, ip + 9)?),
            IPV6 if byte(bytes, ip)? >> 4 == 6 => (Version::V6, ip + 40, byte(bytes, ip + 6)?),
            IPV6 => return Err(ParseError::Header),
            _ => return Err(ParseError::NotIp),
        };
        let (protocol, len) = match protocol {
            TCP => (Transport::Tcp, usize::from(byte(bytes, transport + 12)? >> 4) * 4),
            UDP => (Transport::Udp, 8),
            _ => return Err(ParseError::Protocol),
        };
        if protocol == Transport::Tcp && len < 20 {
            return Err(ParseError::Header);
        }
        let payload = transport + len;
        if bytes.len() < payload {
            return Err(ParseError::Short);
        }
        Ok(Self { ip, transport, payload, version, protocol })
    }

    /// Bytes of the payload of a frame of `frame_len` bytes, if every length in its headers says the same: nothing is
    /// cut off, and nothing (such as the padding of a short frame) comes behind. `bytes` are those that were parsed.
    #[must_use]
    pub fn payload_len(&self, bytes: &[u8], frame_len: usize) -> Option<usize> {
        let ip_len = match self.version {
            Version::V4 => word(bytes, self.ip + 2).ok()?.into(),
            Version::V6 => 40 + usize::from(word(bytes, self.ip + 4).ok()?),
        };
        let udp_len = match self.protocol {
            Transport::Tcp => None,
            Transport::Udp => Some(usize::from(word(bytes, self.transport + 4).ok()?)),
        };
        let agree = self.ip + ip_len == frame_len && udp_len.is_none_or(|len| self.transport + len == frame_len);
        frame_len.checked_sub(self.payload).filter(|_| agree)
    }

    /// Where the checksum field of the TCP or UDP header is, from the start of that header.
    #[must_use]
    pub fn csum_offset(&self) -> usize {
        match self.protocol {
            Transport::Tcp => TCP_CHECKSUM,
            Transport::Udp => UDP_CHECKSUM,
        }
    }

    /// The sum of the pseudo header, for `len` bytes of TCP or UDP. `bytes` are those that were parsed.
    #[inline]
    #[must_use]
    pub fn pseudo_header(&self, bytes: &[u8], len: usize) -> Sum {
        let addresses = match self.version {
            Version::V4 => chunk(bytes, self.ip + 12).map(|both: &[u8; 8]| Sum::default().block(both)),
            Version::V6 => chunk(bytes, self.ip + 8).map(|both: &[u8; 32]| Sum::default().block(both)),
        };
        let protocol = match self.protocol {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
        };
        pseudo_header(addresses.unwrap_or_default(), protocol, len)
    }
}

/// Judges an IPv4 header and says its length.
fn ipv4_len(bytes: &[u8], ip: usize) -> Result<usize, ParseError> {
    let first = byte(bytes, ip)?;
    let len = usize::from(first & 15) * 4;
    if first >> 4 != 4 || len < 20 {
        return Err(ParseError::Header);
    }
    if word(bytes, ip + 6)? & MORE_OR_OFFSET != 0 {
        return Err(ParseError::Fragment);
    }
    Ok(len)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, ParseError> {
    bytes.get(at).copied().ok_or(ParseError::Short)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, ParseError> {
    chunk(bytes, at).map(|word| u16::from_be_bytes(*word)).ok_or(ParseError::Short)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk())
}

#[cfg(test)]
mod tests;
