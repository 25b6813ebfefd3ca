//! Flows of packets of a kind, each packet as its sender would have finished it.

use anyhow::{Context, Result, ensure};
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6FlowLabel,
    Ipv6Header, TcpHeader, UdpHeader,
};

use super::{Frame, VnetHeader};

/// A kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// TCP over IPv4 behind a VLAN tag.
    Vlan,
    /// Echo requests, of IPv4 and IPv6.
    Icmp,
    /// Fragments of IPv4 and IPv6.
    Fragments,
    /// TCP over IPv4 with IP options.
    IpOptions,
    /// Encrypted packets, over IPv4 and IPv6.
    Esp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Tcp4,
        Self::Tcp6,
        Self::Udp4,
        Self::Udp6,
        Self::Vlan,
        Self::Icmp,
        Self::Fragments,
        Self::IpOptions,
        Self::Esp,
    ];

    /// Whether packets of it may be joined to frames.
    #[must_use]
    pub fn is_joined(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6 | Self::Udp4 | Self::Udp6 | Self::Vlan)
    }

    /// Whether senders may leave checksum and segmentation of it to the device.
    #[must_use]
    pub fn has_offloads(self) -> bool {
        self.is_joined() || self == Self::IpOptions
    }

    fn is_udp(self) -> bool {
        matches!(self, Self::Udp4 | Self::Udp6)
    }
}

/// A flow of packets.
#[derive(Debug)]
pub struct Flow {
    kind: Kind,
    number: u8,
    /// Packets so far.
    count: u16,
    sequence: u32,
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const UDP_HEADER: usize = 8;
/// Before the ports of both.
const PORTS: (u16, u16) = (1000, 2000);
/// Flags and offset of a fragment header are 8 bytes with what names the packet.
const FRAGMENT_HEADER: usize = 8;

/// The flow that a packet belongs to: the end of its source address says so.
pub(super) fn of(packet: &[u8]) -> [u8; 2] {
    packet.get(10..12).and_then(|end| end.try_into().ok()).unwrap_or_default()
}

/// Where the IP header starts, and the type of what starts there.
pub(super) fn network(frame: &[u8]) -> Result<(usize, u16)> {
    let mut at = ETHERNET;
    loop {
        let ether_type = frame.get(at - 2..at).context("a frame without a type")?;
        match u16::from_be_bytes([ether_type[0], ether_type[1]]) {
            ETHER_TYPE_VLAN => at += 4,
            ether_type => return Ok((at, ether_type)),
        }
    }
}

/// A packet without what RFC 6864 lets change: of IPv4 that says "do not fragment", the identification and the checksum
/// over it, which is looked at before.
pub(super) fn without_free_id(mut packet: Vec<u8>) -> Result<Vec<u8>> {
    if let (ip, ETHER_TYPE_IPV4) = network(&packet)? {
        let (header, _) = Ipv4Header::from_slice(&packet[ip..])?;
        ensure!(header.header_checksum == header.calc_header_checksum(), "a bad checksum of IPv4: {header:?}");
        if header.dont_fragment {
            packet[ip + 4..ip + 6].fill(0);
            packet[ip + 10..ip + 12].fill(0);
        }
    }
    Ok(packet)
}

impl Flow {
    /// One of a kind.
    #[must_use]
    pub fn new(kind: Kind, number: u8) -> Self {
        // About to wrap around.
        Self { kind, number, count: 0, sequence: u32::MAX - 5000 }
    }

    /// Bytes of payload of a packet that fills an MTU.
    #[must_use]
    pub fn payload_of(&self, mtu: usize) -> usize {
        let ip = match self.kind {
            Kind::IpOptions => 28,
            _ if self.is_v6() => 40,
            _ => 20,
        };
        let rest = match self.kind {
            Kind::Icmp | Kind::Esp => 8,
            Kind::Udp4 | Kind::Udp6 => UDP_HEADER,
            Kind::Fragments if self.is_v6() => FRAGMENT_HEADER,
            Kind::Fragments => 0,
            // With an option.
            Kind::Tcp4 | Kind::Tcp6 | Kind::Vlan | Kind::IpOptions => 32,
        };
        let payload = mtu - ip - rest;
        // What is no last fragment is a multiple of eight.
        if self.kind == Kind::Fragments { payload / 8 * 8 } else { payload }
    }

