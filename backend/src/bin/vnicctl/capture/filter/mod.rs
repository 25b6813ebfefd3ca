//! Which frames are written: a subset of what pcap-filter(7) describes, judged as libpcap judges it.
//!
//! Fields are read where libpcap's programs read them, and a frame that ends before a field that must be read matches
//! nothing, not even a negation. In one thing this differs: VLAN tags are passed over, so that `tcp` means TCP behind
//! them, too, where pcap-filter(7) wants `vlan and tcp`.

mod packet;
mod parse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::str::FromStr;

use self::packet::{ARP, IP, IP6, Packet, RARP};

/// TCP, UDP and SCTP: what has ports.
const WITH_PORTS: &[u8] = &[6, 17, 132];

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    text: String,
    expr: Expr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    EtherType(u16),
    /// A protocol over IPv4 or IPv6.
    Protocol {
        number: u8,
        v4: bool,
        v6: bool,
    },
    Net(Side, Prefix),
    Port(Side, &'static [u8], u16),
    Ether(Side, [u8; 6]),
    Vlan(Option<u16>),
}

/// Whether the source is meant, the destination, or either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Src,
    Dst,
    Either,
}

/// Addresses that share their first bits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefix {
    /// Words of the address, one or four, each with the mask of the bits that count.
    words: Vec<(u32, u32)>,
}

impl Filter {
    /// Whether a frame is to be written, of which these bytes are known.
    pub(crate) fn matches(&self, frame: &[u8]) -> bool {
        self.expr.matches(&Packet::new(frame)).unwrap_or(false)
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.into(), expr: parse::expression(text)? })
    }
}

impl Expr {
    /// Whether a frame matches; none if it ends before a field that must be looked at.
    fn matches(&self, packet: &Packet<'_>) -> Option<bool> {
        Some(match self {
            Self::Not(inner) => !inner.matches(packet)?,
            Self::And(a, b) => a.matches(packet)? && b.matches(packet)?,
            Self::Or(a, b) => a.matches(packet)? || b.matches(packet)?,
            Self::EtherType(ether_type) => packet.ether_type()? == *ether_type,
            Self::Protocol { number, v4, v6 } => match packet.ether_type()? {
                IP => *v4 && packet.protocol_v4()? == *number,
                IP6 => *v6 && packet.is_protocol_v6(*number)?,
                _ => false,
            },
            Self::Net(side, prefix) => {
                let places = match (packet.ether_type()?, prefix.is_v4()) {
                    (IP, true) => [12, 16],
                    (ARP | RARP, true) => [14, 24],
                    (IP6, false) => [8, 24],
                    _ => return Some(false),
                };
                side.any(places, |at| prefix.holds(packet, at))?
            }
            Self::Port(side, protocols, port) => match packet.start_of_ports(protocols)? {
                Some(ports) => side.any([ports, ports + 2], |at| Some(packet.word_at(at)? == *port))?,
                None => false,
            },
            Self::Ether(side, mac) => side.any([6, 0], |at| Some(packet.mac_at(at)? == *mac))?,
            Self::Vlan(None) => packet.is_tagged()?,
            Self::Vlan(Some(id)) => packet.is_tagged()? && packet.vlans().any(|vlan| vlan == *id),
        })
    }
}

impl Side {
    /// Whether what is asked is true at the place of the source, of the destination, or at one of them.
    fn any(self, [src, dst]: [usize; 2], is_at: impl Fn(usize) -> Option<bool>) -> Option<bool> {
        match self {
            Self::Src => is_at(src),
            Self::Dst => is_at(dst),
            Self::Either => Some(is_at(src)? || is_at(dst)?),
        }
    }
}

impl Prefix {
    /// The addresses that share the first `len` bits with this one, which has no others.
    fn new(address: IpAddr, len: u32) -> Self {
        // On the left, in 128 bits.
        let bits = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => u128::from(address),
        };
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        let words = if address.is_ipv4() { 1 } else { 4 };
        let word = |of: u128, at: u32| (of >> (96 - 32 * at)) as u32;
        Self { words: (0..words).map(|at| (word(bits, at), word(mask, at))).collect() }
    }

    fn is_v4(&self) -> bool {
        self.words.len() == 1
    }

    /// Whether it holds the address at a place of the network header: word by word, as libpcap looks at it.
    fn holds(&self, packet: &Packet<'_>, at: usize) -> Option<bool> {
        for (n, (word, mask)) in self.words.iter().enumerate().filter(|(_, (_, mask))| *mask != 0) {
            if packet.long_at(at + 4 * n)? & mask != *word {
                return Some(false);
            }
        }
        Some(true)
    }
}
