//! Random steps of a driver and a device, in both formats, beside a plain queue that says what must come of them.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::{Access, Ring, RingSetup};
use super::guest::{BASE, BUFFERS, Part, RingDriver, SIZE, WRITE};
use super::packed_driver::{self, Cursor};
use super::split_driver;
use crate::memory::{RegionInfo, copy_from_guest, copy_to_guest, memfd};

/// Largest buffer, in bytes.
const MAX_LEN: u32 = 200;

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The driver offers a chain of buffers of these lengths, in a table or not, if there is room for it.
    Add(Vec<u32>, bool),
    /// The device takes a burst: chains and bytes.
    Take(usize, usize),
    /// The device takes at least so much.
    Reserve(usize, usize),
    /// The device completes so many chains of those that it took, and writes to them if it may.
    Complete(usize),
    /// The device completes so many chains with nothing written.
    CompleteUnwritten(usize),
    Publish,
    Untake,
    /// The ring stops and another one goes on at its base.
    Restart,
    /// The same in another memory table.
    Move,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::collection::vec(1..MAX_LEN, 1..6), any::<bool>()).prop_map(|(lens, table)| Step::Add(lens, table)),
        3 => (0usize..6, 1usize..2000).prop_map(|(chains, bytes)| Step::Take(chains, bytes)),
        1 => (0usize..6, 1usize..500).prop_map(|(chains, bytes)| Step::Reserve(chains, bytes)),
        3 => (0usize..4).prop_map(Step::Complete),
        2 => (0usize..4).prop_map(Step::CompleteUnwritten),
        3 => Just(Step::Publish),
        1 => Just(Step::Untake),
        1 => Just(Step::Restart),
        1 => Just(Step::Move),
    ]
}

/// A ring that both engines can have.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    packed: bool,
    size: u16,
    start: u16,
    pub(super) write: bool,
    in_order: bool,
}

pub(super) fn shape() -> impl Strategy<Value = Shape> {
    (any::<bool>(), 1u16..17, any::<u16>(), any::<bool>(), any::<bool>()).prop_map(
        |(packed, size, start, write, in_order)| Shape {
            packed,
            size: if packed { size } else { size.next_power_of_two() },
            start,
            write,
            in_order,
        },
    )
}

/// A chain that was offered and has not come back.
struct Chain {
    id: u16,
    parts: Vec<Part>,
}

/// What stands in its buffers.
fn bytes(driver: &dyn RingDriver, chain: &Chain) -> Vec<u8> {
    chain.parts.iter().flat_map(|part| driver.guest().bytes(*part)).collect()
}

/// A driver, a device, and what is to be expected of both.
pub(super) struct World {
    pub(super) driver: Box<dyn RingDriver>,
    pub(super) ring: Ring,
    setup: RingSetup,
    /// Oldest first; the first of them are taken.
    offered: VecDeque<Chain>,
    /// Completed and not published, and what was written to each.
    completed: Vec<(Chain, Vec<u8>)>,
    /// Numbers buffers and tables, and fills the bytes.
    count: u64,
}

impl World {
    pub(super) fn new(shape: &Shape) -> Self {
        let Shape { size, start, .. } = *shape;
        let driver: Box<dyn RingDriver> = if shape.packed {
            let start = Cursor { index: start % size, wrap: start & 1 << 15 != 0 };
            Box::new(packed_driver::Driver::new(size, start))
        } else {
            Box::new(split_driver::Driver::new(size, start))
        };
        let access = if shape.write { Access::Write } else { Access::Read };
        let setup = RingSetup { in_order: shape.in_order, ..driver.setup(access, true) };
        let ring = driver.ring(setup);
        Self { driver, ring, setup, offered: VecDeque::new(), completed: Vec::new(), count: 0 }
    }

    fn writes(&self) -> bool {
        self.setup.access == Access::Write
    }

    /// What the driver does in a step.
    pub(super) fn drive(&mut self, step: &Step) {
        let Step::Add(lens, table) = step else { return };
        let needed = if *table { 1 } else { lens.len() as u16 };
        if self.driver.free() < needed || lens.len() > usize::from(self.setup.size) {
            return;
        }
        self.count += 1;
        // The table, then the buffers, some of which cross into the next page.
        let at = BUFFERS + self.count % 64 * 0x1000 + 0xec0;
        let parts: Vec<_> = (0u64..).zip(lens).map(|(n, len)| (at + 0x60 + n * 0xd0, *len)).collect();
        for part in &parts {
            self.driver.guest().fill(*part, self.count as u8);
        }
        let flags = if self.writes() { WRITE } else { 0 };
        let id = self.driver.add(&parts, flags, table.then_some(at));
        self.offered.push_back(Chain { id, parts });
    }

