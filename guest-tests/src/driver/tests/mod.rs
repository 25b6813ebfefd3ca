//! The driver's rings against a device written from the specification alone (virtio 1.3, 2.7 and 2.8).

mod device;

use std::collections::VecDeque;

use super::*;
use device::Device;

const PLACES: [u32; 3] = [0x8000_8000, 0x0002_0002, 0x8001_8001];
const FORMATS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn ring(packed: bool, in_order: bool, event_idx: bool, size: u16) -> (SharedMemory, Queue) {
    let mut memory = SharedMemory::new(4 << 20).unwrap();
    let queue = Queue::new(&mut memory, 0, size, RingFormat { packed, event_idx, in_order }).unwrap();
    (memory, queue)
}

/// Numbers that look random and are the same every time.
struct Numbers(u32);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % n
    }
}

fn chains_come_and_go(packed: bool, in_order: bool, size: u16, start: u32) {
    let (mut memory, mut queue) = ring(packed, in_order, false, size);
    queue.start_at(start);
    let mut device = Device::new(&memory, &queue);
    let table = memory.allocate(16 * 64);
    assert!(device.take().is_none() && queue.take_used().is_none(), "an empty ring has something in it");
    let mut numbers = Numbers(u32::from(size) + start);
    let (mut at_device, mut count) = (VecDeque::new(), 0u64);
    for _ in 0..2000 {
        for _ in 0..1 + numbers.below(4) {
            count += 1;
            let write = numbers.below(2) == 0;
            let buffers: Vec<_> =
                (0..1 + numbers.below(3) as u64).map(|i| (GUEST_BASE + count * 8 + i, count as u32 + 1)).collect();
            let indirect = numbers.below(3) == 0;
            let id = if indirect { queue.add_indirect(table, &buffers, write) } else { queue.add(&buffers, write) };
            let Some(id) = id else { break };
            let taken = device.take().expect("the device sees what is offered");
            assert_eq!(taken.id, id);
            let descs = if indirect { 1 } else { buffers.len() as u16 };
            assert_eq!(taken.descs, descs);
            assert_eq!(taken.buffers, buffers.iter().map(|(at, len)| (*at, *len, write)).collect::<Vec<_>>());
            at_device.push_back((taken, if write { buffers.len() as u32 * (count as u32 + 1) } else { 0 }));
        }
        assert!(device.take().is_none());
        let expected: Vec<(u16, u32)> = if in_order {
            let batch = 1 + numbers.below(at_device.len());
            let batch: Vec<_> = at_device.drain(..batch).collect();
            let (last, skipped) = batch.split_last().unwrap();
            let len = last.1 / 2;
            device.give_back(&batch.iter().map(|(taken, _)| taken.clone()).collect::<Vec<_>>(), len);
            let whole = skipped.iter().map(|(taken, writable)| (taken.id, *writable));
            whole.chain([(last.0.id, len)]).collect()
        } else {
            let (taken, writable) = at_device.remove(numbers.below(at_device.len())).unwrap();
            let len = writable / 2;
            device.give_back(std::slice::from_ref(&taken), len);
            vec![(taken.id, len)]
        };
        assert_eq!(std::iter::from_fn(|| queue.take_used()).collect::<Vec<_>>(), expected);
        let half = |(at, wrap): (u16, bool)| u32::from(at) | if wrap { 0x8000 } else { 0 };
        let base = if packed { half(device.used) << 16 | half(device.used) } else { device.used.0.into() };
        assert_eq!(queue.base(), base);
    }
    assert!(count > 2000);
}

#[test]
fn chains_come_and_go_in_rings_of_any_size() {
    for (packed, in_order) in FORMATS {
        let sizes: &[u16] = if packed { &[3, 4, 7, 100, 255] } else { &[4, 8, 256] };
        for size in sizes {
            for start in PLACES {
                chains_come_and_go(packed, in_order, *size, if packed { start } else { start & 0xffff });
            }
        }
    }
}

#[test]
fn a_ring_takes_no_more_than_it_holds() {
    for (packed, in_order) in FORMATS {
        for size in [1, 2, 4] {
            let (memory, mut queue) = ring(packed, in_order, false, size);
            let mut device = Device::new(&memory, &queue);
            for _ in 0..3 * size {
                for _ in 0..size {
                    queue.add(&[(GUEST_BASE, 1)], true).expect("there is room");
                }
                assert!(queue.add(&[(GUEST_BASE, 1)], true).is_none(), "{size} entries hold more");
                let all: Vec<_> = std::iter::from_fn(|| device.take()).collect();
                assert_eq!(all.len(), usize::from(size));
                all.into_iter().for_each(|taken| device.give_back(&[taken], 1));
                assert_eq!(std::iter::from_fn(|| queue.take_used()).count(), usize::from(size));
            }
            assert!(queue.add(&vec![(GUEST_BASE, 1); usize::from(size) + 1], false).is_none());
        }
    }
}

