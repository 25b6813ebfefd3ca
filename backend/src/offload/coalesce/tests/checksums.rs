//! A joined packet has a checksum that fits: so must have had those that it was made of.

use super::super::super::testing::{Burst, Spec, Sums};
use super::super::*;
use super::{flow, join_for, pair, tcp, udp};

#[test]
fn udp_without_a_checksum_goes_alone() {
    for v6 in [false, true] {
        let none = Spec { v6, sums: Sums::None, ..udp() };
        assert!(!pair(&none, &none.next()));
        assert!(!pair(&Spec { v6, ..udp() }, &Spec { v6, sums: Sums::None, ..udp().next() }));
    }
}

#[test]
fn spoilt_packets_are_not_made_good() {
    for first in [tcp(), udp()] {
        for spoilt in 0..3 {
            let mut burst = Burst::of(&flow(&first, 3));
            *burst.0[spoilt].1.last_mut().unwrap() ^= 1;
            let rest: [&[Vec<usize>]; 3] =
                [&[vec![0], vec![1, 2]], &[vec![0], vec![1], vec![2]], &[vec![0, 1], vec![2]]];
            assert_eq!(join_for(&burst, Offloads::ALL), rest[spoilt]);
        }
        let mut burst = Burst::of(&flow(&first, 2));
        burst.0[1].1[14 + 10] ^= 1;
        assert_eq!(join_for(&burst, Offloads::ALL), [[0], [1]], "checksum of IPv4");
    }
}

#[test]
fn a_checksum_left_to_the_receiver_must_be_prepared_rightly() {
    for first in [tcp(), udp()] {
        let first = Spec { sums: Sums::Partial, ..first };
        let (start, offset) = first.header().checksum().unwrap();
        let headers = [
            NetHeader::unfinished(start + 2, offset),
            NetHeader::unfinished(start, offset - 2),
            NetHeader::unfinished(start - 2, offset + 2),
        ];
        for wrong in headers {
            let mut burst = Burst::of(&flow(&first, 2));
            burst.0[1].0 = wrong;
            assert_eq!(join_for(&burst, Offloads::ALL), [[0], [1]]);
        }
        let mut burst = Burst::of(&flow(&first, 2));
        burst.0[1].1[start + offset] ^= 1;
        assert_eq!(join_for(&burst, Offloads::ALL), [[0], [1]]);
    }
}

#[test]
fn whole_and_prepared_checksums_can_be_mixed() {
    let first = Spec { sums: Sums::Partial, ..udp() };
    assert!(pair(&first, &Spec { sums: Sums::Whole, ..first.next() }));
}
