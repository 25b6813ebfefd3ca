//! The load generator's ring against vnicd's: the same chains with the same bytes, and no kick or call that one side
//! waits for is left out.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use benches::loadgen::memory::{GUEST_BASE, Memory, View};
use benches::loadgen::ring::{DeviceError, Ring, RingConfig, Used};
use proptest::prelude::*;
use vnicd_lib::memory::{MemoryTable, RegionInfo, copy_from_guest, copy_to_guest};
use vnicd_lib::ring::{Access, RingSetup, SplitRing, Virtqueue};

const SIZE: u16 = 16;
const BUFFER: u32 = 200;

fn config(event_idx: bool, device_writes: bool, indirect: bool) -> RingConfig {
    let indirect_split = indirect.then_some(12);
    RingConfig { size: SIZE, event_idx, device_writes, buffer_len: BUFFER, stride: 320, offset: 10, indirect_split }
}

/// Both sides of a ring, and what each must know.
struct Pair {
    driver: Ring,
    device: SplitRing,
    device_writes: bool,
    /// Offered and not taken by the device: slot, length, first byte.
    offered: VecDeque<(u16, u32, u8)>,
    /// Taken by the device and not completed.
    held: VecDeque<u16>,
    /// Completed and not taken by the driver: slot, length, first byte if the device wrote it.
    done: VecDeque<(u16, u32, u8)>,
    count: u64,
    device_sleeps: bool,
    /// Used index that the driver waits for.
    driver_sleeps: Option<u16>,
    completed: u16,
    /// Completed and not yet shown to the driver.
    unpublished: bool,
}

impl Pair {
    fn new(event_idx: bool, device_writes: bool, indirect: bool) -> Self {
        let mut memory = Memory::new(1, false).unwrap();
        let mut driver = Ring::new(&mut memory, config(event_idx, device_writes, indirect)).unwrap();
        driver.suppress_calls();
        let info = RegionInfo { guest_address: GUEST_BASE, size: memory.size(), user_address: 0, mmap_offset: 0 };
        let table = MemoryTable::default().with_region(info, memory.file().try_clone().unwrap()).unwrap();
        let [desc, avail, used] = driver.parts().map(View::guest_address);
        let access = if device_writes { Access::Write } else { Access::Read };
        let setup = RingSetup {
            packed: false,
            in_order: false,
            size: SIZE,
            desc,
            avail,
            used,
            event_idx,
            indirect,
            access,
            min_chain_len: 12,
        };
        let mut device = SplitRing::new(&Arc::new(table), setup).unwrap();
        device.suppress_kicks();
        let (offered, held, done) = Default::default();
        let (count, device_sleeps, driver_sleeps, completed, unpublished) = (0, false, None, 0, false);
        Self {
            driver,
            device,
            device_writes,
            offered,
            held,
            done,
            count,
            device_sleeps,
            driver_sleeps,
            completed,
            unpublished,
        }
    }

    fn offer(&mut self, chains: u16, len: u32) {
        for _ in 0..chains.min(self.driver.room()) {
            let (slot, mark) = (self.driver.next_slot(), self.count as u8);
            if !self.device_writes {
                self.driver.buffers().write(self.driver.at(slot), &[mark]);
            }
            self.driver.offer(len);
            self.offered.push_back((slot, len, mark));
            self.count += 1;
        }
        let kick = self.driver.publish();
        if kick.is_some() && self.device_sleeps {
            assert_eq!(kick, Some(true), "a sleeping device was not kicked");
            self.device_sleeps = false;
            self.device.suppress_kicks();
        } else if !self.driver.config().event_idx {
            assert_ne!(kick, Some(true), "a device that looks was kicked");
        }
    }

    /// The device takes and completes some chains and shows what it completed.
    fn serve(&mut self, burst: usize, complete: usize) {
        let before = self.held.len();
        let taken = self.device.take_burst(burst, usize::MAX).unwrap();
        for n in before..taken {
            let (slot, len, mark) = self.offered.pop_front().expect("more was taken than offered");
            let chain = &self.device.taken().chains()[n];
            assert_eq!((chain.id, chain.len), (slot, len));
            let slices = self.device.taken().slices_of(n);
            assert_eq!(slices.len(), if self.driver.config().indirect_split.is_some() { 2 } else { 1 });
            let mut byte = [0];
            copy_from_guest(slices, 0, &mut byte);
            assert!(self.device_writes || byte == [mark]);
            self.held.push_back(slot);
        }
        for _ in 0..complete.min(self.held.len()) {
            let (slot, mark) = (self.held.pop_front().unwrap(), self.completed as u8);
            let len = if self.device_writes { 1 + u32::from(mark) % 100 } else { 0 };
            if self.device_writes {
                copy_to_guest(&[mark], self.device.taken().slices_of(0), 0);
            }
            self.device.complete(len);
            self.done.push_back((slot, len, mark));
            self.completed = self.completed.wrapping_add(1);
            self.unpublished = true;
        }
        let published = self.device.publish();
        assert_eq!(published, self.unpublished);
        self.unpublished = false;
        if published {
            let called = self.device.needs_call();
            let event_idx = self.driver.config().event_idx;
            match self.driver_sleeps {
                Some(target) if !event_idx || (self.completed.wrapping_sub(target) as i16) > 0 => {
                    assert!(called, "a sleeping driver was not called");
                    self.driver_sleeps = None;
                    self.driver.suppress_calls();
                }
                None if !event_idx => assert!(!called, "a driver that looks was called"),
                _ => {}
            }
        }
    }

