//! What a guest claims beside what it sends from: addresses in ARP, in neighbour discovery and in IPv6 headers. What leaves
//! is looked at on the wire.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::packets::Tap;
use guest_tests::{NetNs, Vnicd};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const POSTING: Posting = Posting { count: 16, len: 2048 };
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a frame at least, without its checksum (IEEE 802.3, 3.2.7).
const MIN_FRAME: usize = 60;

type Mac = [u8; 6];
const OURS: Mac = [2, 0, 0, 0, 0, 0x77];
const ANOTHERS: Mac = [2, 0, 0, 0, 0, 0x78];
const ALL: Mac = [0xff; 6];
const OUR_IP: [u8; 4] = [10, 77, 0, 2];
const HOSTS_IP: [u8; 4] = [10, 77, 0, 1];
const NO_IP: [u8; 4] = [0; 4];
/// What the daemon is told.
const OPTIONS: [&str; 2] = ["--allowed-macs=02:00:00:00:00:77", "--allowed-ips=10.77.0.2,fd77::2"];

const OUR_IP6: &str = "fd77::2";
/// Made of the Ethernet address (RFC 4291, appendix A).
const OUR_LINK_LOCAL: &str = "fe80::ff:fe00:77";
const HOSTS_IP6: &str = "fd77::1";
const NO_IP6: &str = "::";

// Operations of ARP (RFC 826), types of ICMPv6 (RFC 4861, 4) and their options.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

fn ethernet(source: Mac, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    [&ALL[..], &source, &ether_type.to_be_bytes(), packet].concat()
}

/// ARP in which `mac` and `ip` are said to be the sender's.
fn arp(source: Mac, operation: u8, (mac, ip): (Mac, [u8; 4])) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    ethernet(source, 0x0806, &[&head[..], &mac, &ip, &[0; 6], &HOSTS_IP].concat())
}

fn ip6(address: &str) -> [u8; 16] {
    address.parse::<Ipv6Addr>().map_or([0; 16], |address| address.octets())
}

/// IPv6 from `source` to all nodes.
fn ipv6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, len[0], len[1], next, 255];
    ethernet(OURS, 0x86dd, &[&head[..], &ip6(source), &ip6("ff02::1"), payload].concat())
}

fn udp6(source: &str) -> Vec<u8> {
    ipv6(source, 17, &[&[0x23, 0x28, 0x23, 0x29, 0, 16, 0, 0][..], b"payload!"].concat())
}

/// A message of neighbour discovery about a target, with the Ethernet address of an option.
fn discovery(kind: u8, target: Option<&str>, (option, mac): (u8, Mac)) -> Vec<u8> {
    let target = target.map(|target| ip6(target).to_vec()).unwrap_or_default();
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target, &[option, 1], &mac].concat()
}

fn neighbour(source: &str, kind: u8, target: &str, option: (u8, Mac)) -> Vec<u8> {
    ipv6(source, 58, &discovery(kind, Some(target), option))
}

/// Behind a header of hop-by-hop options (RFC 8200, 4.3) that says nothing.
fn behind_options(kind: u8, target: &str, option: (u8, Mac)) -> Vec<u8> {
    ipv6(OUR_IP6, 0, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &discovery(kind, Some(target), option)].concat())
}

fn in_vlan(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 9], &frame[12..]].concat()
}

/// What the guest may say.
fn honest() -> Vec<(&'static str, Vec<u8>)> {
    let advertises = neighbour(OUR_IP6, NEIGHBOUR_ADVERTISEMENT, OUR_IP6, (TARGET, OURS));
    vec![
        ("a request", arp(OURS, REQUEST, (OURS, OUR_IP))),
        ("a reply", arp(OURS, REPLY, (OURS, OUR_IP))),
        ("a probe", arp(OURS, REQUEST, (OURS, NO_IP))),
        ("a request in a VLAN", in_vlan(&arp(OURS, REQUEST, (OURS, OUR_IP)))),
        ("IPv6", udp6(OUR_IP6)),
        ("IPv6 from the link-local address", udp6(OUR_LINK_LOCAL)),
        ("a question", neighbour(OUR_IP6, NEIGHBOUR_SOLICITATION, HOSTS_IP6, (SOURCE, OURS))),
        ("an answer", advertises.clone()),
        ("an answer in a VLAN", in_vlan(&advertises)),
        ("an answer behind options", behind_options(NEIGHBOUR_ADVERTISEMENT, OUR_IP6, (TARGET, OURS))),
        ("a look whether the address is free", neighbour(NO_IP6, NEIGHBOUR_SOLICITATION, OUR_IP6, (14, OURS))),
        ("a call for routers", ipv6(NO_IP6, 58, &discovery(ROUTER_SOLICITATION, None, (14, OURS)))),
    ]
}

const MAC: &str = "tx_dropped_mac";
const IP: &str = "tx_dropped_ip";

