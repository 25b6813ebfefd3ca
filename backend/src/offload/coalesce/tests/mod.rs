//! Every rule by its name. That joined packets come apart again is tested with the segmentation.

mod checksums;
mod fields;
mod order;

use super::super::testing::{Burst, Spec, Sums};
use super::super::{NetHeader, Segmentation};
use super::*;

/// The frames of each piece that is sent.
fn outs_of(plan: Plan<'_>) -> Vec<Vec<usize>> {
    plan.outs()
        .map(|out| match out {
            Out::Alone(frame) => vec![frame],
            Out::Joined(joined) => joined.parts().map(|part| part.frame).collect(),
        })
        .collect()
}

fn join_for(burst: &Burst, takes: Offloads) -> Vec<Vec<usize>> {
    let mut coalescer = Coalescer::default();
    match coalescer.plan(burst, takes, 0) {
        None => (0..burst.count()).map(|frame| vec![frame]).collect(),
        Some(plan) => outs_of(plan),
    }
}

fn join(specs: &[Spec]) -> Vec<Vec<usize>> {
    join_for(&Burst::of(specs), Offloads::ALL)
}

/// Whether the second of two packets is joined to the first.
fn pair(first: &Spec, second: &Spec) -> bool {
    join(&[first.clone(), second.clone()]) == [[0, 1]]
}

fn tcp() -> Spec {
    Spec::default()
}

fn udp() -> Spec {
    Spec { udp: true, ..Spec::default() }
}

/// A flow of `n` packets.
fn flow(first: &Spec, n: usize) -> Vec<Spec> {
    std::iter::successors(Some(first.clone()), |spec| Some(spec.next())).take(n).collect()
}

fn with(spec: Spec, change: impl FnOnce(&mut Spec)) -> Spec {
    let mut spec = spec;
    change(&mut spec);
    spec
}

#[test]
fn packets_of_a_flow_are_joined() {
    for udp in [false, true] {
        for v6 in [false, true] {
            for tags in 0..=2 {
                for sums in [Sums::Whole, Sums::Partial] {
                    let first = Spec { udp, v6, tags, sums, ..Spec::default() };
                    assert_eq!(join(&flow(&first, 3)), [[0, 1, 2]], "{first:?}");
                }
            }
        }
    }
}

#[test]
fn the_joined_frame_says_how_to_cut_it() {
    for (first, kind) in [
        (tcp(), Segmentation::TcpV4),
        (Spec { v6: true, tags: 1, ..tcp() }, Segmentation::TcpV6),
        (udp(), Segmentation::Udp),
    ] {
        let burst = Burst::of(&flow(&first, 3));
        let mut coalescer = Coalescer::default();
        let plan = coalescer.plan(&burst, Offloads::ALL, 0).unwrap();
        let Some(Out::Joined(joined)) = plan.outs().next() else { panic!("{first:?}") };
        let (start, header_len) = (first.transport(), if first.udp { 8 } else { 20 });
        let csum_offset = if first.udp { 6 } else { 16 };
        let header = NetHeader::segmented(kind, 100, start + header_len, start, csum_offset);
        assert_eq!(*joined.header(), header, "{first:?}");
        let whole = Spec { payload: vec![0; 300], sums: Sums::Partial, ..first.clone() }.frame();
        assert_eq!(joined.head(), &whole[..start + header_len], "{first:?}");
        assert_eq!((joined.frame_len(), joined.segments()), (whole.len(), 3));
        let parts: Vec<_> = joined.parts().collect();
        let bytes = start + header_len..start + header_len + 100;
        assert_eq!(parts, [0, 1, 2].map(|frame| Part { frame, bytes: bytes.clone() }));
    }
}

#[test]
fn only_what_the_receiver_cuts_is_joined() {
    type Take = fn(&mut Offloads) -> &mut bool;
    let kinds: [(bool, bool, Take); 4] = [
        (false, false, |takes| &mut takes.tso4),
        (false, true, |takes| &mut takes.tso6),
        (true, false, |takes| &mut takes.uso4),
        (true, true, |takes| &mut takes.uso6),
    ];
    for (udp, v6, kind) in kinds {
        let burst = Burst::of(&flow(&Spec { udp, v6, ..Spec::default() }, 2));
        let mut only = Offloads { csum: true, ..Offloads::default() };
        *kind(&mut only) = true;
        assert_eq!(join_for(&burst, only), [[0, 1]]);
        let mut others = Offloads::ALL;
        *kind(&mut others) = false;
        assert_eq!(join_for(&burst, others), [[0], [1]]);
        assert_eq!(join_for(&burst, Offloads { csum: false, ..only }), [[0], [1]]);
    }
}

#[test]
fn segments_without_data_go_alone() {
    for empty in [Spec { payload: vec![], ..tcp() }, Spec { payload: vec![], ..udp() }] {
        assert!(!pair(&empty, &empty.next()));
        let full = Spec { udp: empty.udp, ..tcp() };
        assert!(!pair(&full, &Spec { payload: vec![], ..full.next() }));
    }
}

#[test]
fn all_but_the_last_are_of_one_length() {
    for first in [tcp(), udp()] {
        let mut specs = vec![first];
        for len in [100, 99, 100, 100, 101, 101] {
            specs.push(Spec { payload: vec![1; len], ..specs.last().unwrap().next() });
        }
        assert_eq!(join(&specs), [vec![0, 1, 2], vec![3, 4], vec![5, 6]]);
    }
}

#[test]
fn a_joined_frame_is_no_longer_than_a_packet_can_be() {
    for spec in [tcp(), udp(), Spec { v6: true, ..tcp() }, Spec { v6: true, tags: 2, ..udp() }] {
        let first = Spec { payload: vec![1; 9000], sums: Sums::Partial, ..spec };
        let outs = join(&flow(&first, 10));
        assert_eq!(outs, [(0..7).collect::<Vec<_>>(), (7..10).collect()], "{first:?}");
        // To the byte.
        let headers = Spec { payload: vec![], ..first.clone() }.frame().len();
        let rest = 65_535 - headers - 7 * 9000;
        for (len, together) in [(rest, true), (rest + 1, false)] {
            let mut specs = flow(&first, 7);
            specs.push(Spec { payload: vec![1; len], ..specs[6].next() });
            assert_eq!(join(&specs).len() == 1, together, "{len} behind {headers}");
        }
    }
}

#[test]
fn a_burst_can_become_one_frame() {
    let outs = join(&flow(&udp(), MAX_FRAMES));
    assert_eq!(outs, [(0..MAX_FRAMES).collect::<Vec<_>>()]);
    // What is behind is no part of the plan.
    assert_eq!(join(&flow(&udp(), MAX_FRAMES + 3)), outs);
}