/// A kick is wanted when the place that the device named was offered since it was asked last, and then only.
#[test]
fn kicks_are_decided_as_the_device_asks() {
    for packed in [false, true] {
        let size = if packed { 7 } else { 8 };
        for event in 0..u32::from(size) * 2 {
            let (memory, mut queue) = ring(packed, false, true, size);
            let mut device = Device::new(&memory, &queue);
            let mut place = event as u16;
            if packed {
                place = (event as u16 % size) | if event < size.into() { 0x8000 } else { 0 };
                device.set_word(queue.layout.used + 2, 2);
                device.set_word(queue.layout.used, place);
            } else {
                device.set_word(queue.layout.used + 4 + u64::from(size) * 8, place);
            }
            assert_eq!(queue.kicks(), Kicks::At(place));
            // Lots of one, two and three descriptors up to the end of the second lap.
            let (mut offered, mut lot) = (0, 0);
            while offered < u32::from(size) * 2 {
                let count = (1 + lot % 3).min(u32::from(size) * 2 - offered);
                (0..count).for_each(|_| _ = queue.add(&[(GUEST_BASE, 1)], false).unwrap());
                let wanted = (offered..offered + count).contains(&event);
                assert_eq!(queue.wants_kick(), wanted, "packed {packed}: event {event}, {count} from {offered} on");
                assert!(!queue.wants_kick(), "nothing is new");
                std::iter::from_fn(|| device.take()).collect::<Vec<_>>().into_iter().for_each(|taken| {
                    device.give_back(&[taken], 0);
                });
                while queue.take_used().is_some() {}
                (offered, lot) = (offered + count, lot + 1);
            }
        }
    }
}

#[test]
fn kicks_are_all_or_none_without_event_indices() {
    for packed in [false, true] {
        let (memory, mut queue) = ring(packed, false, false, 4);
        let device = Device::new(&memory, &queue);
        let flags = queue.layout.used + if packed { 2 } else { 0 };
        assert!((queue.kicks(), queue.wants_kick()) == (Kicks::Always, true));
        device.set_word(flags, 1);
        assert!((queue.kicks(), queue.wants_kick()) == (Kicks::Never, false));
    }
}

#[test]
fn calls_are_asked_for_in_the_words_of_the_format() {
    for (packed, event_idx) in FORMATS {
        let (memory, mut queue) = ring(packed, false, event_idx, 4);
        let device = Device::new(&memory, &queue);
        let place = if packed { 0x0003_0003 } else { 7 };
        queue.start_at(place);
        let words = |queue: &Queue| {
            let flags = queue.layout.avail + if packed { 2 } else { 0 };
            (device.word(flags), device.word(queue.layout.avail + if packed { 0 } else { 4 + 4 * 2 }))
        };
        let (always, never, after) = match (packed, event_idx) {
            (false, false) => ((0, 0), (1, 0), (0, 0)),
            (false, true) => ((0, 7), (0, 6), (0, 9)),
            (true, false) => ((0, 0), (1, 0), (0, 0)),
            // Two behind slot 3 of a lap with wrap counter 0.
            (true, true) => ((0, 0), (1, 0), (2, 0x8001)),
        };
        for (calls, expected) in [(Calls::Always, always), (Calls::Never, never), (Calls::After(2), after)] {
            queue.set_calls(calls);
            assert_eq!(words(&queue), expected, "packed {packed}, EVENT_IDX {event_idx}: {calls:?}");
        }
    }
}

/// What a test puts into a ring by itself lies where the format has it.
#[test]
fn raw_descriptors_lie_as_the_format_has_them() {
    let (memory, mut queue) = ring(true, false, false, 3);
    let mut device = Device::new(&memory, &queue);
    let raw = Desc { address: 0x1234_5678_9abc_def0, len: 0x1122_3344, flags: desc::WRITE, next: 0x7788 };
    queue.packed().offer(raw);
    assert_eq!(device.desc(queue.layout.desc), (raw.address, raw.len, raw.flags | AVAIL, raw.next));
    assert_eq!(device.take().map(|taken| taken.id), Some(raw.next));
    queue.packed().change_flags(0, |flags| flags ^ USED);
    assert_eq!(device.desc(queue.layout.desc).2, raw.flags | AVAIL | USED);
    queue.packed().flip_wrap();
    assert_eq!(queue.packed().next_slot(), (1, USED));

    let (memory, queue) = ring(false, false, false, 4);
    let device = Device::new(&memory, &queue);
    queue.write_desc(3, raw);
    assert_eq!(device.desc(queue.layout.desc + 48), (raw.address, raw.len, raw.flags, raw.next));
}

#[test]
fn what_the_device_wrote_is_known() {
    let (memory, mut queue) = ring(true, false, false, 4);
    let mut device = Device::new(&memory, &queue);
    let slots = |queue: &Queue| {
        let written = queue.device_written();
        written.iter().filter(|(_, len)| *len == 16).map(|(at, _)| (at - queue.layout.desc) / 16).collect::<Vec<_>>()
    };
    for (expected, used) in [(vec![0], true), (vec![0, 2], true), (vec![0, 2], true), (vec![0], false)] {
        queue.add(&[(GUEST_BASE, 1), (GUEST_BASE, 1)], true).unwrap();
        let taken = device.take().unwrap();
        if used {
            device.give_back(&[taken], 1);
            queue.take_used().unwrap();
        }
        assert_eq!(slots(&queue), expected);
    }
}
