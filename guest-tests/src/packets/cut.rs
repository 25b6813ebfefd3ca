//! Undoes what is left to a receiver: a checksum to finish, a frame to be cut into packets.

use anyhow::{Context, Result, ensure};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

use super::VnetHeader;
use super::flow::{network, pseudo_sum, sum};

const ETHER_TYPE_IPV4: u16 = 0x0800;

/// The packets that a frame stands for, all of them finished.
///
/// # Errors
/// When the virtio-net header is not that of the frame, or the headers of the frame do not fit its length and what is
/// left to the receiver.
pub fn cut(header: &VnetHeader, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
    let describe = || format!("{header:?} of a frame of {} bytes: {:02x?}", frame.len(), &frame[..frame.len().min(80)]);
    if header.is_segmented() {
        return segments(header, frame).with_context(describe);
    }
    let mut packet = frame.to_vec();
    if header.flags & VnetHeader::NEEDS_CSUM != 0 {
        let start = usize::from(header.csum_start);
        let field = start + usize::from(header.csum_offset);
        let summed = packet.get(start..).with_context(describe)?;
        let checksum = match !sum(&[summed]) {
            // Of UDP, 0 would mean that there is none.
            0 if header.csum_offset == 6 => 0xffff,
            checksum => checksum,
        };
        packet.get_mut(field..field + 2).with_context(describe)?.copy_from_slice(&checksum.to_be_bytes());
    }
    Ok(vec![packet])
}

/// The IP header of a frame to be cut.
#[derive(Clone)]
struct Ip {
    v4: Option<Ipv4Header>,
    v6: Ipv6Header,
}

impl Ip {
    /// Reads the header of a packet and sees that it says the length that the packet has. Says its own length.
    fn read(bytes: &[u8], is_v4: bool) -> Result<(Self, usize)> {
        if !is_v4 {
            let (v6, rest) = Ipv6Header::from_slice(bytes)?;
            ensure!(usize::from(v6.payload_length) == rest.len(), "the length of IPv6 is another: {v6:?}");
            return Ok((Self { v4: None, v6 }, Ipv6Header::LEN));
        }
        let (v4, rest) = Ipv4Header::from_slice(bytes)?;
        ensure!(usize::from(v4.payload_len()?) == rest.len(), "the length of IPv4 is another: {v4:?}");
        ensure!(v4.header_checksum == v4.calc_header_checksum(), "the checksum of IPv4 is another: {v4:?}");
        ensure!(!v4.is_fragmenting_payload(), "a fragment: {v4:?}");
        let len = v4.header_len();
        Ok((Self { v4: Some(v4), v6: Ipv6Header::default() }, len))
    }

    fn protocol(&self) -> IpNumber {
        self.v4.as_ref().map_or(self.v6.next_header, |v4| v4.protocol)
    }

    /// The sum that is left in the checksum field of `len` bytes.
    fn left(&self, len: usize) -> u16 {
        pseudo_sum(&self.v4.clone().unwrap_or_default(), &self.v6, self.v4.is_none(), len)
    }

    /// The header of packet number `number` of `len` bytes behind it.
    fn write(&self, number: usize, len: usize) -> Result<Vec<u8>> {
        let Some(v4) = &self.v4 else {
            let mut v6 = self.v6.clone();
            v6.set_payload_length(len)?;
            return Ok(v6.to_bytes().to_vec());
        };
        let mut v4 = v4.clone();
        v4.identification = v4.identification.wrapping_add(number as u16);
        v4.set_payload_len(len)?;
        v4.header_checksum = v4.calc_header_checksum();
        Ok(v4.to_bytes().to_vec())
    }
}

