//! The frame that tells a network where a migrated guest is now: a reverse ARP request that nobody answers (RFC 903).

#![forbid(unsafe_code)]

/// Bytes of the frame, padded to the least that Ethernet has.
pub const RARP_LEN: usize = 60;

const BROADCAST: [u8; 6] = [0xff; 6];

/// The announcement of `mac`.
#[must_use]
pub fn rarp(mac: [u8; 6]) -> [u8; RARP_LEN] {
    let mut frame = [0; RARP_LEN];
    let parts: [&[u8]; 7] = [
        &BROADCAST,
        &mac,
        &[0x80, 0x35],
        // Ethernet and IPv4 addresses, request reverse.
        &[0, 1, 0x08, 0, 6, 4, 0, 3],
        &mac,
        &[0; 4],
        &mac,
    ];
    let mut at = 0;
    for part in parts {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_from_the_guest_and_goes_to_everybody() {
        let frame = rarp([2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[..12], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!(frame[22..42], [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    }
}
