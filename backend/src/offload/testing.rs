//! Packets for the tests of this room, made and checked by another implementation.

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, NetSlice, SingleVlanHeader, SlicedPacket, TcpHeader,
    TransportSlice, UdpHeader,
};

use super::packet::flag;
use super::{Frames, NetHeader, Packet, Segment, Segmentation, Sum, complete, pseudo_header};

/// What stands in the checksum field of TCP or UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sums {
    /// The checksum.
    #[default]
    Whole,
    /// The sum of the pseudo header: the rest is the receiver's.
    Partial,
    /// Zero.
    None,
}

/// A packet in words.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) tags: u16,
    pub(crate) vlan: u16,
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    /// Last byte of the source address.
    pub(crate) host: u8,
    pub(crate) port: u16,
    pub(crate) to_port: u16,
    pub(crate) class: u8,
    pub(crate) ttl: u8,
    pub(crate) flow_label: u32,
    pub(crate) id: u16,
    pub(crate) may_fragment: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) flags: u8,
    /// Bytes of options.
    pub(crate) options: Vec<u8>,
    pub(crate) ip_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) sums: Sums,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            tags: 0,
            vlan: 5,
            v6: false,
            udp: false,
            host: 1,
            port: 1000,
            to_port: 2000,
            class: 0,
            ttl: 64,
            flow_label: 3,
            id: 100,
            may_fragment: false,
            seq: 1,
            ack: 2,
            window: 300,
            flags: flag::ACK,
            options: Vec::new(),
            ip_options: Vec::new(),
            payload: (0..100).collect(),
            sums: Sums::Whole,
        }
    }
}

impl Spec {
    /// The packet that follows this one in its flow.
    pub(crate) fn next(&self) -> Self {
        let seq = self.seq.wrapping_add(self.payload.len() as u32);
        Self { seq, id: self.id.wrapping_add(1), ..self.clone() }
    }

    /// The packet as a frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut ether_types = vec![if self.v6 { EtherType::IPV6 } else { EtherType::IPV4 }];
        for tag in 0..self.tags {
            ether_types.push(EtherType(if tag == 0 { 0x8100 } else { 0x88a8 }));
        }
        let ethernet = |ether_type| Ethernet2Header { destination: [2; 6], source: [4; 6], ether_type };
        let mut frame = ethernet(ether_types.pop().unwrap()).to_bytes().to_vec();
        while let Some(ether_type) = ether_types.pop() {
            let vlan_id = self.vlan.try_into().unwrap();
            frame.extend(SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() }.to_bytes());
        }
        let transport_len = if self.udp { 8 } else { 20 + self.options.len() } + self.payload.len();
        let protocol = if self.udp { IpNumber::UDP } else { IpNumber::TCP };
        let mut v4 = Ipv4Header::new(0, self.ttl, protocol, [10, 0, 0, self.host], [10, 0, 1, 0]).unwrap();
        v4.options = self.ip_options[..].try_into().unwrap();
        v4.set_payload_len(transport_len).unwrap();
        v4.dscp = (self.class >> 2).try_into().unwrap();
        v4.ecn = (self.class & 3).try_into().unwrap();
        (v4.identification, v4.dont_fragment) = (self.id, !self.may_fragment);
        v4.header_checksum = v4.calc_header_checksum();
        let mut v6 = Ipv6Header {
            traffic_class: self.class,
            flow_label: self.flow_label.try_into().unwrap(),
            payload_length: transport_len as u16,
            next_header: protocol,
            hop_limit: self.ttl,
            source: [0xfd; 16],
            destination: [0xfe; 16],
        };
        v6.source[15] = self.host;
        if self.v6 {
            frame.extend(v6.to_bytes());
        } else {
            frame.extend(v4.to_bytes());
        }
        let addresses =
            if self.v6 { [v6.source, v6.destination].concat() } else { [v4.source, v4.destination].concat() };
        let partial = pseudo_header(Sum::default().bytes(&addresses), protocol.0, transport_len).partial();
        let checksum = |whole: u16| match self.sums {
            Sums::Whole => whole,
            Sums::Partial => partial,
            Sums::None => 0,
        };
        if self.udp {
            let (ports, length) = ((self.port, self.to_port), transport_len as u16);
            let mut udp = UdpHeader { source_port: ports.0, destination_port: ports.1, length, checksum: 0 };
            udp.checksum = checksum(if self.v6 {
                udp.calc_checksum_ipv6(&v6, &self.payload).unwrap()
            } else {
                udp.calc_checksum_ipv4(&v4, &self.payload).unwrap()
            });
            frame.extend(udp.to_bytes());
        } else {
            let mut tcp = self.tcp_header();
            tcp.checksum = checksum(if self.v6 {
                tcp.calc_checksum_ipv6(&v6, &self.payload).unwrap()
            } else {
                tcp.calc_checksum_ipv4(&v4, &self.payload).unwrap()
            });
            frame.extend(tcp.to_bytes());
        }
        frame.extend(&self.payload);
        frame
    }

    fn tcp_header(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.port, self.to_port, self.seq, self.window);
        tcp.acknowledgment_number = self.ack;
        let bit = |at: u8| self.flags >> at & 1 != 0;
        (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (bit(0), bit(1), bit(2), bit(3));
        (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (bit(4), bit(5), bit(6), bit(7));
        tcp.set_options_raw(&self.options).unwrap();
        tcp
    }

    /// Where the TCP or UDP header starts.
    pub(crate) fn transport(&self) -> usize {
        14 + 4 * usize::from(self.tags) + if self.v6 { 40 } else { 20 + self.ip_options.len() }
    }

    /// The virtio-net header.
    pub(crate) fn header(&self) -> NetHeader {
        match self.sums {
            Sums::Partial => NetHeader::unfinished(self.transport(), if self.udp { 6 } else { 16 }),
            Sums::Whole | Sums::None => NetHeader::default(),
        }
    }
}

