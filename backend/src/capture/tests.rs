//! What goes into a ring comes out of it, or is counted; and neither end trusts the other.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::area::Area;
use super::*;
use crate::memory::memfd;
use crate::mode::Time;

const SIZE: usize = 4096;

/// Both ends of a ring of [`SIZE`] bytes, and its memory for whoever scribbles.
fn ring() -> (Producer, Consumer, Area) {
    let file = memfd(Area::len(1, SIZE) as u64).unwrap();
    let map = |file: &File| Area::map(file.try_clone().unwrap(), 1, SIZE).unwrap().pop().unwrap();
    (Producer::new(map(&file)), Consumer::new(map(&file)), map(&file))
}

fn frame(number: u64, kept: usize) -> (Meta, Vec<u8>) {
    let meta = Meta { at: Time::from_nanos(number), to_guest: number.is_multiple_of(3), len: kept as u32 + 7 };
    (meta, (0..kept).map(|at| (at as u64 * 31 + number) as u8).collect())
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Take(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => (0usize..700).prop_map(Step::Push), 1 => (0usize..20).prop_map(Step::Take)];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn what_goes_in_comes_out_and_the_rest_is_counted(steps in steps()) {
        let (mut producer, mut consumer, _) = ring();
        let (mut inside, mut used, mut dropped) = (VecDeque::new(), 0, 0);
        let mut bytes = Vec::new();
        for (number, step) in (0..).zip(steps) {
            match step {
                Step::Push(kept) => {
                    let record = (16 + kept).next_multiple_of(8);
                    let fits = used + record <= SIZE;
                    prop_assert_eq!(producer.makes_room(kept), fits, "{} bytes used", used);
                    if fits {
                        let (meta, bytes) = frame(number, kept);
                        producer.push(&meta, &bytes);
                        used += record;
                        inside.push_back((number, kept));
                    } else {
                        dropped += 1;
                    }
                }
                Step::Take(count) => {
                    consumer.look().unwrap();
                    for _ in 0..count {
                        let expected = inside.pop_front().map(|(number, kept)| frame(number, kept));
                        prop_assert_eq!(consumer.next().unwrap(), expected.as_ref().map(|(meta, _)| *meta));
                        let meta = consumer.take(&mut bytes).unwrap();
                        prop_assert_eq!(meta.map(|meta| (meta, bytes.clone())), expected);
                        used -= meta.map_or(0, |_| (16 + bytes.len()).next_multiple_of(8));
                    }
                }
            }
            prop_assert_eq!(consumer.dropped(), dropped);
        }
    }

    /// The worker writes into the ring and nowhere else, goes on, and goes on dropping what has no room, whatever the other
    /// side says that it read.
    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn a_consumer_that_lies_harms_only_itself(
        tails in proptest::collection::vec(prop_oneof![any::<u64>(), 0u64..20_000, (0u64..9000).prop_map(|n| u64::MAX - n)], 1..100),
        kept in 0usize..700,
    ) {
        // The middle one of three rings.
        let file = memfd(Area::len(3, SIZE) as u64).unwrap();
        let mut others = Area::map(file.try_clone().unwrap(), 3, SIZE).unwrap();
        let mut producer = Producer::new(others.remove(1));
        let scribbler = Area::map(file, 3, SIZE).unwrap().remove(1);
        let (meta, bytes) = frame(1, kept);
        for tail in tails {
            scribbler.tail().store(tail, Ordering::Release);
            for _ in 0..10 {
                if producer.makes_room(kept) {
                    producer.push(&meta, &bytes);
                }
            }
        }
        for other in others {
            let mut bytes = vec![1; SIZE];
            other.read(0, &mut bytes);
            prop_assert!(bytes.iter().all(|byte| *byte == 0));
            prop_assert_eq!(other.head().load(Ordering::Relaxed) | other.dropped().load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn a_ring_of_anything_is_read_without_harm(head in prop_oneof![any::<u64>(), 0u64..5000], junk in any::<[u8; 64]>()) {
        let (_, mut consumer, scribbler) = ring();
        for at in 0..SIZE / junk.len() {
            scribbler.write((at * junk.len()) as u64, &junk);
        }
        scribbler.head().store(head, Ordering::Release);
        let mut bytes = Vec::new();
        if consumer.look().is_ok() {
            while let Ok(Some(_)) = consumer.take(&mut bytes) {
                prop_assert!(bytes.len() <= SIZE);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri maps no files")]
fn threads_at_both_ends_lose_what_they_count() {
    const FRAMES: u64 = 200_000;
    let (mut producer, mut consumer, _) = ring();
    let (done, is_done) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let mut pushed = 0;
        for number in 0..FRAMES {
            let (meta, bytes) = frame(number, number as usize % 300);
            if producer.makes_room(bytes.len()) {
                producer.push(&meta, &bytes);
                pushed += 1;
            }
        }
        done.send(pushed).unwrap();
    });
    let (mut taken, mut last, mut bytes, mut pushed) = (0, None, Vec::new(), None);
    loop {
        pushed = pushed.or_else(|| is_done.try_recv().ok());
        consumer.look().unwrap();
        while let Some(meta) = consumer.take(&mut bytes).unwrap() {
            let number = meta.at.as_nanos();
            assert_eq!((meta, bytes.clone()), frame(number, number as usize % 300));
            assert!(last < Some(number), "{number} after {last:?}");
            (last, taken) = (Some(number), taken + 1);
        }
        if pushed == Some(taken) {
            break;
        }
    }
    writer.join().unwrap();
    assert_eq!(taken + consumer.dropped(), FRAMES);
}

#[test]
#[cfg_attr(miri, ignore = "Miri maps no files")]
fn memory_is_bounded_shared_and_stays() {
    for (rings, size) in [(1, 4 << 20), (4, 4 << 20), (5, 2 << 20), (64, 256 << 10), (MAX_RINGS, 256 << 10)] {
        assert_eq!(ring_size(rings), size, "{rings} rings");
    }
    let (file, mut producers) = create(3).unwrap();
    assert!(file.set_len(0).is_err() && file.set_len(1 << 30).is_err());
    let len = file.metadata().unwrap().len();
    assert!(len < 17 << 20, "{len} bytes");
    let (meta, bytes) = frame(5, 60);
    for producer in &mut producers {
        assert!(producer.makes_room(bytes.len()));
        producer.push(&meta, &bytes);
    }
    let mut got = Vec::new();
    for mut consumer in open(file.try_clone().unwrap(), 3, ring_size(3)).unwrap() {
        consumer.look().unwrap();
        assert_eq!((consumer.take(&mut got).unwrap(), &got), (Some(meta), &bytes));
    }
    for (rings, size) in [(0, 4096), (4, ring_size(3)), (3, 5000), (1, usize::MAX), (usize::MAX, 4096), (3, 0)] {
        assert!(open(file.try_clone().unwrap(), rings, size).is_err(), "{rings} rings of {size} bytes");
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri maps no files")]
fn a_recorder_keeps_the_first_bytes_and_drops_what_has_no_room() {
    let (producer, mut consumer, _) = ring();
    let mut recorder = Recorder::new(producer, 100);
    recorder.set_time(Time::from_nanos(77));
    recorder.record(true, 1500, |bytes| {
        bytes.fill(9);
        bytes.len()
    });
    recorder.record(false, 60, |bytes| {
        bytes.fill(8);
        50
    });
    for _ in 0..100 {
        recorder.record(false, 1500, |bytes| bytes.len());
    }
    consumer.look().unwrap();
    let mut bytes = Vec::new();
    let meta = |to_guest, len| Some(Meta { at: Time::from_nanos(77), to_guest, len });
    assert_eq!((consumer.take(&mut bytes).unwrap(), &bytes[..]), (meta(true, 1500), &[9; 100][..]));
    assert_eq!((consumer.take(&mut bytes).unwrap(), &bytes[..]), (meta(false, 60), &[8; 50][..]));
    let mut more = 0;
    while consumer.take(&mut bytes).unwrap().is_some() {
        more += 1;
    }
    assert_eq!(more, (SIZE - 120 - 72) / 120);
    assert_eq!(consumer.dropped(), 100 - more as u64);
}
