use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::memory::{MemoryTable, RegionInfo, copy_to_guest, memfd};
use crate::offload::testing::{Spec, Sums};
use crate::offload::{HEADER_LEN, MAX_FRAMES};
use crate::ring::Taken;
use crate::uplink::Judged;

/// Bytes between the places of two frames in guest memory.
const STRIDE: u64 = 512;

/// An uplink that answers as it is told, then takes everything. The last two payload bytes of a packet are its number.
#[derive(Default)]
struct Script {
    answers: Vec<Sent>,
    sent: Vec<u16>,
    lost: Vec<u16>,
    joined: usize,
}

impl Script {
    fn settle(&mut self, packets: &[u16], alone: bool) -> Sent {
        let answer = self.answers.pop().unwrap_or(Sent::Done);
        match answer {
            Sent::Done => self.sent.extend(packets),
            Sent::Refused if !alone => {}
            Sent::Refused | Sent::Down => self.lost.extend(packets),
            _ => {}
        }
        answer
    }
}

impl Sink for Script {
    fn send(&mut self, frame: &TxFrame<'_>) -> Sent {
        let mut number = [0; 2];
        frame.copy(frame.len - 2, &mut number);
        self.settle(&[u16::from_be_bytes(number)], true)
    }

    fn send_joined(&mut self, joined: &Joined<'_>, burst: &TxBurst<'_>) -> Sent {
        let mut whole = Vec::new();
        joined.gather(burst, &mut whole);
        assert_eq!(whole.len(), joined.frame_len());
        let payload = whole[joined.head().len()..].chunks(joined.segment_len());
        let numbers: Vec<_> = payload.map(|part| u16::from_be_bytes(*part.last_chunk().unwrap())).collect();
        assert_eq!(numbers.len(), joined.segments());
        self.joined += 1;
        self.settle(&numbers, false)
    }
}

/// What is left of a burst, and what was sent of it.
struct Sending {
    table: Arc<MemoryTable>,
    specs: Vec<Spec>,
    done: usize,
    ahead: u64,
}

impl Sending {
    fn new(flows: &[u16]) -> Self {
        let size = STRIDE * flows.len() as u64;
        let info = RegionInfo { guest_address: 0, size, user_address: 0, mmap_offset: 0 };
        let table = Arc::new(MemoryTable::default().with_region(info, memfd(size).unwrap()).unwrap());
        let mut next: Vec<Spec> =
            (0..8).map(|flow| Spec { port: flow, udp: flow % 2 == 1, ..Spec::default() }).collect();
        let mut specs = Vec::new();
        for (number, flow) in (0u16..).zip(flows) {
            let spec = &mut next[usize::from(*flow)];
            spec.payload = [&[*flow as u8; 20][..], &number.to_be_bytes()].concat();
            spec.sums = if flow % 3 == 0 { Sums::Partial } else { Sums::Whole };
            specs.push(spec.clone());
            *spec = spec.next();
        }
        let sending = Self { table, specs, done: 0, ahead: 0 };
        let taken = sending.taken();
        for (at, spec) in sending.specs.iter().enumerate() {
            copy_to_guest(&[&[0; HEADER_LEN][..], &spec.frame()].concat(), taken.slices_of(at), 0);
        }
        sending
    }

    /// The chains that are not done.
    fn taken(&self) -> Taken {
        let places = self.specs.iter().enumerate().skip(self.done);
        let buffers = places.map(|(at, spec)| (at as u64 * STRIDE, (HEADER_LEN + spec.frame().len()) as u32));
        Taken::of(self.table.clone(), &buffers.collect::<Vec<_>>())
    }

    fn round(&mut self, joiner: &mut Joiner, script: &mut Script) -> Progress {
        self.round_of(MAX_FRAMES, joiner, script)
    }

    fn round_of(&mut self, most: usize, joiner: &mut Joiner, script: &mut Script) -> Progress {
        let taken = self.taken();
        let specs = self.specs[self.done..].iter().take(most);
        let frames: Vec<_> = (0..).zip(specs).map(|(chain, spec)| Judged { header: spec.header(), chain }).collect();
        let (chains, buffers) = (taken.chains(), taken.buffers());
        let burst = TxBurst { frames: &frames, chains, buffers, skip: HEADER_LEN, ahead: self.ahead, heads: &[] };
        let progress = joiner.send(&burst, script);
        self.done += progress.done;
        self.ahead = progress.ahead;
        progress
    }
}

fn answer() -> impl Strategy<Value = Sent> {
    prop_oneof![4 => Just(Sent::Done), 2 => Just(Sent::Full), 1 => Just(Sent::Refused), 1 => Just(Sent::Down)]
}

proptest! {
    /// Whenever the uplink is full, refuses or is down, every packet is dealt with once, and a flow keeps its order.
    #[test]
    fn every_packet_is_dealt_with_once(
        flows in vec(0u16..5, 1..150),
        answers in vec(answer(), 0..60),
        // A ring that was begun again may give fewer than it gave before.
        mosts in vec(1usize..=MAX_FRAMES, 300),
    ) {
        let mut sending = Sending::new(&flows);
        let mut joiner = Joiner::new(Offloads::ALL);
        let mut script = Script { answers, ..Script::default() };
        let (mut packets, mut lost) = (0, 0);
        for most in mosts {
            let progress = sending.round_of(most, &mut joiner, &mut script);
            prop_assert_eq!(progress.packets, progress.segments);
            packets += progress.packets;
            lost += progress.refused + progress.down;
            if sending.done == flows.len() {
                break;
            }
        }
        prop_assert_eq!(sending.done, flows.len());
        // One that would have had to wait after its joined frame was refused is lost and told of.
        prop_assert_eq!(packets, script.sent.len() as u64);
        prop_assert_eq!(packets + lost, flows.len() as u64);
        for flow in 0..5 {
            let order: Vec<_> = script.sent.iter().filter(|at| flows[usize::from(**at)] == flow).collect();
            prop_assert!(order.is_sorted_by(|a, b| a < b), "{:?}", order);
        }
    }
}

#[test]
fn interleaved_flows_are_joined() {
    let flows: Vec<u16> = (0..64).map(|at| at % 4).collect();
    let mut sending = Sending::new(&flows);
    let mut script = Script::default();
    let progress = sending.round(&mut Joiner::new(Offloads::ALL), &mut script);
    assert_eq!((progress.done, progress.packets, script.joined, script.sent.len()), (64, 64, 4, 64));
    assert_eq!(progress.bytes, sending.specs.iter().map(|spec| spec.frame().len() as u64).sum::<u64>());
}

#[test]
fn what_was_sent_ahead_is_not_sent_again() {
    let mut sending = Sending::new(&[0, 1, 0, 1]);
    let mut joiner = Joiner::new(Offloads::ALL);
    // Taken from the end.
    let mut script = Script { answers: vec![Sent::Full, Sent::Done], ..Script::default() };
    let progress = sending.round(&mut joiner, &mut script);
    assert_eq!((progress.done, progress.ahead, progress.end), (1, 0b10, Some(Sent::Full)));
    assert_eq!(script.sent, [0, 2]);
    let progress = sending.round(&mut joiner, &mut script);
    assert_eq!((progress.done, progress.ahead, progress.packets), (3, 0, 2));
    assert_eq!(script.sent, [0, 2, 1, 3]);
}
