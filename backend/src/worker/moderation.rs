//! Interrupt moderation: in polling mode a driver may be called once for several rounds, but for what is urgent.
//!
//! The settings are what ethtool(8) calls `rx-usecs` and `rx-frames`. Priorities are those of IEEE 802.1Q (PCP) and the class
//! selectors of the differentiated services field (RFC 2474, 4.2.2). ARP (RFC 826) and neighbour discovery (RFC 4861) are
//! urgent always: other packets wait for them.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::mode::Time;

/// Longest time that a call may be held, in microseconds.
const MAX_HOLD_US: u32 = 100_000;

/// Bytes of a frame that show whether it is urgent: addresses, two VLAN tags, the type, an IPv6 header and a byte of ICMPv6.
pub(super) const URGENT_LEN: usize = 12 + 2 * 4 + 2 + 40 + 1;

/// When a driver is called, in polling mode. In interrupt mode it is called after every round.
#[derive(clap::Args, Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[command(next_help_heading = "When to interrupt the guest, in polling mode")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Moderation {
    /// For how many microseconds a packet's interrupt waits at most; 0: it is sent after every round
    ///
    /// A round takes some microseconds.
    ///
    /// Range: 0 to 100000.
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub coalesce_us: u32,
    /// Interrupt when so many packets wait for it; 0: however many
    ///
    /// It needs a coalesce-us.
    ///
    /// Range: from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub coalesce_frames: u32,
    /// Packets of these priorities never wait: 802.1p, or DSCP / 8
    ///
    /// Nor do ARP and neighbour discovery.
    ///
    /// Range: 0 to 7, one or a range.
    #[arg(long, value_name = "P|P-P", default_value = "6-7")]
    pub urgent_priorities: Priorities,
}

impl Default for Moderation {
    fn default() -> Self {
        Self { coalesce_us: 0, coalesce_frames: 0, urgent_priorities: Priorities { first: 6, last: 7 } }
    }
}

impl Moderation {
    /// The settings if they make sense.
    ///
    /// # Errors
    /// With a text that names the value and the mend.
    pub fn check(self) -> Result<Self, String> {
        if self.coalesce_us > MAX_HOLD_US {
            return Err(format!(
                "coalesce-us = {} is not between 0 and {MAX_HOLD_US}: 20 to 100 are usual values",
                self.coalesce_us
            ));
        }
        if self.coalesce_frames > 0 && self.coalesce_us == 0 {
            return Err(format!(
                "coalesce-frames = {} needs a coalesce-us, or the last packets of a burst would wait for ever",
                self.coalesce_frames
            ));
        }
        Ok(self)
    }

    /// Whether calls are ever held.
    pub(super) fn holds(&self) -> bool {
        self.coalesce_us > 0
    }
}

/// A priority, or a range of them, from 0 to 7.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Priorities {
    first: u8,
    last: u8,
}

impl Priorities {
    fn contain(self, priority: u8) -> bool {
        (self.first..=self.last).contains(&priority)
    }

