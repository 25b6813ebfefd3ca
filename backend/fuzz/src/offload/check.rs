//! What a good packet is, by another implementation than the one that is tested.

use vnicd::offload::{NetHeader, Packet, Transport, Version};

/// The sum of all words (RFC 1071). All pieces but the last are of even length.
pub fn sum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|piece| piece.chunks(2));
    let sum: u64 = words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum();
    let folded = (0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16));
    folded as u16
}

/// The sum of a pseudo header.
pub fn partial(addresses: &[u8], protocol: u8, len: usize) -> u16 {
    sum(&[addresses, &[0, protocol], &(len as u32).to_be_bytes()])
}

fn pseudo(packet: &Packet, frame: &[u8]) -> u16 {
    let Packet { ip, transport, version, protocol, .. } = *packet;
    let addresses = match version {
        Version::V4 => &frame[ip + 12..ip + 20],
        Version::V6 => &frame[ip + 8..ip + 40],
    };
    let protocol = if protocol == Transport::Udp { 17 } else { 6 };
    partial(addresses, protocol, frame.len() - transport)
}

/// All lengths and the checksum of IPv4 are those of the frame. Says where its headers are.
fn assert_lengths(frame: &[u8]) -> Packet {
    let packet = Packet::parse(frame).expect("a packet comes out");
    assert_eq!(packet.payload_len(frame, frame.len()), Some(frame.len() - packet.payload));
    if packet.version == Version::V4 {
        assert_eq!(sum(&[&frame[packet.ip..packet.transport]]), 0xffff, "the checksum of IPv4");
    }
    packet
}

/// A packet whose lengths and checksums fit.
pub fn assert_whole(frame: &[u8]) {
    let packet = assert_lengths(frame);
    let pseudo = pseudo(&packet, frame);
    assert_eq!(sum(&[&pseudo.to_be_bytes(), &frame[packet.transport..]]), 0xffff, "the checksum");
    let field = packet.transport + packet.csum_offset();
    assert!(packet.protocol == Transport::Tcp || frame[field..field + 2] != [0, 0], "no checksum");
}

/// A packet whose lengths fit, and whose checksum field has what is left to its receiver.
pub fn assert_left(header: &NetHeader, frame: &[u8]) {
    let packet = assert_lengths(frame);
    let field = packet.transport + packet.csum_offset();
    assert_eq!(header.checksum(), Some((packet.transport, packet.csum_offset())));
    assert_eq!(frame[field..field + 2], pseudo(&packet, frame).to_be_bytes());
}
