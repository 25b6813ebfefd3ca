//! Which fields must match, and which kinds of packets are never joined.

use super::super::super::packet::flag;
use super::super::super::testing::{Burst, Spec, Sums};
use super::super::super::update;
use super::super::*;
use super::{flow, join, join_for, pair, tcp, udp, with};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;

#[test]
fn all_fields_of_a_flow_must_match() {
    type Change = fn(&mut Spec);
    let changes: [(&str, Change); 8] = [
        ("address", |spec| spec.host += 1),
        ("port", |spec| spec.port += 1),
        ("port", |spec| spec.to_port += 1),
        ("vlan", |spec| spec.vlan += 1),
        ("tag", |spec| spec.tags -= 1),
        ("class", |spec| spec.class = 0x20),
        ("ttl", |spec| spec.ttl -= 1),
        ("protocol", |spec| spec.udp = !spec.udp),
    ];
    for first in [tcp(), udp()] {
        for v6 in [false, true] {
            let first = Spec { v6, tags: 1, ..first.clone() };
            for (name, change) in changes {
                assert!(!pair(&first, &with(first.next(), change)), "{name} of {first:?}");
            }
        }
    }
    let v6 = Spec { v6: true, ..tcp() };
    assert!(!pair(&v6, &with(v6.next(), |spec| spec.flow_label += 1)));
    assert!(!pair(&v6, &Spec { v6: false, ..v6.next() }));
}

#[test]
fn ethernet_addresses_must_match() {
    for at in [5, 11] {
        let mut burst = Burst::of(&flow(&udp(), 2));
        burst.0[1].1[at] ^= 1;
        assert_eq!(join_for(&burst, Offloads::ALL), [[0], [1]]);
    }
}

#[test]
fn congestion_that_a_router_noted_is_kept() {
    for v6 in [false, true] {
        let first = Spec { v6, class: 2, ..tcp() };
        assert!(pair(&first, &first.next()));
        assert!(!pair(&first, &Spec { class: 3, ..first.next() }));
    }
}

#[test]
fn an_id_counts_where_a_packet_may_be_fragmented() {
    let first = Spec { may_fragment: true, id: u16::MAX, ..udp() };
    assert!(pair(&first, &first.next()));
    for id in [first.id, first.id.wrapping_add(2)] {
        assert!(!pair(&first, &Spec { id, ..first.next() }));
        assert!(pair(&udp(), &Spec { id, ..udp().next() }));
    }
    assert!(!pair(&first, &Spec { may_fragment: false, ..first.next() }));
}

#[test]
fn tcp_is_joined_in_sequence_only() {
    let first = Spec { seq: u32::MAX - 20, ..tcp() };
    assert!(pair(&first, &first.next()));
    for seq in [first.seq, first.next().seq - 1, first.next().seq + 1] {
        assert!(!pair(&first, &Spec { seq, ..first.next() }));
    }
}

#[test]
fn what_tcp_says_beside_must_match() {
    let first = Spec { options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], ..tcp() };
    assert!(pair(&first, &first.next()));
    assert!(!pair(&first, &with(first.next(), |spec| spec.ack += 1)));
    assert!(!pair(&first, &with(first.next(), |spec| spec.window += 1)));
    assert!(!pair(&first, &with(first.next(), |spec| spec.options[7] += 1)));
    assert!(!pair(&first, &with(first.next(), |spec| spec.options.clear())));
    let longest = Spec { options: vec![1; 40], v6: true, tags: 2, ..tcp() };
    assert!(pair(&longest, &longest.next()));
}

#[test]
fn only_plain_segments_of_tcp_are_joined() {
    for extra in [SYN, RST, URG, ECE, flag::CWR] {
        let odd = Spec { flags: flag::ACK | extra, ..tcp() };
        assert!(!pair(&odd, &odd.next()), "{extra:#x}");
        assert!(!pair(&tcp(), &Spec { flags: flag::ACK | extra, ..tcp().next() }), "{extra:#x}");
    }
    let without = Spec { flags: 0, ..tcp() };
    assert!(!pair(&without, &without.next()));
    let mut burst = Burst::of(&flow(&Spec { sums: Sums::Partial, ..tcp() }, 2));
    for (_, frame) in &mut burst.0 {
        frame[34 + 12] |= 1;
    }
    assert_eq!(join_for(&burst, Offloads::ALL), [[0], [1]], "reserved bits");
}

#[test]
fn psh_and_fin_end_a_frame() {
    for end in [flag::PSH, flag::FIN, flag::PSH | flag::FIN] {
        let mut specs = flow(&tcp(), 4);
        specs[1].flags |= end;
        assert_eq!(join(&specs), [[0, 1], [2, 3]]);
        let burst = Burst::of(&specs);
        let mut coalescer = Coalescer::default();
        let plan = coalescer.plan(&burst, Offloads::ALL, 0).unwrap();
        let Some(Out::Joined(joined)) = plan.outs().next() else { panic!() };
        assert_eq!(joined.head()[34 + 13], flag::ACK | end);
        specs[0].flags |= end;
        assert_eq!(join(&specs), [vec![0], vec![1], vec![2, 3]]);
    }
}

#[test]
fn tunnels_are_left_alone() {
    for to_port in [4789, 8472] {
        let tunnel = Spec { to_port, ..udp() };
        assert!(!pair(&tunnel, &tunnel.next()));
        let tcp = Spec { to_port, ..tcp() };
        assert!(pair(&tcp, &tcp.next()));
    }
}

#[test]
fn options_of_ipv4_and_padding_go_alone() {
    let options = Spec { ip_options: vec![1; 4], ..udp() };
    assert!(!pair(&options, &options.next()));
    let mut burst = Burst::of(&flow(&Spec { payload: vec![1; 4], ..udp() }, 2));
    assert_eq!(join_for(&burst, Offloads::ALL), [[0, 1]]);
    for (_, frame) in &mut burst.0 {
        frame.resize(60, 0);
    }
    assert_eq!(join_for(&burst, Offloads::ALL), [[0], [1]]);
}

#[test]
fn the_reserved_bit_of_ipv4_goes_alone() {
    let mut burst = Burst::of(&flow(&udp(), 2));
    for (_, frame) in &mut burst.0 {
        frame[14 + 6] |= 0x80;
        // And a checksum to match.
        let sum = update(u16::from_be_bytes([frame[24], frame[25]]), 0x4000, 0xc000);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    assert_eq!(join_for(&burst, Offloads::ALL), [[0], [1]]);
}
