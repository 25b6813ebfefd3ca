//! Frames of a hostile guest, with whatever virtio-net header, on their way to an uplink and to a guest.
//!
//! What must hold: no panic; what is joined lies inside its frames, each of which is sent once; headers of what is
//! joined, cut or finished fit what they are sent with, whatever becomes of the guest's memory meanwhile.

mod check;
mod frames;

use arbitrary::Arbitrary;
use vnicd::offload::{
    Coalescer, Cut, Frames, Joined, MAX_FRAMES, NetHeader, Offloads, Out, Packet, Plan, Segments, complete, finish, pad,
};

use check::{assert_left, assert_whole};
use frames::{Change, Flows, Hostile, Spec};

/// Bursts of frames.
#[derive(Arbitrary, Debug)]
pub struct Case {
    bursts: Vec<Burst>,
}

#[derive(Arbitrary, Debug)]
struct Burst {
    /// What the receiver does not take, a bit for each.
    lacks: u8,
    specs: Vec<Spec>,
    changes: Vec<Change>,
    /// Pieces that are sent before the rest is planned anew.
    sent: Option<u8>,
}

impl Burst {
    fn takes(&self) -> Offloads {
        let takes = |bit: u8| self.lacks >> bit & 1 == 0;
        let (csum, ecn) = (takes(0), takes(3));
        Offloads { csum, ecn, tso4: takes(1), tso6: takes(2), uso4: takes(4), uso6: takes(5) }
    }
}

/// Runs a case.
pub fn run(case: &Case) {
    let (mut coalescer, mut flows) = (Coalescer::default(), Flows::default());
    for burst in case.bursts.iter().take(4) {
        let frames: Vec<_> = burst.specs.iter().take(MAX_FRAMES + 6).map(|spec| flows.next(spec)).collect();
        frames.iter().for_each(|(header, frame)| alone(*header, frame, burst.takes()));
        together(&mut coalescer, Hostile::new(frames, &burst.changes), burst);
    }
}

/// A frame by itself: judged, finished and cut, in both directions.
fn alone(header: NetHeader, frame: &[u8], takes: Offloads) {
    let parsed = Packet::parse(frame);
    if let Ok(packet) = parsed {
        assert!(packet.ip < packet.transport && packet.transport < packet.payload && packet.payload <= frame.len());
    }
    let inside = |header: &NetHeader| header.checksum().is_none_or(|(start, offset)| start + offset + 2 <= frame.len());
    let [low @ .., a, b, c, d] = header.0;
    let from_guest = NetHeader::from_driver(u64::from_le_bytes(low), u32::from_le_bytes([a, b, c, d]));
    assert!(from_guest.judge_from_guest(frame.len(), takes).is_err() || inside(&from_guest));
    let mut for_guest = header;
    assert!(for_guest.judge_for_guest(frame.len(), takes).is_err() || inside(&for_guest));
    let expected = header.segments(frame.len(), |at| frame.get(at).copied().unwrap_or(0));
    assert!((1..=frame.len().max(1)).contains(&expected));

    let none = Offloads::default();
    let (mut finished, mut whole) = (header, frame.to_vec());
    match finish(&mut finished, &mut whole, none) {
        Ok(()) => assert!(finished == NetHeader::default() && !header.is_segmented() && inside(&header)),
        Err(_) => assert!(whole == frame && finished == header),
    }
    if let Some((start, offset)) = header.checksum() {
        assert_eq!(complete(&mut frame.to_vec(), start, offset), inside(&header));
    }
    let mut padded = [0xaa; 80];
    let len = frame.len().min(80);
    let padded_len = pad(&mut padded, len);
    assert!(padded_len == len.max(60) && padded[len..padded_len].iter().all(|byte| *byte == 0));

    for takes in [none, takes] {
        let Ok(segments) = Segments::new(&header, frame, takes) else { continue };
        let packet = parsed.expect("only a packet is cut");
        let (mut at, mut room, mut count) = (packet.payload, vec![0; frame.len()], 0);
        for segment in segments {
            let len = segment.write_to(&mut room).expect("a segment is no longer than its frame");
            let bytes = &mut room[..len];
            assert_eq!(bytes[packet.payload..], frame[at..at + len - packet.payload]);
            let mut header = segment.header;
            assert!(!header.is_segmented());
            if takes.csum {
                assert_left(&header, bytes);
                finish(&mut header, bytes, none).expect("a segment can be finished");
            }
            assert_eq!(header, NetHeader::default());
            assert_whole(bytes);
            at += len - packet.payload;
            count += 1;
        }
        assert_eq!(at, frame.len(), "all of the payload");
        assert_eq!(count, expected, "as many as were counted");
        in_place(&header, frame, takes);
    }
}