    /// Whether a frame that begins like this is not to wait.
    #[must_use]
    pub fn are_urgent(self, frame: &[u8]) -> bool {
        let mut at = 12;
        loop {
            let Some([a, b]) = frame.get(at..at + 2) else { return false };
            let rest = &frame[at + 2..];
            match u16::from_be_bytes([*a, *b]) {
                // A VLAN tag; its top three bits are the priority.
                0x8100 | 0x88a8 => {
                    if rest.first().is_some_and(|tci| self.contain(tci >> 5)) {
                        return true;
                    }
                    at += 4;
                }
                0x0806 => return true,
                0x0800 => return rest.get(1).is_some_and(|tos| self.contain(tos >> 5)),
                0x86dd => {
                    let class = rest.first().map(|first| (first & 0x0f) << 4);
                    let is_neighbour_discovery =
                        rest.get(6) == Some(&58) && rest.get(40).is_some_and(|kind| (133..=137).contains(kind));
                    return is_neighbour_discovery || class.is_some_and(|class| self.contain(class >> 5));
                }
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Priorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Priorities {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no range of priorities: one such as 7 or two such as 5-7, from 0 to 7");
        let number = |text: &str| text.parse().ok().filter(|n| *n <= 7).ok_or_else(wrong);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Priorities {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The calls that a ring's driver has not had yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// Since when there is something to call for.
    since: Option<Time>,
    packets: u64,
}

impl Held {
    /// Notes that packets were published. Says whether to call now, under settings that hold calls.
    pub(super) fn add(&mut self, packets: u64, is_urgent: bool, now: Time, settings: &Moderation) -> bool {
        self.since.get_or_insert(now);
        self.packets += packets;
        let is_enough = settings.coalesce_frames > 0 && self.packets >= settings.coalesce_frames.into();
        is_urgent || is_enough || self.is_due(now, settings)
    }

    /// Whether it is time to call.
    pub(super) fn is_due(&self, now: Time, settings: &Moderation) -> bool {
        self.due(settings).is_some_and(|due| due <= now)
    }

    /// When to call at the latest.
    pub(super) fn due(&self, settings: &Moderation) -> Option<Time> {
        let since = self.since?;
        Some(Time::from_nanos(since.as_nanos() + u64::from(settings.coalesce_us) * 1000))
    }

    /// Whether there is something to call for, which then counts as called for.
    pub(super) fn take(&mut self) -> bool {
        std::mem::take(self).since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IcmpEchoHeader, Icmpv6Type, PacketBuilder};

    use super::*;

    fn frame(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        build(&mut bytes);
        bytes
    }

    #[test]
    fn priorities_are_found_where_the_standards_put_them() {
        let urgent = |range: &str, frame: &[u8]| range.parse::<Priorities>().unwrap().are_urgent(frame);
        let eth = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        for pcp in 0..8u8 {
            let vlan = |bytes: &mut Vec<u8>| {
                let header = etherparse::SingleVlanHeader {
                    pcp: pcp.try_into().unwrap(),
                    drop_eligible_indicator: true,
                    vlan_id: 5.try_into().unwrap(),
                    ether_type: etherparse::EtherType::IPV4,
                };
                eth()
                    .vlan(etherparse::VlanHeader::Single(header))
                    .ipv4([1; 4], [2; 4], 9)
                    .udp(1, 2)
                    .write(bytes, b"x")
                    .unwrap();
            };
            assert_eq!(urgent("5-7", &frame(vlan)), pcp >= 5, "pcp {pcp}");
            let mut ip = frame(|bytes| eth().ipv4([1; 4], [2; 4], 9).udp(1, 2).write(bytes, b"x").unwrap());
            ip[15] = pcp << 5 | 3;
            assert_eq!(urgent("3", &ip), pcp == 3, "class {pcp}");
            let mut ip6 = frame(|bytes| eth().ipv6([1; 16], [2; 16], 9).udp(1, 2).write(bytes, b"x").unwrap());
            ip6[14] = 0x60 | pcp << 1;
            assert_eq!(urgent("3", &ip6), pcp == 3, "class {pcp}");
        }
        let echo = |id| Icmpv6Type::EchoRequest(IcmpEchoHeader { id, seq: 1 });
        let mut icmp = frame(|bytes| eth().ipv6([1; 16], [2; 16], 9).icmpv6(echo(1)).write(bytes, b"x").unwrap());
        assert!(!urgent("7", &icmp));
        icmp[54] = 135;
        assert!(urgent("7", &icmp), "neighbour solicitation");
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(urgent("7", &arp));
        for frame in [&icmp, &arp] {
            (0..frame.len()).for_each(|len| {
                let cut = urgent("7", &frame[..len]);
                assert!(!cut || len >= 14);
            });
        }
        assert!(!urgent("0-7", &[0xff; 64]) && !urgent("0-7", &[]));
    }

    #[test]
    fn the_first_bytes_are_enough() {
        let tags = [[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]].concat();
        let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let solicit = Icmpv6Type::EchoRequest(IcmpEchoHeader { id: 0, seq: 0 });
        let mut icmp = frame(|bytes| eth.ipv6([1; 16], [2; 16], 9).icmpv6(solicit).write(bytes, b"abcdef").unwrap());
        icmp.splice(12..12, tags);
        icmp[62] = 135;
        assert!("7".parse::<Priorities>().unwrap().are_urgent(&icmp[..URGENT_LEN]));
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["", "8", "7-5", "5-", "a", "-1", "1-2-3"] {
            assert!(text.parse::<Priorities>().unwrap_err().contains("range of priorities"), "{text}");
        }
        let settings = Moderation::default();
        let check = |coalesce_us, coalesce_frames| Moderation { coalesce_us, coalesce_frames, ..settings }.check();
        assert!(check(0, 0).is_ok() && check(20, 0).is_ok() && check(100_000, 64).is_ok());
        assert!(check(100_001, 0).unwrap_err().contains("coalesce-us = 100001"));
        assert!(check(0, 5).unwrap_err().contains("coalesce-frames = 5 needs a coalesce-us"));
    }

    #[test]
    fn calls_are_held_for_frames_or_time() {
        let settings = Moderation { coalesce_us: 20, coalesce_frames: 4, ..Moderation::default() };
        let at = Time::from_nanos;
        let mut held = Held::default();
        assert!(!held.take() && held.due(&settings).is_none());
        assert!(!held.add(3, false, at(1000), &settings));
        assert_eq!((held.due(&settings), held.is_due(at(20_999), &settings)), (Some(at(21_000)), false));
        assert!(held.add(1, false, at(2000), &settings), "four frames");
        assert!(held.take() && !held.take());
        assert!(!held.add(1, false, at(5000), &settings) && held.add(0, false, at(25_000), &settings), "20 µs");
        held.take();
        assert!(held.add(1, true, at(30_000), &settings), "urgent");
    }
}