    fn take(&mut self, chains: usize) {
        self.driver.look().unwrap();
        for _ in 0..chains {
            let Some(Used { slot, len }) = self.driver.take().unwrap() else { break };
            let (expected, expected_len, mark) = self.done.pop_front().expect("more came back than was completed");
            assert_eq!((slot, len), (expected, expected_len));
            let [byte] = self.driver.buffers().read(self.driver.at(slot));
            assert!(!self.device_writes || byte == mark);
        }
    }

    fn device_sleeps(&mut self) {
        let slipped = self.device.arm_kicks().unwrap();
        assert_eq!(slipped, !self.offered.is_empty());
        self.device_sleeps = !slipped;
        if slipped {
            self.device.suppress_kicks();
        }
    }

    fn driver_sleeps(&mut self, more: u16) {
        let more = more.min(self.driver.in_flight().saturating_sub(1));
        let slipped = self.driver.arm_calls(more).unwrap();
        assert_eq!(slipped, self.done.len() > usize::from(more));
        self.driver_sleeps = (!slipped).then(|| self.completed.wrapping_sub(self.done.len() as u16).wrapping_add(more));
        if slipped {
            self.driver.suppress_calls();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u16, u32),
    Serve(usize, usize),
    Take(usize),
    DeviceSleeps,
    DriverSleeps(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..=SIZE, 13..=BUFFER).prop_map(|(chains, len)| Step::Offer(chains, len)),
        3 => (0usize..20, 0usize..20).prop_map(|(burst, complete)| Step::Serve(burst, complete)),
        2 => (0usize..20).prop_map(Step::Take),
        1 => Just(Step::DeviceSleeps),
        1 => (0..SIZE).prop_map(Step::DriverSleeps),
    ]
}

proptest! {
    #[test]
    fn both_sides_agree(
        steps in prop::collection::vec(step(), 1..300),
        moved_before in prop_oneof![Just(0u32), 65_400..65_700u32],
        (event_idx, device_writes, indirect) in any::<(bool, bool, bool)>(),
    ) {
        let mut pair = Pair::new(event_idx, device_writes, indirect);
        // Up to where the indices wrap.
        for _ in 0..moved_before / 8 {
            pair.offer(8, 60);
            pair.serve(8, 8);
            pair.take(8);
        }
        for step in steps {
            match step {
                Step::Offer(chains, len) => pair.offer(chains, len),
                Step::Serve(burst, complete) => pair.serve(burst, complete),
                Step::Take(chains) => pair.take(chains),
                Step::DeviceSleeps => pair.device_sleeps(),
                Step::DriverSleeps(more) => pair.driver_sleeps(more),
            }
        }
        pair.serve(usize::MAX, usize::MAX);
        pair.take(usize::MAX);
        prop_assert_eq!(pair.driver.in_flight(), 0);
        prop_assert!(pair.done.is_empty() && pair.offered.is_empty());
    }
}

#[test]
fn a_device_that_breaks_the_rules_is_told() {
    let mut memory = Memory::new(1, false).unwrap();
    let mut ring = Ring::new(&mut memory, config(true, false, false)).unwrap();
    let used = ring.parts()[2].guest_address() - GUEST_BASE;
    let write = |at: u64, bytes: &[u8]| memory.file().write_all_at(bytes, used + at).unwrap();
    for _ in 0..3 {
        ring.offer(60);
    }
    ring.publish();
    write(2, &4u16.to_le_bytes());
    assert_eq!(ring.look(), Err(DeviceError::UsedIndex { used_idx: 4, last_used: 0, in_flight: 3 }));
    write(2, &3u16.to_le_bytes());
    for (entry, id) in [(0, 1u32), (1, 1), (2, 70_000)] {
        write(4 + 8 * entry, &id.to_le_bytes());
    }
    assert_eq!(ring.look(), Ok(3));
    assert_eq!(ring.take(), Ok(Some(Used { slot: 1, len: 0 })));
    assert_eq!(ring.take(), Err(DeviceError::NotOut(1)), "the same chain twice");
    write(4 + 8, &70_000u32.to_le_bytes());
    assert_eq!(ring.take(), Err(DeviceError::NotOut(70_000)));
}
