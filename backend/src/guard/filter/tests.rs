use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, IpNumber, PacketBuilder};
use proptest::prelude::*;

use super::*;

const OURS: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 9, 9, 9];
const BROADCAST: [u8; 6] = [0xff; 6];
/// The link-local address that [`OURS`] makes.
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 1, 2, 3];

fn filter(macs: Option<&str>, ips: Option<&str>, vlans: Option<&str>) -> Filter {
    Filter {
        allowed_macs: macs.map(|text| text.parse().unwrap()),
        allowed_ips: ips.map(|text| text.parse().unwrap()),
        allowed_vlans: vlans.map(|text| text.parse().unwrap()),
    }
}

fn strict() -> Filter {
    filter(Some("52:54:00:01:02:03"), Some("10.0.0.5,fd00::5"), Some("0,7"))
}

fn head(mut frame: Vec<u8>) -> Vec<u8> {
    frame.truncate(HEAD_LEN);
    frame
}

fn built(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Vec<u8> {
    let mut frame = Vec::new();
    builder.write(&mut frame, &[7; 300]).unwrap();
    head(frame)
}

fn udp4(mac: [u8; 6], source: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    built(PacketBuilder::ethernet2(mac, BROADCAST).ipv4(source, [10, 0, 0, 1], 64).udp(ports.0, ports.1))
}

fn udp6(source: [u8; 16]) -> Vec<u8> {
    built(PacketBuilder::ethernet2(OURS, BROADCAST).ipv6(source, [0xfd; 16], 64).udp(1, 2))
}

fn arp(ethernet: [u8; 6], mac: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &mac,
        &ip,
        &[0; 6],
        &[10, 0, 0, 1],
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ethernet, BROADCAST).arp(packet.unwrap()).write(&mut frame).unwrap();
    frame
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

/// A message of neighbour discovery of type `kind` with a target, if it has one, and options.
fn discovery(source: [u8; 16], kind: u8, target: Option<[u8; 16]>, options: &[u8]) -> Vec<u8> {
    let mut payload: Vec<u8> = target.into_iter().flatten().collect();
    payload.extend_from_slice(options);
    let message = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(OURS, BROADCAST).ipv6(source, v6("ff02::1"), 255).icmpv6(message);
    builder.write(&mut frame, &payload).unwrap();
    head(frame)
}

fn link_layer(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|vlan| [&[0x81, 0][..], &vlan.to_be_bytes()].concat());
    head(frame[..12].iter().copied().chain(tags).chain(frame[12..].iter().copied()).collect())
}

#[test]
fn nothing_is_filtered_unless_it_is_said() {
    let open = filter(None, None, None);
    assert!(!open.is_on() && strict().is_on());
    for frame in [udp4(OTHER, [9; 4], (1, 2)), arp(OURS, OTHER, [9; 4]), udp6([9; 16]), tagged(&udp6([9; 16]), &[99])] {
        assert_eq!(open.judge(&frame), Ok(()));
    }
}

#[test]
fn ethernet_addresses_must_be_the_guests() {
    assert_eq!(strict().judge(&udp4(OURS, [10, 0, 0, 5], (1, 2))), Ok(()));
    assert_eq!(strict().judge(&udp4(OTHER, [10, 0, 0, 5], (1, 2))), Err(Refusal::Mac));
    assert_eq!(strict().judge(&udp4(OURS, [10, 0, 0, 5], (1, 2))[..13]), Err(Refusal::Mac));
    assert_eq!(strict().judge(&[]), Err(Refusal::Mac));
}

#[test]
fn ipv4_addresses_must_be_the_guests_but_for_who_asks_for_one() {
    assert_eq!(strict().judge(&udp4(OURS, [10, 0, 0, 6], (1, 2))), Err(Refusal::Ip));
    assert_eq!(strict().judge(&udp4(OURS, [0; 4], (68, 67))), Ok(()));
    assert_eq!(strict().judge(&udp4(OURS, [0; 4], (68, 53))), Err(Refusal::Ip));
    let mut fragment = udp4(OURS, [0; 4], (68, 67));
    fragment[21] = 5;
    assert_eq!(strict().judge(&fragment), Err(Refusal::Ip));
    // A version and a length that cannot be.
    for first in [0x44, 0x65, 0x05] {
        let mut frame = udp4(OURS, [10, 0, 0, 5], (1, 2));
        frame[14] = first;
        assert_eq!(strict().judge(&frame), Err(Refusal::Ip), "{first:#x}");
    }
}