    /// The next packet, whole. The last of a stream asks for delivery.
    #[must_use]
    pub fn packet(&mut self, payload: &[u8], is_last: bool) -> Frame {
        (VnetHeader::default(), self.next(payload, is_last, false, payload.len()).0)
    }

    /// The next packet with its checksum left to the device.
    #[must_use]
    pub fn unfinished(&mut self, payload: &[u8], is_last: bool) -> Frame {
        let (frame, transport) = self.next(payload, is_last, true, payload.len());
        (self.header(transport), frame)
    }

    /// The next packets in one frame, to be cut.
    #[must_use]
    pub fn segmented(&mut self, payload: &[u8], size: usize, is_last: bool) -> Frame {
        let (frame, transport) = self.next(payload, is_last, true, size);
        let header = VnetHeader {
            gso_type: match self.kind {
                Kind::Tcp6 => VnetHeader::TCPV6,
                kind if kind.is_udp() => VnetHeader::UDP_L4,
                _ => VnetHeader::TCPV4,
            },
            hdr_len: (frame.len() - payload.len()) as u16,
            gso_size: size as u16,
            ..self.header(transport)
        };
        (header, frame)
    }

    fn header(&self, transport: usize) -> VnetHeader {
        VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: transport as u16,
            csum_offset: if self.kind.is_udp() { 6 } else { 16 },
            ..VnetHeader::default()
        }
    }

    fn is_v6(&self) -> bool {
        match self.kind {
            Kind::Tcp6 | Kind::Udp6 => true,
            Kind::Icmp | Kind::Fragments | Kind::Esp => self.number % 2 == 1,
            Kind::Tcp4 | Kind::Udp4 | Kind::Vlan | Kind::IpOptions => false,
        }
    }

