//! Expressions, and what they say of frames. How libpcap judges is compared in the guest tests.

use etherparse::{PacketBuilder, TcpOptionElement};

use super::*;

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn matches(filter: &str, frame: &[u8]) -> bool {
    filter.parse::<Filter>().unwrap_or_else(|e| panic!("{filter}: {e}")).matches(frame)
}

fn tcp4() -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(GUEST, HOST).ipv4([10, 0, 0, 2], [10, 0, 1, 1], 64).tcp(40_000, 80, 1, 1000);
    packet.options(&[TcpOptionElement::Noop]).unwrap().write(&mut frame, &[7; 30]).unwrap();
    frame
}

fn udp6() -> Vec<u8> {
    let mut frame = Vec::new();
    let [from, to] = ["fd00::2", "fd00:1::1"].map(|a| a.parse::<std::net::Ipv6Addr>().unwrap().octets());
    PacketBuilder::ethernet2(GUEST, HOST).ipv6(from, to, 64).udp(53, 5353).write(&mut frame, &[7; 30]).unwrap();
    frame
}

fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    for (kind, vlan) in tags {
        tagged.extend([kind.to_be_bytes(), vlan.to_be_bytes()].concat());
    }
    [&tagged, &frame[12..]].concat()
}

#[test]
fn primitives_look_at_their_fields() {
    for (filter, of_tcp4, of_udp6) in [
        ("ip", true, false),
        ("ip6", false, true),
        ("arp", false, false),
        ("tcp", true, false),
        ("udp", false, true),
        ("icmp or icmp6", false, false),
        ("host 10.0.0.2", true, false),
        ("host 10.0.1.1", true, false),
        ("src host 10.0.1.1", false, false),
        ("dst host 10.0.1.1", true, false),
        ("net 10.0.0.0/24", true, false),
        ("dst net 10.0.0.0/24", false, false),
        ("dst net 10.0.0.0/23", true, false),
        ("net 0.0.0.0/0", true, false),
        ("host fd00::2", false, true),
        ("dst host fd00::2", false, false),
        ("src net fd00::/32", false, true),
        ("dst net fd00:1::/32", false, true),
        ("net ::/0", false, true),
        ("port 80", true, false),
        ("src port 80", false, false),
        ("tcp dst port 80", true, false),
        ("udp port 80", false, false),
        ("udp src port 53", false, true),
        ("port 53 or port 80", true, true),
        ("ether host 02:00:00:00:00:02", true, true),
        ("ether dst host 02:00:00:00:00:02", false, false),
        ("ether dst host 02:00:00:00:00:01", true, true),
        ("vlan", false, false),
        ("not vlan", true, true),
        ("!(tcp||udp)", false, false),
        ("not tcp and not udp", false, false),
        ("not (tcp and udp)", true, true),
        // Alike, from left to right: (udp or tcp) and ip.
        ("udp or tcp and ip", true, false),
        ("ip and udp or tcp", true, false),
        ("ip6 and tcp or udp", false, true),
    ] {
        assert_eq!((matches(filter, &tcp4()), matches(filter, &udp6())), (of_tcp4, of_udp6), "{filter}");
    }
}

#[test]
fn it_looks_behind_tags() {
    let once = tagged(&tcp4(), &[(0x8100, 0x6005)]);
    let twice = tagged(&udp6(), &[(0x88a8, 100), (0x8100, 7)]);
    for (filter, of_once, of_twice) in [
        ("vlan", true, true),
        ("vlan 5", true, false),
        ("vlan 100 and vlan 7", false, true),
        ("vlan 6", false, false),
        ("tcp port 80", true, false),
        ("vlan 5 and tcp", true, false),
        ("src host fd00::2 and udp src port 53", false, true),
        ("ip", true, false),
    ] {
        assert_eq!((matches(filter, &once), matches(filter, &twice)), (of_once, of_twice), "{filter}");
    }
}

#[test]
fn fragments_have_ports_only_at_the_start() {
    let mut frame = tcp4();
    frame[20..22].copy_from_slice(&[0x20, 0]);
    assert!(matches("port 80 and tcp", &frame), "the first");
    frame[21] = 9;
    assert!(matches("tcp and not port 80", &frame), "another");
}

#[test]
fn arp_names_hosts() {
    let mut frame = [&[0xff; 6][..], &GUEST, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend([&GUEST[..], &[10, 0, 0, 2], &[0; 6], &[10, 0, 0, 1]].concat());
    for (filter, is_so) in [
        ("arp", true),
        ("arp and host 10.0.0.1", true),
        ("src host 10.0.0.2", true),
        ("src host 10.0.0.1", false),
        ("dst net 10.0.0.0/30", true),
        ("port 80", false),
        ("host fd00::2", false),
    ] {
        assert_eq!(matches(filter, &frame), is_so, "{filter}");
    }
}

#[test]
fn a_frame_that_ends_too_early_matches_nothing() {
    let frame = tcp4();
    for len in 0..frame.len() {
        let cut = &frame[..len];
        assert_eq!(matches("ip", cut), len >= 14, "{len} bytes");
        assert_eq!(matches("not ip6", cut), len >= 14, "{len} bytes");
        assert_eq!(matches("tcp", cut), len >= 24, "{len} bytes");
        assert_eq!(matches("not udp", cut), len >= 24, "{len} bytes");
        assert_eq!(matches("dst port 80", cut), len >= 38, "{len} bytes");
        assert_eq!(matches("not dst port 81", cut), len >= 38, "{len} bytes");
    }
}

#[test]
fn errors_name_the_word() {
    for (filter, part) in [
        ("", "it is empty: write arp, ip,"),
        ("htt", "'htt' begins nothing that is known here: write arp"),
        ("tcp prot 80", "'prot' is not expected there: and, or, or the end"),
        ("tcp and", "'and' is the end, but something must follow it"),
        ("port", "'port' must be followed by a port from 0 to 65535"),
        ("port http", "'http' is no port from 0 to 65535 (names are not looked up)"),
        ("port 65536", "'65536' is no port"),
        ("host example.org", "'example.org' is no address (names are not looked up)"),
        ("src 10.0.0.1", "'10.0.0.1' is not expected there: host, net or port must follow src"),
        ("src", "host, net or port must follow src"),
        ("net 10.0.0.0", "'10.0.0.0' is no network such as 10.0.0.0/24"),
        ("net 10.0.0.1/24", "'10.0.0.1/24' is no network"),
        ("net 10.0.0.0/33", "'10.0.0.0/33' is no network"),
        ("net fd00::1/64", "'fd00::1/64' is no network"),
        ("ether 02:00:00:00:00:01", "'02:00:00:00:00:01' is not expected there: host and an address must follow ether"),
        ("ether host 02:00:00:00:01", "'02:00:00:00:01' is no address such as 52:54:"),
        ("vlan 4096", "'4096' is no VLAN from 0 to 4095"),
        ("udp src host 10.0.0.1", "'host' is not expected there: port must follow"),
        ("(tcp", "a ( has no )"),
        ("tcp)", "')' is not expected there"),
        ("(tcp udp)", "'udp' is not expected there: and, or, or ) must come"),
        ("tcp & udp", "'&' is not expected there"),
        ("not", "'not' is the end"),
    ] {
        let error = filter.parse::<Filter>().unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{filter}: {error}");
    }
    assert!("(".repeat(5000).parse::<Filter>().unwrap_err().contains("longer than 4096"));
    let deep = "(".repeat(2000) + "ip" + &")".repeat(2000);
    assert!(matches(&deep, &tcp4()));
}
