//! What holds of joining and cutting whatever comes: one undoes the other, and nothing breaks.

use proptest::collection::vec;
use proptest::prelude::*;

use super::packet::flag;
use super::testing::{Burst, Spec, Sums, is_good, kinds, segmented, written};
use super::{Coalescer, MAX_FRAMES, NetHeader, Offloads, Out, Packet, Segments, Version};

const NO_CSUM: Offloads = Offloads { csum: false, ..Offloads::ALL };

/// A step of a flow: which flow, and how its next packet differs from what would follow.
#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    payload: usize,
    flags: u8,
    id_skip: u16,
    other: u8,
    sums: Sums,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload = prop_oneof![4 => Just(200_usize), 1 => 0..300usize, 1 => Just(1400)];
    let flags = prop_oneof![8 => Just(flag::ACK), 1 => Just(flag::ACK | flag::PSH), 1 => any::<u8>()];
    let id_skip = prop_oneof![9 => Just(0), 1 => any::<u16>()];
    let other = prop_oneof![12 => Just(0), 1 => any::<u8>()];
    let sums = prop_oneof![4 => Just(Sums::Partial), 4 => Just(Sums::Whole), 1 => Just(Sums::None)];
    let step = (0..8usize, payload, flags, id_skip, other, sums);
    let step = step.prop_map(|(flow, payload, flags, id_skip, other, sums)| Step {
        flow,
        payload,
        flags,
        id_skip,
        other,
        sums,
    });
    // Runs of one flow as well as a mixture.
    vec((step, 1..6usize), 1..MAX_FRAMES).prop_map(|runs| {
        let steps = runs.into_iter().flat_map(|(step, n)| std::iter::repeat_n(step, n));
        steps.take(MAX_FRAMES).collect()
    })
}

/// The packets of some flows of every kind.
fn packets(steps: &[Step]) -> Vec<Spec> {
    let mut flows: Vec<_> = (0..8_u16)
        .map(|n| Spec {
            v6: n & 1 != 0,
            udp: n & 2 != 0,
            tags: n / 4,
            may_fragment: n & 4 != 0,
            seq: u32::MAX - 1000,
            payload: vec![],
            options: if n & 4 != 0 { vec![1; 12] } else { vec![] },
            ..Spec::default()
        })
        .collect();
    let mut count = 0;
    let specs = steps.iter().map(|step| {
        let flow = &mut flows[step.flow];
        *flow = flow.next();
        flow.id = flow.id.wrapping_add(step.id_skip);
        flow.flags = step.flags;
        flow.sums = step.sums;
        count += 1;
        flow.payload = (0..step.payload).map(|byte| (byte + count) as u8).collect();
        match step.other {
            1..40 => flow.ack += 1,
            40..80 => flow.ttl -= 1,
            80..120 => flow.window += 1,
            120..160 => flow.class ^= 1,
            160..200 => flow.flow_label ^= 1,
            _ => {}
        }
        flow.clone()
    });
    specs.collect()
}

/// The frame without what RFC 6864 lets change: the identification of a packet that says "do not fragment", and the
/// checksum that depends on it.
fn without_free_id(mut frame: Vec<u8>) -> Vec<u8> {
    let Ok(Packet { ip, version: Version::V4, .. }) = Packet::parse(&frame) else { return frame };
    if frame[ip + 6] & 0x40 != 0 {
        frame[ip + 4..ip + 6].fill(0);
        frame[ip + 10..ip + 12].fill(0);
    }
    frame
}

proptest! {
    /// Joining and cutting up again gives every packet, and those of a flow in their order.
    #[test]
    fn cutting_undoes_joining(steps in steps(), spoilt in vec(any::<prop::sample::Index>(), 0..3)) {
        let specs = packets(&steps);
        let mut burst = Burst::of(&specs);
        for at in spoilt {
            let at = at.index(specs.len());
            // A checksum that was left to the receiver would make this good.
            if specs[at].sums != Sums::Partial && !specs[at].payload.is_empty() {
                *burst.0[at].1.last_mut().unwrap() ^= 0x55;
            }
        }
        let mut coalescer = Coalescer::default();
        let mut received: Vec<(usize, Vec<u8>)> = Vec::new();
        if let Some(plan) = coalescer.plan(&burst, Offloads::ALL, 0) {
            for out in plan.outs() {
                match out {
                    Out::Alone(at) => received.push((at, burst.finished(at))),
                    Out::Joined(joined) => {
                        let mut frame = joined.head().to_vec();
                        for part in joined.parts() {
                            frame.extend(&burst.0[part.frame].1[part.bytes]);
                        }
                        prop_assert_eq!(frame.len(), joined.frame_len());
                        prop_assert!(frame.len() <= 65_535 && joined.segments() > 1);
                        let header = *joined.header();
                        prop_assert_eq!(header.judge_from_guest(frame.len(), Offloads::ALL), Ok(()));
                        let segments: Vec<_> = Segments::new(&header, &frame, NO_CSUM).unwrap().collect();
                        prop_assert_eq!(segments.len(), joined.segments());
                        for (part, segment) in joined.parts().zip(segments) {
                            let packet = written(&segment);
                            prop_assert!(is_good(&packet));
                            received.push((part.frame, packet));
                        }
                    }
                }
            }
        } else {
            received.extend((0..specs.len()).map(|at| (at, burst.finished(at))));
        }
        prop_assert_eq!(received.len(), specs.len());
        for flow in 0..8 {
            let order: Vec<_> = received.iter().map(|(at, _)| *at).filter(|at| steps[*at].flow == flow).collect();
            prop_assert!(order.is_sorted(), "{:?}", order);
        }
        received.sort_by_key(|(at, _)| *at);
        for (at, (number, packet)) in received.into_iter().enumerate() {
            prop_assert_eq!(number, at);
            prop_assert_eq!(without_free_id(packet), without_free_id(burst.finished(at)), "packet {}", at);
        }
    }

    /// Whatever a guest writes, nothing breaks.
    #[test]
    fn any_frame_and_header_may_be_cut(
        header: [u8; 12],
        spec in prop::sample::select(kinds()),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        matching: bool,
    ) {
        let mut frame = spec.frame();
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let mut header = NetHeader(header);
        if matching {
            let size = header.gso_size();
            header = segmented(&spec, size);
        }
        if let Ok(segments) = Segments::new(&header, &frame, NO_CSUM) {
            let mut payload = Vec::new();
            for segment in segments {
                prop_assert!(segment.payload.len() <= header.gso_size());
                payload.extend(segment.payload);
            }
            prop_assert!(frame.ends_with(&payload));
        }
    }

    /// The same for what is to be joined.
    #[test]
    fn any_frames_may_be_joined(
        frames in vec((any::<[u8; 12]>(), prop::sample::select(kinds()), vec((0..80usize, any::<u8>()), 0..3)), 0..20),
    ) {
        let mut burst = Burst::default();
        for (header, spec, changes) in frames {
            let mut frame = spec.frame();
            for (at, byte) in changes {
                frame[at] = byte;
            }
            let header = if header[0] < 200 { spec.header() } else { NetHeader(header) };
            frame.truncate(usize::from(header.0[11]) * 4 + 42);
            burst.0.push((header, frame));
        }
        let mut coalescer = Coalescer::default();
        if let Some(plan) = coalescer.plan(&burst, Offloads::ALL, 0) {
            let frames = plan.outs().map(|out| match out {
                Out::Alone(_) => 1,
                Out::Joined(joined) => joined.parts().count(),
            });
            prop_assert_eq!(frames.sum::<usize>(), burst.0.len());
        }
    }
}