    /// The next frame, which counts as so many packets as there are pieces of `size`, and where what IP carries starts.
    fn next(&mut self, payload: &[u8], is_last: bool, is_left: bool, size: usize) -> (Vec<u8>, usize) {
        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, self.kind as u8, self.number];
        if self.kind == Kind::Vlan {
            frame.extend(ETHER_TYPE_VLAN.to_be_bytes());
            frame.extend([0, 5]);
        }
        frame.extend(if self.is_v6() { ETHER_TYPE_IPV6 } else { ETHER_TYPE_IPV4 }.to_be_bytes());
        let (mut v4, mut v6) = self.ip();
        let part = self.part(&mut v4, &mut v6, payload, is_last, is_left);
        if self.is_v6() {
            v6.payload_length = part.len() as u16;
            frame.extend(v6.to_bytes());
        } else {
            v4.set_payload_len(part.len()).expect("it fits");
            v4.header_checksum = v4.calc_header_checksum();
            frame.extend(v4.to_bytes());
        }
        let transport = frame.len();
        frame.extend(part);
        self.sequence = self.sequence.wrapping_add(payload.len() as u32);
        self.count += payload.len().div_ceil(size.max(1)) as u16;
        (frame, transport)
    }

    fn ip(&self) -> (Ipv4Header, Ipv6Header) {
        let protocol = match self.kind {
            Kind::Tcp4 | Kind::Tcp6 | Kind::Vlan | Kind::IpOptions => IpNumber::TCP,
            Kind::Udp4 | Kind::Udp6 => IpNumber::UDP,
            Kind::Icmp if self.is_v6() => IpNumber::IPV6_ICMP,
            Kind::Icmp => IpNumber::ICMP,
            Kind::Fragments if self.is_v6() => IpNumber::IPV6_FRAGMENTATION_HEADER,
            Kind::Fragments => IpNumber::UDP,
            Kind::Esp => IpNumber::ENCAPSULATING_SECURITY_PAYLOAD,
        };
        let mut v4 = Ipv4Header::new(0, 64, protocol, [10, 9, 1, self.number], [10, 9, 0, 1]).expect("it is empty");
        // Every other flow says "do not fragment", and then its identification means nothing.
        v4.dont_fragment = self.number.is_multiple_of(2) && self.kind != Kind::Fragments;
        v4.identification = if v4.dont_fragment { 7 } else { 0xfff0_u16.wrapping_add(self.count) };
        if self.kind == Kind::IpOptions {
            // Of an experiment (RFC 4727), copied to fragments.
            v4.options = [0x9e, 8, 1, 2, 3, 4, 5, 6].into();
        }
        let mut v6 = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::try_new(77).expect("it fits"),
            payload_length: 0,
            next_header: protocol,
            hop_limit: 64,
            source: [0xfd; 16],
            destination: [0xfe; 16],
        };
        v6.source[15] = self.number;
        (v4, v6)
    }

    /// What IP carries.
    fn part(&self, v4: &mut Ipv4Header, v6: &mut Ipv6Header, payload: &[u8], is_last: bool, is_left: bool) -> Vec<u8> {
        let with = |header: &[u8]| [header, payload].concat();
        match self.kind {
            Kind::Tcp4 | Kind::Tcp6 | Kind::Vlan | Kind::IpOptions => {
                let mut tcp = TcpHeader::new(PORTS.0, PORTS.1, self.sequence, 500);
                (tcp.acknowledgment_number, tcp.ack, tcp.psh) = (99, true, is_last);
                // Time stamps.
                tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).expect("the length is right");
                let whole = if self.is_v6() {
                    tcp.calc_checksum_ipv6(v6, payload)
                } else {
                    tcp.calc_checksum_ipv4(v4, payload)
                };
                let len = tcp.header_len() + payload.len();
                tcp.checksum = if is_left { pseudo_sum(v4, v6, self.is_v6(), len) } else { whole.expect("it fits") };
                with(&tcp.to_bytes())
            }
            Kind::Udp4 | Kind::Udp6 => {
                let len = UDP_HEADER + payload.len();
                let (source_port, destination_port) = PORTS;
                let mut udp = UdpHeader { source_port, destination_port, length: len as u16, checksum: 0 };
                let whole = if self.is_v6() {
                    udp.calc_checksum_ipv6(v6, payload)
                } else {
                    udp.calc_checksum_ipv4(v4, payload)
                };
                udp.checksum = if is_left { pseudo_sum(v4, v6, self.is_v6(), len) } else { whole.expect("it fits") };
                with(&udp.to_bytes())
            }
            Kind::Icmp => {
                let echo = IcmpEchoHeader { id: 3, seq: self.count };
                if self.is_v6() {
                    let echo = Icmpv6Type::EchoRequest(echo);
                    let header = Icmpv6Header::with_checksum(echo, v6.source, v6.destination, payload);
                    with(&header.expect("it fits").to_bytes())
                } else {
                    with(&Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), payload).to_bytes())
                }
            }
            Kind::Fragments => {
                // The first two of three, then the last; the ports are in the first.
                let (place, packet) = (self.count % 3, self.count / 3);
                let offset = place as usize * payload.len() / 8;
                let more = place < 2;
                if self.is_v6() {
                    let flags = (offset as u16) << 3 | u16::from(more);
                    let [high, low] = flags.to_be_bytes();
                    return with(&[17, 0, high, low, 0, 0, 0, packet as u8]);
                }
                v4.identification = 500 + packet;
                v4.more_fragments = more;
                v4.fragment_offset = (offset as u16).try_into().expect("it fits");
                payload.to_vec()
            }
            Kind::Esp => with(&[0, 0, 1, self.number, 0, 0, (self.count >> 8) as u8, self.count as u8]),
        }
    }
}

/// The sum that a sender leaves in the checksum field.
pub(super) fn pseudo_sum(v4: &Ipv4Header, v6: &Ipv6Header, is_v6: bool, len: usize) -> u16 {
    let (addresses, protocol) = if is_v6 {
        ([v6.source, v6.destination].concat(), v6.next_header)
    } else {
        ([v4.source, v4.destination].concat(), v4.protocol)
    };
    sum(&[&addresses, &[0, protocol.0], &(len as u32).to_be_bytes()])
}

/// The sum of words (RFC 1071). All pieces but the last are of even length.
pub(super) fn sum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|piece| piece.chunks(2));
    let sum: u64 = words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum();
    (0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16)) as u16
}
