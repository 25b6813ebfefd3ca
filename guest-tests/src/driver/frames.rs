//! Ethernet frames with a UDP datagram over IPv4: what the host's own sockets send and take.

/// Bytes before the payload: Ethernet, IPv4 and UDP.
pub const HEADERS: usize = 14 + 20 + 8;

/// A MAC address.
pub type Mac = [u8; 6];

/// A frame with a datagram from `from` to `to` (IPv4 address and port).
#[must_use]
pub fn udp(src: Mac, dst: Mac, from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut frame = Vec::with_capacity(HEADERS + payload.len());
    frame.extend(dst);
    frame.extend(src);
    frame.extend([0x08, 0x00]);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_len).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.0);
    ip.extend(to.0);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend(udp_len.to_be_bytes());
    // No checksum: allowed over IPv4 (RFC 768).
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// Destination port and payload of a frame, if it is a UDP datagram over IPv4.
#[must_use]
pub fn udp_payload(frame: &[u8]) -> Option<(u16, &[u8])> {
    let is_udp = frame.get(12..14)? == [0x08, 0x00] && *frame.get(14)? == 0x45 && *frame.get(23)? == 17;
    let port = u16::from_be_bytes([*frame.get(36)?, *frame.get(37)?]);
    let len = usize::from(u16::from_be_bytes([*frame.get(38)?, *frame.get(39)?])).checked_sub(8)?;
    is_udp.then_some((port, frame.get(HEADERS..HEADERS + len)?))
}

/// Reads `02:00:…` as a MAC address.
#[must_use]
pub fn mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text.trim().split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// The Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read() {
        let frame = udp([2; 6], [4; 6], ([10, 0, 0, 1], 7), ([10, 0, 0, 2], 9), b"payload");
        assert_eq!(udp_payload(&frame), Some((9, &b"payload"[..])));
        assert_eq!(checksum(&frame[14..34]), 0, "a header with its checksum sums to nothing");
        assert_eq!(mac("02:00:00:00:00:ff\n"), Some([2, 0, 0, 0, 0, 255]));
    }
}