#[test]
fn arp_claims_nothing_but_the_guests_addresses() {
    assert_eq!(strict().judge(&arp(OURS, OURS, [10, 0, 0, 5])), Ok(()));
    assert_eq!(strict().judge(&arp(OURS, OURS, [0; 4])), Ok(()), "a probe");
    assert_eq!(strict().judge(&arp(OURS, OTHER, [10, 0, 0, 5])), Err(Refusal::Mac));
    assert_eq!(strict().judge(&arp(OURS, OURS, [10, 0, 0, 1])), Err(Refusal::Ip));
    assert_eq!(strict().judge(&arp(OURS, OURS, [10, 0, 0, 5])[..24]), Err(Refusal::Ip), "cut off");
    let only_macs = filter(Some("52:54:00:01:02:03"), None, None);
    assert_eq!(only_macs.judge(&arp(OURS, OURS, [10, 0, 0, 1])), Ok(()));
    assert_eq!(only_macs.judge(&arp(OURS, OTHER, [10, 0, 0, 1])), Err(Refusal::Mac));
}

#[test]
fn ipv6_addresses_must_be_the_guests() {
    assert_eq!(strict().judge(&udp6(v6("fd00::5"))), Ok(()));
    assert_eq!(strict().judge(&udp6(LINK_LOCAL)), Ok(()));
    for other in ["fd00::6", "fe80::1", "::"] {
        assert_eq!(strict().judge(&udp6(v6(other))), Err(Refusal::Ip), "{other}");
    }
}

#[test]
fn neighbour_discovery_claims_nothing_but_the_guests_addresses() {
    let (ours, other) = (v6("fd00::5"), v6("fd00::1"));
    let judge = |source, kind, target, options: &[u8]| strict().judge(&discovery(source, kind, target, options));
    assert_eq!(judge(ours, 136, Some(ours), &link_layer(2, OURS)), Ok(()));
    assert_eq!(judge(ours, 136, Some(LINK_LOCAL), &[]), Ok(()));
    assert_eq!(judge(ours, 136, Some(other), &link_layer(2, OURS)), Err(Refusal::Ip));
    assert_eq!(judge(ours, 136, Some(ours), &link_layer(2, OTHER)), Err(Refusal::Mac));
    assert_eq!(judge(ours, 135, Some(other), &link_layer(1, OURS)), Ok(()), "asks for another");
    assert_eq!(judge(ours, 135, Some(other), &link_layer(1, OTHER)), Err(Refusal::Mac));
    assert_eq!(judge(v6("::"), 135, Some(ours), &[]), Ok(()), "looks whether it is free");
    assert_eq!(judge(v6("::"), 135, Some(other), &[]), Err(Refusal::Ip));
    assert_eq!(judge(v6("::"), 133, None, &[]), Ok(()));
    assert_eq!(judge(LINK_LOCAL, 133, None, &link_layer(1, OTHER)), Err(Refusal::Mac));
    assert_eq!(judge(v6("::"), 128, None, &[]), Err(Refusal::Ip), "an echo from nobody");
    // An option without a length, and one that ends behind what is seen.
    assert_eq!(judge(ours, 136, Some(ours), &[5, 0, 0, 0, 0, 0, 0, 0]), Err(Refusal::Mac));
    let far = [&[14, 7][..], &[0; 54], &link_layer(2, OTHER)].concat();
    assert_eq!(judge(ours, 136, Some(ours), &far), Err(Refusal::Mac));
}

#[test]
fn neighbour_discovery_hides_behind_no_header() {
    let plain = discovery(v6("fd00::5"), 136, Some(v6("fd00::1")), &[]);
    for (kind, header) in
        [(0u8, [58u8, 0, 1, 4, 0, 0, 0, 0]), (60, [58, 0, 1, 4, 0, 0, 0, 0]), (43, [58, 0, 0, 0, 0, 0, 0, 0])]
    {
        let mut frame = [&plain[..54], &header, &plain[54..]].concat();
        assert_eq!(frame[20], 58);
        frame[20] = kind;
        assert_eq!(strict().judge(&frame), Err(Refusal::Ip), "behind {kind}");
    }
    // Behind more than is seen.
    let mut frame = [&plain[..54], &[58, 20, 1, 4, 0, 0, 0, 0], &plain[54..]].concat();
    frame[20] = 0;
    assert_eq!(strict().judge(&frame), Err(Refusal::Ip));
}