    /// What the device does in a step.
    pub(super) fn serve(&mut self, step: &Step) {
        match *step {
            Step::Add(..) => {}
            Step::Take(chains, bytes) => {
                let (before, waiting) = (self.ring.taken().len(), self.offered.len());
                let n = self.ring.take_burst(chains, bytes).unwrap();
                assert!(n >= before && (n == before || n <= chains));
                assert!(n == waiting || n >= chains || self.ring.taken().bytes() >= bytes);
            }
            Step::Reserve(chains, bytes) => {
                let n = self.ring.reserve(chains, bytes).unwrap();
                assert!(n == self.offered.len() || (n >= chains && self.ring.taken().bytes() >= bytes));
            }
            Step::Complete(n) => {
                for _ in 0..n.min(self.ring.taken().len()) {
                    let written = if self.writes() { self.write_to_oldest() } else { Vec::new() };
                    self.ring.complete(written.len() as u32);
                    self.complete(written);
                }
            }
            Step::CompleteUnwritten(n) => {
                let taken = self.ring.taken().len();
                self.ring.complete_unwritten(n);
                (0..n.min(taken)).for_each(|_| self.complete(Vec::new()));
            }
            Step::Publish => self.publish(),
            Step::Untake => {
                if self.writes() {
                    // A frame of which only the beginning came.
                    let taken = self.ring.taken();
                    let n = copy_to_guest(&[self.count as u8; 300], taken.slices(taken.len()), 0);
                    self.ring.mark_written(n);
                }
                self.ring.untake();
            }
            Step::Restart | Step::Move => {
                self.publish();
                let mut table = self.driver.guest().table.clone();
                if matches!(step, Step::Move) {
                    // One region more below the guest's, so that nothing stands where it stood.
                    let size = BASE;
                    let info = RegionInfo { guest_address: 0, size, user_address: BASE + SIZE, mmap_offset: 0 };
                    table = Arc::new(table.with_region(info, memfd(size).unwrap()).unwrap());
                }
                self.ring = Ring::new(&table, self.setup, self.ring.base()).unwrap();
            }
        }
    }

    /// Writes some bytes to the oldest taken chain; says which.
    fn write_to_oldest(&mut self) -> Vec<u8> {
        self.count += 1;
        let len = self.ring.taken().chains()[0].len as usize;
        let written = vec![!self.count as u8; self.count as usize * 37 % (len + 1)];
        assert_eq!(copy_to_guest(&written, self.ring.taken().slices_of(0), 0), written.len());
        written
    }

    fn complete(&mut self, written: Vec<u8>) {
        let chain = self.offered.pop_front().unwrap();
        self.completed.push((chain, written));
    }

    fn publish(&mut self) {
        assert_eq!(self.driver.reap(self.setup.in_order), [], "nothing is seen before it is published");
        assert_eq!(self.ring.publish(), !self.completed.is_empty());
        let came = self.driver.reap(self.setup.in_order);
        let expected: Vec<_> = self.completed.iter().map(|(chain, bytes)| (chain.id, bytes.len() as u32)).collect();
        assert_eq!(came, expected);
        for (chain, written) in self.completed.drain(..) {
            assert!(bytes(&*self.driver, &chain).starts_with(&written));
        }
    }

    /// The device has what the driver offered, and nothing else.
    fn check(&self) {
        let taken = self.ring.taken();
        assert!(taken.len() <= self.offered.len());
        for (n, (ours, theirs)) in taken.chains().iter().zip(&self.offered).enumerate() {
            assert_eq!(ours.id, theirs.id);
            let mut got = vec![0; ours.len as usize];
            copy_from_guest(taken.slices_of(n), 0, &mut got);
            assert_eq!(got, bytes(&*self.driver, theirs));
        }
        assert_eq!(taken.bytes(), taken.chains().iter().map(|chain| chain.len as usize).sum::<usize>());
        // The driver counts what is under way, the device what it holds; completed chains are still the driver's.
        let is_all_taken = if self.setup.packed {
            taken.len() == self.offered.len() && self.completed.is_empty() && self.driver.free() == 0
        } else {
            taken.len() == usize::from(self.setup.size)
        };
        assert_eq!(self.ring.is_all_taken(), is_all_taken);
    }
}

proptest! {
    #![proptest_config(super::cases(256))]

    #[test]
    fn any_steps_bring_what_a_plain_queue_would(
        shape in shape(),
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 20 } else { 80 }),
    ) {
        let mut world = World::new(&shape);
        for step in &steps {
            world.drive(step);
            world.serve(step);
            world.check();
        }
        // Whatever was offered comes back in the end.
        world.serve(&Step::Reserve(usize::MAX, usize::MAX));
        world.serve(&Step::CompleteUnwritten(usize::MAX));
        world.serve(&Step::Publish);
        prop_assert!(world.offered.is_empty());
        prop_assert_eq!(world.driver.free(), world.setup.size);
    }
}
