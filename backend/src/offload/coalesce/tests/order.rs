//! The packets of a flow keep their order, and every frame is sent once.

use super::super::super::Segmentation;
use super::super::super::testing::{Burst, Spec, Sums};
use super::super::*;
use super::{flow, join, join_for, outs_of, tcp, udp};

const URG: u8 = 0x20;

#[test]
fn flows_that_alternate_are_joined_each() {
    let [a, b] = [1000, 1001].map(|port| flow(&Spec { port, ..udp() }, 3));
    let [a1, a2, a3, b1, b2, b3] = [&a[0], &a[1], &a[2], &b[0], &b[1], &b[2]].map(Clone::clone);
    assert_eq!(join(&[a1, b1, a2, b2, b3, a3]), [[0, 2, 5], [1, 3, 4]]);
}

#[test]
fn a_frame_to_be_cut_goes_alone_and_keeps_its_place() {
    let specs = flow(&Spec { sums: Sums::Partial, ..tcp() }, 5);
    let mut burst = Burst::of(&specs);
    burst.0[2].0 = NetHeader::segmented(Segmentation::TcpV4, 50, 54, 34, 16);
    assert_eq!(join_for(&burst, Offloads::ALL), [vec![0, 1], vec![2], vec![3, 4]]);
}

#[test]
fn what_cannot_be_joined_is_not_overtaken() {
    let mut specs = flow(&tcp(), 5);
    specs[2].flags |= URG;
    assert_eq!(join(&specs), [vec![0, 1], vec![2], vec![3, 4]]);
    let mut other = flow(&udp(), 4);
    other.insert(2, Spec { sums: Sums::None, ..udp() });
    assert_eq!(join(&other), [vec![0, 1], vec![2], vec![3, 4]]);
}

#[test]
fn nothing_passes_a_frame_of_an_unknown_flow() {
    let specs = flow(&udp(), 5);
    for (at, byte) in [(12, 0x88), (14, 0x46), (20, 0x20), (21, 1), (23, 1)] {
        let mut burst = Burst::of(&specs);
        burst.0[2].1[at] = byte;
        assert_eq!(join_for(&burst, Offloads::ALL), [vec![0, 1], vec![2], vec![3, 4]], "{byte:#x} at {at}");
    }
}

#[test]
fn nothing_is_left_of_another_burst() {
    let mut coalescer = Coalescer::default();
    let [a, b] = [1000, 1001].map(|port| flow(&Spec { port, ..udp() }, 3));
    assert!(coalescer.plan(&Burst::of(&a), Offloads::ALL, 0).is_some());
    assert!(coalescer.plan(&Burst::of(&a[..1]), Offloads::ALL, 0).is_none());
    let mixed = [a[2].clone(), b[0].clone()];
    assert!(coalescer.plan(&Burst::of(&mixed), Offloads::ALL, 0).is_none());
    let plan = coalescer.plan(&Burst::of(&b), Offloads::ALL, 0).unwrap();
    assert_eq!(outs_of(plan), [[0, 1, 2]]);
}

#[test]
fn what_was_sent_ahead_is_not_sent_again() {
    let [a, b] = [1000, 1001].map(|port| flow(&Spec { port, ..udp() }, 2));
    let burst = Burst::of(&[a[0].clone(), b[0].clone(), a[1].clone(), b[1].clone()]);
    let mut coalescer = Coalescer::default();
    let plan = coalescer.plan(&burst, Offloads::ALL, 0).unwrap();
    assert_eq!(outs_of(plan), [[0, 2], [1, 3]]);
    assert_eq!(plan.settled(0), Settled { done: 0, ahead: 0 });
    assert_eq!(plan.settled(2), Settled { done: 4, ahead: 0 });
    let settled = plan.settled(1);
    assert_eq!(settled, Settled { done: 1, ahead: 0b10 });
    let rest = Burst(burst.0[settled.done..].to_vec());
    let plan = coalescer.plan(&rest, Offloads::ALL, settled.ahead).unwrap();
    // The frame that was sent stands between.
    assert_eq!(outs_of(plan), [[0], [2]]);
    assert_eq!(plan.settled(1), Settled { done: 2, ahead: 0 });
    let all = Burst::of(&flow(&udp(), MAX_FRAMES));
    let plan = coalescer.plan(&all, Offloads::ALL, 0).unwrap();
    assert_eq!(plan.settled(1), Settled { done: MAX_FRAMES, ahead: 0 });
}