#[test]
fn vlans_must_be_the_guests_every_one_of_them() {
    let frame = udp4(OURS, [10, 0, 0, 5], (1, 2));
    let judge = |tags: &[u16]| strict().judge(&tagged(&frame, tags));
    assert_eq!((judge(&[7]), judge(&[0]), judge(&[0, 7])), (Ok(()), Ok(()), Ok(())));
    assert_eq!(
        (judge(&[8]), judge(&[7, 8]), judge(&[0, 8])),
        (Err(Refusal::Vlan), Err(Refusal::Vlan), Err(Refusal::Vlan))
    );
    assert_eq!(judge(&[7, 7, 7]), Err(Refusal::Vlan), "more tags than are looked behind");
    let only_tagged = filter(None, None, Some("7"));
    assert_eq!(only_tagged.judge(&frame), Err(Refusal::Vlan));
    assert_eq!(only_tagged.judge(&tagged(&frame, &[0])), Err(Refusal::Vlan));
    assert_eq!(only_tagged.judge(&tagged(&frame, &[7])), Ok(()));
    // What is behind the tags is judged too.
    let spoofed = tagged(&udp4(OURS, [10, 0, 0, 6], (1, 2)), &[7]);
    assert_eq!(strict().judge(&spoofed), Err(Refusal::Ip));
}

#[test]
fn nothing_but_ip_where_ip_is_filtered() {
    let mut frame = udp4(OURS, [10, 0, 0, 5], (1, 2));
    frame[12..14].copy_from_slice(&[0x88, 0x64]);
    assert_eq!(strict().judge(&frame), Err(Refusal::Ip));
    assert_eq!(filter(Some("52:54:00:01:02:03"), None, None).judge(&frame), Ok(()));
    _ = IpNumber::UDP;
}

/// Whoever finishes a checksum writes it where the guest says: not over what was judged.
#[test]
fn no_checksum_is_written_over_what_was_judged() {
    let (ours, other) = (v6("fd00::5"), v6("fd00::1"));
    let udp = udp4(OURS, [10, 0, 0, 5], (1, 2));
    let mut behind_options = [&udp6(ours)[..54], &[17, 0, 1, 4, 0, 0, 0, 0], &udp6(ours)[54..]].concat();
    behind_options[20] = 60;
    // Where the first byte is that it may be written to.
    for (what, frame, first) in [
        ("IPv4", udp.clone(), Some(38)),
        ("IPv4 with a tag", tagged(&udp, &[7]), Some(42)),
        ("IPv6", udp6(ours), Some(54)),
        ("IPv6 with options", head(behind_options), Some(62)),
        ("ARP", arp(OURS, OURS, [10, 0, 0, 5]), None),
        ("neighbour discovery", discovery(ours, 135, Some(other), &link_layer(1, OURS)), None),
    ] {
        assert_eq!(strict().judge(&frame), Ok(()), "{what}");
        for at in 0..frame.len() {
            let expected = if first.is_some_and(|first| at >= first) { Ok(()) } else { Err(Refusal::Checksum) };
            assert_eq!(strict().judge_unfinished(&frame, at), expected, "{what}, at {at}");
        }
    }
    let vlans = filter(None, None, Some("7"));
    assert_eq!(vlans.judge_unfinished(&tagged(&udp, &[7]), 17), Err(Refusal::Checksum));
    assert_eq!(vlans.judge_unfinished(&tagged(&udp, &[7]), 18), Ok(()));
    assert_eq!(strict().judge_unfinished(&udp4(OTHER, [10, 0, 0, 5], (1, 2)), 40), Err(Refusal::Mac));
}

proptest! {
    /// Whatever a guest writes, it is judged, and what is let out has the guest's Ethernet address.
    #[test]
    fn any_bytes_are_judged(
        mut bytes in prop::collection::vec(any::<u8>(), 0..HEAD_LEN),
        kind in prop::sample::select(vec![[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0], [0x80, 0x35]]),
        first in prop::sample::select(vec![0x45, 0x60, 0x4f]),
        next in prop::sample::select(vec![58, 0, 43, 60, 51, 17]),
    ) {
        for (at, byte) in [(12, kind[0]), (13, kind[1]), (14, first), (20, next)] {
            if let Some(to) = bytes.get_mut(at) {
                *to = byte;
            }
        }
        if strict().judge(&bytes).is_ok() {
            prop_assert_eq!(&bytes[6..12], &OURS);
        }
    }
}
