//! Every field of the virtio-net header at its extremes (virtio 1.3, 5.1.6): whatever a guest says of its frame, what
//! is done to it stays inside.

use super::testing::{Burst, Spec, is_good, kinds, written};
use super::{Coalescer, NetHeader, Offloads, Out, Packet, Segments, finish};

const NO_CSUM: Offloads = Offloads { csum: false, ..Offloads::ALL };
const FLAGS: [u8; 4] = [0, 1, 2, 0xff];
const GSO_TYPES: [u8; 8] = [0, 1, 3, 4, 5, 0x80, 0x81, 0xff];

/// Places at the edges of a frame and of a field.
fn places(spec: &Spec, len: usize) -> Vec<u16> {
    let inside = [0, 1, 14, spec.transport(), len - 3, len - 2, len - 1, len].map(|place| place as u16);
    [&inside[..], &[0x7fff, 0x8000, 0xfffe, 0xffff]].concat()
}

fn headers(hdr_lens: &[u16], sizes: &[u16], starts: &[u16], offsets: &[u16], mut each: impl FnMut(NetHeader)) {
    for (flags, gso_type) in FLAGS.iter().flat_map(|flags| GSO_TYPES.map(|gso_type| (*flags, gso_type))) {
        for (hdr_len, size) in hdr_lens.iter().flat_map(|hdr_len| sizes.iter().map(move |size| (hdr_len, size))) {
            for (start, offset) in starts.iter().flat_map(|start| offsets.iter().map(move |offset| (start, offset))) {
                let mut bytes = vec![flags, gso_type];
                [hdr_len, size, start, offset].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
                each(NetHeader([&bytes[..], &[0xff; 2]].concat().try_into().unwrap()));
            }
        }
    }
}

/// All that is done to a frame by itself, in both directions.
fn do_all(header: NetHeader, frame: &[u8]) {
    let inside = header.checksum().is_none_or(|(start, offset)| start + offset + 2 <= frame.len());
    assert!(inside || header.judge_from_guest(frame.len(), Offloads::ALL).is_err(), "{header:?}");
    assert!(inside || { header }.judge_for_guest(frame.len(), Offloads::ALL).is_err(), "{header:?}");
    let byte_at = |at: usize| frame.get(at).copied().unwrap_or(0xff);
    assert!((1..=frame.len()).contains(&header.segments(frame.len(), byte_at)));

    let (mut finished, mut bytes) = (header, frame.to_vec());
    let is_finished = finish(&mut finished, &mut bytes, Offloads::default()).is_ok();
    assert_eq!(is_finished, inside && !header.is_segmented(), "{header:?}");
    if !is_finished {
        assert_eq!((finished, &bytes[..]), (header, frame), "{header:?}");
    }
    let Ok(segments) = Segments::new(&header, frame, NO_CSUM) else { return };
    let mut at = Packet::parse(frame).unwrap().payload;
    for segment in segments {
        assert!(is_good(&written(&segment)), "{header:?}");
        assert_eq!(segment.payload, &frame[at..at + segment.payload.len()]);
        at += segment.payload.len();
    }
    assert_eq!(at, frame.len(), "{header:?}");
}

#[test]
fn one_frame_with_any_of_them() {
    for spec in kinds() {
        let frame = spec.frame();
        let places = places(&spec, frame.len());
        let offset = if spec.udp { 6 } else { 16 };
        let sizes = [0, 1, 249, 250, 251, 0x7fff, 0xffff];
        headers(&[0, 0xffff], &sizes, &[spec.transport() as u16], &[offset], |header| do_all(header, &frame));
        headers(&[54], &[0, 100], &places, &places, |header| do_all(header, &frame));
    }
}

#[test]
fn bursts_in_which_one_frame_has_any_of_them() {
    let mut coalescer = Coalescer::default();
    for spec in kinds() {
        let flow: Vec<_> = std::iter::successors(Some(spec.clone()), |spec| Some(spec.next())).take(3).collect();
        let mut burst = Burst::of(&flow);
        let places = places(&spec, burst.0[0].1.len());
        let (fitting, mut joined) = (spec.header().checksum(), 0);
        headers(&[0xffff], &[0, 0xffff], &places, &places[3..], |header| {
            for at in [0, 1] {
                burst.0[at].0 = header;
                let plan = coalescer.plan(&burst, Offloads::ALL, 0);
                let outs: Vec<_> = plan.iter().flat_map(|plan| plan.outs()).collect();
                for out in outs {
                    let Out::Joined(out) = out else { continue };
                    // With such a header only if it says what is the case, or nothing.
                    let has_it = out.parts().any(|part| part.frame == at);
                    let says_so = !header.is_segmented() && header.checksum().is_none_or(|is| Some(is) == fitting);
                    assert!(!has_it || says_so, "{header:?}");
                    joined += 1;
                }
                burst.0[at].0 = spec.header();
            }
        });
        assert!(joined > 0, "the rest of the burst is joined");
    }
}