/// What is cut in the place where the frame lies is the same.
fn in_place(header: &NetHeader, frame: &[u8], takes: Offloads) {
    let mut room = frame.to_vec();
    let mut cut = Cut::new(header, frame, takes).expect("it was cut before");
    for segment in Segments::new(header, frame, takes).expect("it was cut before") {
        assert!(!cut.is_done());
        let (header, place) = cut.next_in(&mut room).expect("as many segments");
        assert_eq!(header, segment.header);
        assert!(room[place] == [segment.head(), segment.payload].concat());
    }
    assert!(cut.is_done() && cut.next_in(&mut room).is_none());
}

/// Frames of a burst, sent up to a point and then from there on, as when an uplink is full.
fn together(coalescer: &mut Coalescer, mut frames: Hostile<'_>, burst: &Burst) {
    let takes = burst.takes();
    let mut ahead = 0;
    if let Some(sent) = burst.sent {
        let Some(plan) = coalescer.plan(&frames, takes, 0) else { return };
        check_plan(&plan, &frames, takes, 0);
        let outs = plan.outs().count();
        let mut last = 0;
        for out in 0..=outs {
            let settled = plan.settled(out);
            let now = settled.done as u32 + settled.ahead.count_ones();
            assert!(now >= last && settled.done <= frames.count().min(MAX_FRAMES) && settled.ahead & 1 == 0);
            last = now;
        }
        assert_eq!(last as usize, frames.count().min(MAX_FRAMES), "everything is sent in the end");
        let settled = plan.settled(outs.min(sent.into()));
        frames.settle(settled.done);
        ahead = settled.ahead;
    }
    if let Some(plan) = coalescer.plan(&frames, takes, ahead) {
        check_plan(&plan, &frames, takes, ahead);
    }
}

/// Every frame is sent once, those ahead not at all.
fn check_plan(plan: &Plan<'_>, frames: &Hostile<'_>, takes: Offloads, ahead: u64) {
    let mut sent = ahead;
    let mut send = |frame: usize| {
        assert!(frame < frames.count().min(MAX_FRAMES) && sent >> frame & 1 == 0, "frame {frame} is sent again");
        sent |= 1 << frame;
    };
    for out in plan.outs() {
        match out {
            Out::Alone(frame) => send(frame),
            Out::Joined(joined) => {
                joined.parts().for_each(|part| send(part.frame));
                check_joined(joined, frames, takes);
            }
        }
    }
    assert_eq!(sent.count_ones() as usize, frames.count().min(MAX_FRAMES));
    assert_eq!(sent.trailing_ones(), sent.count_ones());
}

fn check_joined(joined: Joined<'_>, frames: &Hostile<'_>, takes: Offloads) {
    let mut frame = joined.head().to_vec();
    for part in joined.parts() {
        let mut bytes = vec![0; part.bytes.len()];
        assert!(part.bytes.start == joined.head().len() && part.bytes.end == frames.frame_len(part.frame));
        assert!(!frames.header(part.frame).is_segmented());
        assert_eq!(frames.copy(part.frame, part.bytes.start, &mut bytes), bytes.len());
        frame.extend(bytes);
    }
    assert!(frame.len() == joined.frame_len() && frame.len() <= 65_535);
    assert!(joined.segments() > 1 && joined.segments() == joined.parts().count());
    assert_eq!(joined.header().judge_from_guest(frame.len(), takes), Ok(()));
    assert_left(joined.header(), &frame);
    let segments = Segments::new(joined.header(), &frame, Offloads::default()).expect("it can be cut");
    assert_eq!(segments.count(), joined.segments());
}