/// What it may not say, and as what that is counted.
fn spoofed() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let [asks, answers] = [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
    let hosts_answer = neighbour(OUR_IP6, answers, HOSTS_IP6, (TARGET, OURS));
    vec![
        ("ARP from another's address", MAC, arp(ANOTHERS, REQUEST, (OURS, OUR_IP))),
        ("a request for another's address", MAC, arp(OURS, REQUEST, (ANOTHERS, OUR_IP))),
        ("a request from the host", IP, arp(OURS, REQUEST, (OURS, HOSTS_IP))),
        ("a reply for the host", IP, arp(OURS, REPLY, (OURS, HOSTS_IP))),
        ("a reply for the host in a VLAN", IP, in_vlan(&arp(OURS, REPLY, (OURS, HOSTS_IP)))),
        ("a reply for another's address", MAC, arp(OURS, REPLY, (ANOTHERS, OUR_IP))),
        ("IPv6 from another", IP, udp6("fd77::3")),
        ("IPv6 from the host", IP, udp6(HOSTS_IP6)),
        ("IPv6 from another in a VLAN", IP, in_vlan(&udp6("fd77::3"))),
        ("IPv6 from another's link-local address", IP, udp6("fe80::ff:fe00:78")),
        ("IPv6 from no address", IP, udp6(NO_IP6)),
        ("an answer for the host", IP, hosts_answer.clone()),
        ("an answer for the host in a VLAN", IP, in_vlan(&hosts_answer)),
        ("an answer for the host behind options", IP, behind_options(answers, HOSTS_IP6, (TARGET, OURS))),
        ("an answer with another's address", MAC, neighbour(OUR_IP6, answers, OUR_IP6, (TARGET, ANOTHERS))),
        ("an answer from the host", IP, neighbour(HOSTS_IP6, answers, OUR_IP6, (TARGET, OURS))),
        ("a question with another's address", MAC, neighbour(OUR_IP6, asks, HOSTS_IP6, (SOURCE, ANOTHERS))),
        ("a look whether the host's address is free", IP, neighbour(NO_IP6, asks, HOSTS_IP6, (14, OURS))),
    ]
}

fn counted(vnicd: &Vnicd) -> Result<[u64; 2]> {
    let count = |counter| anyhow::Ok(vnicd.counters(counter)?.iter().sum());
    Ok([count(MAC)?, count(IP)?])
}

/// The next frame from the daemon is this one, as long as a frame is at least.
fn leaves(tap: &mut Tap, frame: &[u8]) -> Result<()> {
    let (_, got) = tap.receive(PATIENCE)?.context("nothing left")?;
    let padding = vec![0; MIN_FRAME.saturating_sub(frame.len())];
    ensure!(got == [frame, &padding].concat(), "another frame left: {got:02x?}");
    Ok(())
}

fn only_honest_claims_leave(uplink: &str, threads: &str, format: u64) -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    if uplink.starts_with("af-xdp") {
        ns.sh("ip link add up0 type veth peer name tap0; ethtool -K tap0 tx off; ip link set tap0 up")?;
    }
    let vnicd = Vnicd::builder(&ns).uplink(uplink).args(OPTIONS).args(["--queue-pairs=1", "--threads", threads]);
    let vnicd = vnicd.control().start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, 256, POSTING)?;
    let mut tap = Tap::open(&ns, "tap0")?;
    let mut expected = [0, 0];
    for pieces in [1, 3] {
        for (what, frame) in honest() {
            nic.send_raw(&[0; 12], &frame, pieces)?;
            leaves(&mut tap, &frame).with_context(|| format!("{what}, counted {:?}", counted(&vnicd)))?;
        }
        for (what, counter, frame) in spoofed() {
            nic.send_raw(&[0; 12], &frame, pieces)?;
            expected[usize::from(counter == IP)] += 1;
            eventually(&format!("{what} is counted"), || Ok(counted(&vnicd)? == expected))
                .with_context(|| format!("{expected:?} expected, {:?} counted", counted(&vnicd)))?;
        }
        // None of them left before this one.
        let last = nic.frame(b"honest")?;
        nic.send_raw(&[0; 12], &last, pieces)?;
        leaves(&mut tap, &last)?;
    }
    ensure!(tap.receive(Duration::from_millis(50))?.is_none(), "something more left");
    Ok(())
}

#[test]
fn a_guest_claims_no_address_but_its_own() -> Result<()> {
    only_honest_claims_leave("tap=tap0", "per-pair", 0)?;
    only_honest_claims_leave("tap=tap0", "pipeline", PACKED)
}

#[test]
fn nor_over_af_xdp() -> Result<()> {
    only_honest_claims_leave("af-xdp=up0", "per-pair", PACKED)?;
    only_honest_claims_leave("af-xdp=up0", "per-direction", 0)
}