/// Frames in private memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Burst(pub(crate) Vec<(NetHeader, Vec<u8>)>);

impl Burst {
    pub(crate) fn of(specs: &[Spec]) -> Self {
        Self(specs.iter().map(|spec| (spec.header(), spec.frame())).collect())
    }

    /// A frame as its receiver has it in the end.
    pub(crate) fn finished(&self, at: usize) -> Vec<u8> {
        let (header, mut frame) = self.0[at].clone();
        if let Some((start, offset)) = header.checksum() {
            assert!(complete(&mut frame, start, offset));
        }
        frame
    }
}

impl Frames for Burst {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn header(&self, at: usize) -> &NetHeader {
        &self.0[at].0
    }

    fn frame_len(&self, at: usize) -> usize {
        self.0[at].1.len()
    }

    fn copy(&self, at: usize, from: usize, to: &mut [u8]) -> usize {
        let bytes = self.0[at].1.get(from..).unwrap_or_default();
        let len = bytes.len().min(to.len());
        to[..len].copy_from_slice(&bytes[..len]);
        len
    }
}

/// Whether all lengths and checksums of a packet are good.
pub(crate) fn is_good(frame: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return false };
    let (ip_end, v4, v6) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            if header.header_checksum != header.calc_header_checksum() {
                return false;
            }
            (ip.payload().payload.as_ptr_range().end, Some(header), None)
        }
        Some(NetSlice::Ipv6(ip)) => (ip.payload().payload.as_ptr_range().end, None, Some(ip.header().to_header())),
        _ => return false,
    };
    let sums = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let v4 = v4.map(|ip| header.calc_checksum_ipv4(&ip, payload).unwrap());
            let v6 = v6.map(|ip| header.calc_checksum_ipv6(&ip, payload).unwrap());
            (header.checksum, v4.or(v6))
        }
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let v4 = v4.map(|ip| header.calc_checksum_ipv4(&ip, payload).unwrap());
            let v6 = v6.map(|ip| header.calc_checksum_ipv6(&ip, payload).unwrap());
            (header.checksum, v4.or(v6))
        }
        _ => return false,
    };
    Some(sums.0) == sums.1 && ip_end == frame.as_ptr_range().end
}

/// The header of a frame of these words that is to be cut.
pub(crate) fn segmented(spec: &Spec, gso_size: usize) -> NetHeader {
    let packet = Packet::parse(&spec.frame()).unwrap();
    let kind = Segmentation::of(packet.version, packet.protocol);
    NetHeader::segmented(kind, gso_size, packet.payload, packet.transport, packet.csum_offset())
}

/// A segment as it is sent.
pub(crate) fn written(segment: &Segment<'_>) -> Vec<u8> {
    let mut bytes = vec![0; segment.frame_len()];
    assert_eq!(segment.write_to(&mut bytes), Some(bytes.len()));
    bytes
}

/// Every kind of packet that is cut.
pub(crate) fn kinds() -> Vec<Spec> {
    let mut kinds = Vec::new();
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        for tags in 0..=2 {
            let payload = (0..250).collect();
            kinds.push(Spec { v6, udp, tags, payload, sums: Sums::Partial, id: u16::MAX, ..Spec::default() });
        }
    }
    kinds
}
