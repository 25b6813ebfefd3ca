//! Which frames a guest may send: by source address (Ethernet; IPv4, RFC 791; IPv6, RFC 8200), by what ARP (RFC 826) and
//! neighbour discovery (RFC 4861) claim, and by VLAN (IEEE 802.1Q).
//!
//! What is judged is a private copy of a frame's first bytes, and these bytes are what is sent. Addresses that do not lie
//! in them are not seen, so a frame that hides them further behind is refused. Nor may a checksum that is left to the
//! receiver be written over what was judged.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use super::{Macs, Prefixes, Vlans};

/// First bytes of a frame that are judged.
pub const HEAD_LEN: usize = 128;

/// Bytes of the ports of UDP, which tell who asks for an address.
const PORTS_LEN: usize = 4;

/// Tags that are looked behind.
const MAX_TAGS: usize = 2;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Types of ICMPv6 (RFC 4861, 4; RFC 3810, 5).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const LISTENER_REPORTS: [u8; 2] = [131, 143];

/// What a guest may send. Everything unless it is said.
#[derive(clap::Args, Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[command(next_help_heading = "What the guest may send")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Filter {
    /// Ethernet addresses that the guest may send from
    ///
    /// Those that ARP and neighbour discovery give for the sender are looked at, too.
    #[arg(long, value_name = "MAC,...")]
    pub allowed_macs: Option<Macs>,
    /// IP addresses that the guest may send from; nothing but IP, ARP and RARP then
    ///
    /// And those that it may claim in ARP and neighbour discovery.
    #[arg(long, value_name = "ADDR[/LEN],...")]
    pub allowed_ips: Option<Prefixes>,
    /// VLANs that the guest may send to, such as 0,5,10-20; 0: no tag
    ///
    /// Range: 0 to 4094, numbers and ranges.
    #[arg(long, value_name = "LIST")]
    pub allowed_vlans: Option<Vlans>,
}

/// Why a frame is not let out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Of an Ethernet address that is not the guest's.
    #[error("its Ethernet address is not one of allowed-macs")]
    Mac,
    /// Of an IP address that is not the guest's, or of none that can be seen.
    #[error("its IP address is not one of allowed-ips")]
    Ip,
    /// For a VLAN that is not the guest's.
    #[error("its VLAN is not one of allowed-vlans")]
    Vlan,
    /// With a checksum that would be written over what was judged.
    #[error("its checksum would be written over its addresses")]
    Checksum,
}