fn segments(header: &VnetHeader, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (at, ether_type) = network(frame)?;
    let (ip, ip_len) = Ip::read(&frame[at..], ether_type == ETHER_TYPE_IPV4)?;
    let transport = at + ip_len;
    let part = &frame[transport..];
    let size = usize::from(header.gso_size);
    let expected = match (ip.protocol(), &ip.v4) {
        (IpNumber::TCP, Some(_)) => (VnetHeader::TCPV4, 16),
        (IpNumber::TCP, None) => (VnetHeader::TCPV6, 16),
        (IpNumber::UDP, _) => (VnetHeader::UDP_L4, 6),
        (other, _) => anyhow::bail!("a frame of {other:?} is to be cut"),
    };
    ensure!((header.gso_type, header.csum_offset) == expected, "another kind of packet");
    ensure!(header.flags & VnetHeader::NEEDS_CSUM != 0 && size > 0, "no checksum to finish, or no size");
    ensure!(usize::from(header.csum_start) == transport, "the checksum starts elsewhere");
    let field = usize::from(header.csum_offset);
    let left = u16::from_be_bytes([part[field], part[field + 1]]);
    ensure!(left == ip.left(part.len()), "the checksum field has {left:#x} rather than the sum of the pseudo header");

    let is_udp = ip.protocol() == IpNumber::UDP;
    let head_len = if is_udp { 8 } else { TcpHeader::from_slice(part)?.0.header_len() };
    let payload = &part[head_len..];
    let count = payload.len().div_ceil(size);
    ensure!(count > 0, "nothing to cut");
    let packet = |(number, piece): (usize, &[u8])| {
        let is_last = number + 1 == count;
        let head = if is_udp {
            let (mut udp, _) = UdpHeader::from_slice(part)?;
            ensure!(usize::from(udp.length) == part.len(), "the length of UDP is another: {udp:?}");
            udp.length = (8 + piece.len()) as u16;
            udp.checksum = match &ip.v4 {
                Some(v4) => udp.calc_checksum_ipv4(v4, piece)?,
                None => udp.calc_checksum_ipv6(&ip.v6, piece)?,
            };
            udp.to_bytes().to_vec()
        } else {
            let (mut tcp, _) = TcpHeader::from_slice(part)?;
            tcp.sequence_number = tcp.sequence_number.wrapping_add((number * size) as u32);
            (tcp.psh, tcp.fin) = (tcp.psh && is_last, tcp.fin && is_last);
            tcp.cwr &= number == 0;
            tcp.checksum = match &ip.v4 {
                Some(v4) => tcp.calc_checksum_ipv4(v4, piece)?,
                None => tcp.calc_checksum_ipv6(&ip.v6, piece)?,
            };
            tcp.to_bytes().to_vec()
        };
        Ok([&frame[..at], &ip.write(number, head.len() + piece.len())?, &head, piece].concat())
    };
    payload.chunks(size).enumerate().map(packet).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Flow, Kind};
    use super::*;

    #[test]
    fn what_is_cut_is_what_would_have_been_sent() {
        let payload: Vec<u8> = (0..2500u32).map(|n| ((n * 7) >> 3) as u8).collect();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.has_offloads()) {
            for number in [0, 1] {
                let (header, frame) = Flow::new(kind, number).segmented(&payload, 1000, true);
                let packets = cut(&header, &frame).unwrap();
                let mut flow = Flow::new(kind, number);
                let chunks: Vec<_> = payload.chunks(1000).collect();
                assert_eq!(packets.len(), chunks.len());
                for (at, (packet, chunk)) in packets.into_iter().zip(chunks).enumerate() {
                    let (_, expected) = flow.packet(chunk, at == 2);
                    let [packet, expected] =
                        [packet, expected].map(|p| super::super::flow::without_free_id(p).unwrap());
                    assert_eq!(packet, expected, "{kind:?}");
                }
                let (header, frame) = Flow::new(kind, number).unfinished(&payload, true);
                assert_eq!(cut(&header, &frame).unwrap(), [Flow::new(kind, number).packet(&payload, true).1]);
            }
        }
    }

    #[test]
    fn headers_that_do_not_fit_are_told() {
        let (header, frame) = Flow::new(Kind::Tcp4, 0).segmented(&[7; 2500], 1000, true);
        for at in [17, 18, 24, 26, 51] {
            let mut frame = frame.clone();
            frame[at] ^= 1;
            assert!(cut(&header, &frame).is_err(), "byte {at}");
        }
        let changes: [fn(&mut VnetHeader); 5] = [
            |header| header.flags = 0,
            |header| header.gso_type = VnetHeader::TCPV6,
            |header| header.gso_size = 0,
            |header| header.csum_start += 1,
            |header| header.csum_offset = 6,
        ];
        for change in changes {
            let mut header = header;
            change(&mut header);
            assert!(cut(&header, &frame).is_err(), "{header:?}");
        }
    }
}
