//! A first look at a frame: enough to tell flows apart, at the cost of a few instructions.
//!
//! It is a hint only. Frames that look alike are parsed before anything is done to them; frames that do not cannot be
//! of one flow, unless the guest changes them while they are looked at, which hurts nobody but itself.

use super::super::packet::{ETHERNET_LEN, IPV4, IPV6, MAX_TAGS, TAG_LEN, TCP, UDP, is_tag};

/// Where the first look starts, in bytes from the start of a frame: so addresses and ports fall into whole words of
/// eight bytes, as they are read and kept.
pub const PEEK_AT: usize = 2;

/// Bytes that the first look takes in: to the ports of TCP or UDP over IPv6, with two VLAN tags before it.
pub const PEEK: usize = 64;

/// Where in them the IP header is, without tags.
const IP: usize = ETHERNET_LEN - PEEK_AT;

/// What a flow looks like: the same for all its packets, and mostly different from that of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look(u32);

impl Look {
    /// What the first bytes of a frame look like; none unless it is a whole packet of TCP or UDP, without IP options.
    #[inline]
    pub(super) fn of(peek: &[u8; PEEK]) -> Option<Self> {
        // The type, and with IPv4 the length of the header.
        let start = u32_at(peek, IP - 2);
        if start & bits([0xff, 0xff, 0xff, 0]) == bits([0x08, 0x00, 0x45, 0]) {
            Self::of_ipv4(peek, IP)
        } else {
            Self::of_another(peek)
        }
    }

    /// One of 256 places.
    #[inline]
    pub(super) fn place(self) -> usize {
        (self.0 >> 24) as usize
    }

    #[inline]
    fn of_ipv4(peek: &[u8; PEEK], ip: usize) -> Option<Self> {
        let protocol = peek[ip + 9];
        if u32_at(peek, ip + 6) & bits([0x3f, 0xff, 0, 0]) != 0 || !matches!(protocol, TCP | UDP) {
            return None;
        }
        Some(Self::mix(u64_at(peek, ip + 12), u32_at(peek, ip + 20).into(), protocol))
    }

    #[inline]
    fn of_ipv6(peek: &[u8; PEEK], ip: usize) -> Option<Self> {
        let protocol = peek[ip + 6];
        if !matches!(protocol, TCP | UDP) {
            return None;
        }
        // All but the first four bytes of the source address, then the end of the other address and the ports.
        let addresses =
            u64_at(peek, ip + 12) ^ u64_at(peek, ip + 20).rotate_left(23) ^ u64_at(peek, ip + 28).rotate_left(43);
        Some(Self::mix(addresses, u64_at(peek, ip + 36), protocol))
    }

    /// Of a frame that starts with something else than an Ethernet header without tags and a plain one of IPv4.
    fn of_another(peek: &[u8; PEEK]) -> Option<Self> {
        let mut ip = IP;
        while is_tag(u16_at(peek, ip - 2)) && ip < IP + MAX_TAGS * TAG_LEN {
            ip += TAG_LEN;
        }
        match (u16_at(peek, ip - 2), peek[ip]) {
            (IPV4, 0x45) => Self::of_ipv4(peek, ip),
            (IPV6, _) => Self::of_ipv6(peek, ip),
            _ => None,
        }
    }

    #[inline]
    fn mix(addresses: u64, ports: u64, protocol: u8) -> Self {
        // Odd numbers without a pattern: multiplication carries every bit to the upper half.
        let ports = ports.wrapping_add(protocol.into()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(((addresses ^ ports).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32)
    }
}

/// Bytes in the order in which [`u32_at`] has them.
const fn bits(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

#[inline]
fn u16_at(peek: &[u8; PEEK], at: usize) -> u16 {
    u16::from_be_bytes(array_at(peek, at))
}

/// In the order of the machine: nobody counts with it.
#[inline]
fn u32_at(peek: &[u8; PEEK], at: usize) -> u32 {
    u32::from_ne_bytes(array_at(peek, at))
}

#[inline]
fn u64_at(peek: &[u8; PEEK], at: usize) -> u64 {
    u64::from_ne_bytes(array_at(peek, at))
}

/// The bytes at `at`, which lie inside.
#[inline]
fn array_at<const N: usize>(peek: &[u8; PEEK], at: usize) -> [u8; N] {
    peek.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::Spec;
    use super::*;

    fn look(spec: &Spec) -> Option<Look> {
        let mut peek = [0; PEEK];
        let frame = &spec.frame()[PEEK_AT..];
        let len = frame.len().min(PEEK);
        peek[..len].copy_from_slice(&frame[..len]);
        Look::of(&peek)
    }

    #[test]
    fn flows_look_different_and_their_packets_alike() {
        for tags in 0..=2 {
            for v6 in [false, true] {
                for udp in [false, true] {
                    let spec = Spec { tags, v6, udp, ..Spec::default() };
                    let first = look(&spec);
                    assert!(first.is_some(), "{spec:?}");
                    let later = Spec { seq: 5000, id: 9, payload: vec![7; 9], ..spec.clone() };
                    assert_eq!(look(&later), first, "{spec:?}");
                    assert_ne!(look(&Spec { host: 9, ..spec.clone() }), first, "{spec:?}");
                    assert_ne!(look(&Spec { udp: !udp, ..spec.clone() }), first, "{spec:?}");
                    assert_ne!(look(&Spec { port: 77, ..spec.clone() }), first, "{spec:?}");
                    assert_ne!(look(&Spec { to_port: 77, ..spec.clone() }), first, "{spec:?}");
                }
            }
        }
    }

    #[test]
    fn what_has_no_ports_has_no_look() {
        let plain = Spec::default().frame();
        for (at, byte) in [(12, 0x86), (13, 0x06), (14, 0x46), (20, 0x20), (21, 1), (23, 1)] {
            let mut peek: [u8; PEEK] = *plain[PEEK_AT..].first_chunk().unwrap();
            assert!(Look::of(&peek).is_some());
            peek[at - PEEK_AT] = byte;
            assert_eq!(Look::of(&peek), None, "{byte:#x} at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_be_looked_at(
            peek: [u8; PEEK],
            head in prop::sample::select(vec![[8, 0], [0x86, 0xdd], [0x81, 0]]),
        ) {
            let mut peek = peek;
            peek[10..12].copy_from_slice(&head);
            _ = Look::of(&peek);
        }
    }
}