impl Filter {
    /// Whether anything is filtered.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.allowed_macs.is_some() || self.allowed_ips.is_some() || self.allowed_vlans.is_some()
    }

    /// Judges a frame by its first bytes: all of a short one, [`HEAD_LEN`] of others.
    ///
    /// # Errors
    /// With the reason when it is not to be sent.
    pub fn judge(&self, head: &[u8]) -> Result<(), Refusal> {
        self.judged_len(head).map(drop)
    }

    /// Judges a frame whose checksum is left to the receiver, who writes it to byte `checksum_at`, wherever that is: a
    /// guest that chooses the place chooses what is written there, too.
    ///
    /// # Errors
    /// As [`Filter::judge`].
    pub fn judge_unfinished(&self, head: &[u8], checksum_at: usize) -> Result<(), Refusal> {
        if checksum_at < self.judged_len(head)? { Err(Refusal::Checksum) } else { Ok(()) }
    }

    /// Judges a frame; says up to which byte it must stay as it is for that.
    fn judged_len(&self, head: &[u8]) -> Result<usize, Refusal> {
        self.claims_mac(array(head, 6).ok_or(Refusal::Mac)?)?;
        let (ether_type, packet) = self.behind_tags(head)?;
        let start = head.len() - packet.len();
        if self.allowed_ips.is_none() && self.allowed_macs.is_none() {
            return Ok(start);
        }
        let packet_len = match ether_type {
            ARP | RARP => self.judge_arp(packet, ether_type == RARP)?,
            IPV4 => self.judge_ipv4(packet)?,
            IPV6 => self.judge_ipv6(packet)?,
            _ if self.allowed_ips.is_some() => return Err(Refusal::Ip),
            _ => 0,
        };
        Ok(start + packet_len)
    }

    /// Judges the tags; says what lies behind them.
    fn behind_tags<'a>(&self, head: &'a [u8]) -> Result<(u16, &'a [u8]), Refusal> {
        let mut at = 12;
        let mut tagged = false;
        for _ in 0..=MAX_TAGS {
            let ether_type = word(head, at).ok_or(Refusal::Mac)?;
            if !matches!(ether_type, 0x8100 | 0x88a8 | 0x9100) {
                self.is_for_vlan(if tagged { None } else { Some(0) })?;
                return Ok((ether_type, &head[at + 2..]));
            }
            // A tag of VLAN 0 says a priority only; which VLAN it is the next tag says, or none.
            let vlan = word(head, at + 2).ok_or(Refusal::Vlan)? & 0xfff;
            self.is_for_vlan(Some(vlan).filter(|vlan| *vlan > 0))?;
            tagged |= vlan > 0;
            at += 4;
        }
        // More tags than anybody needs, and something behind them that nobody sees.
        Err(Refusal::Vlan)
    }

    fn is_for_vlan(&self, vlan: Option<u16>) -> Result<(), Refusal> {
        match (&self.allowed_vlans, vlan) {
            (Some(allowed), Some(vlan)) if !allowed.contain(vlan) => Err(Refusal::Vlan),
            _ => Ok(()),
        }
    }

    fn judge_arp(&self, packet: &[u8], reverse: bool) -> Result<usize, Refusal> {
        let is_ipv4_on_ethernet = array(packet, 0) == Some([0, 1, 8, 0, 6, 4]);
        let (Some(mac), Some(ip), true) = (array(packet, 8), array(packet, 14), is_ipv4_on_ethernet) else {
            return Err(Refusal::Ip);
        };
        self.claims_mac(mac)?;
        // Nobody's address: a probe (RFC 5227, 2.1.1). Who asks for one by its Ethernet address has none yet.
        if ip != [0; 4] && !reverse {
            self.claims_v4(ip.into())?;
        }
        Ok(packet.len())
    }

    fn judge_ipv4(&self, packet: &[u8]) -> Result<usize, Refusal> {
        let (Some([first]), Some(source)) = (array(packet, 0), array::<4>(packet, 12)) else { return Err(Refusal::Ip) };
        let header_len = usize::from(first & 15) * 4;
        if first >> 4 != 4 || header_len < 20 {
            return Err(Refusal::Ip);
        }
        // Who asks for an address has none yet (RFC 2131, 4.1).
        let asks = || {
            packet.get(9) == Some(&UDP)
                && array(packet, header_len) == Some([0, 68, 0, 67])
                && !is_later_fragment(packet)
        };
        if source != [0; 4] || !asks() {
            self.claims_v4(source.into())?;
        }
        Ok(header_len + PORTS_LEN)
    }

    fn judge_ipv6(&self, packet: &[u8]) -> Result<usize, Refusal> {
        let (Some([first]), Some(source)) = (array(packet, 0), array::<16>(packet, 8)) else { return Err(Refusal::Ip) };
        if first >> 4 != 6 {
            return Err(Refusal::Ip);
        }
        let (next, at) = behind_headers(packet)?;
        let icmp = if next == ICMPV6 { Some(packet.get(at..).ok_or(Refusal::Ip)?) } else { None };
        if source == [0; 16] {
            // Who looks whether an address is free has none yet (RFC 4862, 5.4.2).
            let kind = icmp.and_then(|icmp| icmp.first()).copied().unwrap_or(0);
            if kind != NEIGHBOUR_SOLICITATION && kind != ROUTER_SOLICITATION && !LISTENER_REPORTS.contains(&kind) {
                self.claims_v6(source.into())?;
            }
        } else {
            self.claims_v6(source.into())?;
        }
        match icmp {
            // All of it: another type makes it another message.
            Some(icmp) => self.judge_neighbour_discovery(icmp, source == [0; 16]).map(|()| packet.len()),
            None => Ok(at),
        }
    }

    /// Judges what a message of ICMPv6 claims.
    fn judge_neighbour_discovery(&self, icmp: &[u8], is_probe: bool) -> Result<(), Refusal> {
        let Some([kind]) = array(icmp, 0) else { return Err(Refusal::Ip) };
        let (claims_target, options) = match kind {
            NEIGHBOUR_ADVERTISEMENT => (true, 24),
            NEIGHBOUR_SOLICITATION => (is_probe, 24),
            ROUTER_SOLICITATION => (false, 8),
            ROUTER_ADVERTISEMENT => (false, 16),
            _ => return Ok(()),
        };
        if claims_target {
            self.claims_v6(array::<16>(icmp, 8).ok_or(Refusal::Ip)?.into())?;
        }
        let mut options = icmp.get(options..).ok_or(Refusal::Ip)?;
        while let [kind, len, rest @ ..] = options {
            // The link-layer address of the source or the target (RFC 4861, 4.6.1).
            if matches!(kind, 1 | 2) {
                self.claims_mac(array(rest, 0).ok_or(Refusal::Mac)?)?;
            }
            // One without a length makes the message invalid (RFC 4861, 4.6), and what lies behind the head is not seen.
            let len = usize::from(*len) * 8;
            options = options.get(len..).filter(|_| len > 0).ok_or(Refusal::Mac)?;
        }
        Ok(())
    }

    fn claims_mac(&self, mac: [u8; 6]) -> Result<(), Refusal> {
        let ours = self.allowed_macs.as_ref().is_none_or(|macs| macs.0.iter().any(|allowed| allowed.0 == mac));
        if ours { Ok(()) } else { Err(Refusal::Mac) }
    }

    fn claims_v4(&self, address: Ipv4Addr) -> Result<(), Refusal> {
        let ours = self.allowed_ips.as_ref().is_none_or(|ips| ips.contain_v4(address));
        if ours { Ok(()) } else { Err(Refusal::Ip) }
    }

    /// The link-local address that is made of an Ethernet address (RFC 4291, appendix A) comes with it.
    fn claims_v6(&self, address: Ipv6Addr) -> Result<(), Refusal> {
        let of_mac = |mac: [u8; 6]| {
            let [a, b, c, d, e, f] = mac;
            address.octets() == [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
        };
        let of_macs = || self.allowed_macs.as_ref().is_some_and(|macs| macs.0.iter().any(|mac| of_mac(mac.0)));
        let ours = self.allowed_ips.as_ref().is_none_or(|ips| ips.contain_v6(address) || of_macs());
        if ours { Ok(()) } else { Err(Refusal::Ip) }
    }
}

fn is_later_fragment(packet: &[u8]) -> bool {
    word(packet, 6).is_some_and(|offset| offset & 0x1fff != 0)
}

/// What follows the headers of IPv6 that are looked behind, and where. A message in fragments is nobody's neighbour
/// discovery (RFC 6980, 5).
fn behind_headers(packet: &[u8]) -> Result<(u8, usize), Refusal> {
    let (mut next, mut at) = (*packet.get(6).ok_or(Refusal::Ip)?, 40);
    loop {
        let header = packet.get(at..).ok_or(Refusal::Ip)?;
        let len = |factor: usize, more: usize| header.get(1).map(|len| (usize::from(*len) + more) * factor);
        let len = match next {
            // Hop-by-hop options, routing, destination options, mobility (RFC 8200, 4; RFC 6275, 6.1).
            0 | 43 | 60 | 135 => len(8, 1),
            // Authentication (RFC 4302, 2.2).
            51 => len(4, 2),
            _ => return Ok((next, at)),
        };
        next = *header.first().ok_or(Refusal::Ip)?;
        at += len.ok_or(Refusal::Ip)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
