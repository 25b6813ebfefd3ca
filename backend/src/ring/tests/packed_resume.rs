//! Packed rings whose device is killed at every point of its work, over and over, and goes on by its record.

use proptest::prelude::*;

use super::super::{Access, PackedRing, RingSetup, Virtqueue, resume};
use super::cases;
use super::guest::{AVAIL, BUFFERS, DESC, RingDriver, USED, WRITE};
use super::packed_driver::{Cursor, Driver};
use crate::record::{Identity, Peer, Records, RingRecord};

const IDENTITY: Identity = Identity { peer: Peer::UNKNOWN, features: 0, addresses: [DESC, AVAIL, USED], size: 7 };

/// Where a new ring stands.
const NEW: u32 = 0x8000_8000;

/// Where a device is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kill {
    /// After it took chains.
    Taken,
    /// After it wrote used descriptors, the first of which is kept back.
    Completed,
    /// After it wrote its record.
    Recorded,
    /// After it showed the driver what it used.
    Shown,
}

/// What happens in the life of a device.
#[derive(Clone, Debug)]
struct Life {
    /// Chains that the driver offers before: descriptors of each, or an indirect table.
    offered: Vec<Option<u8>>,
    /// Whole bursts, by the number of chains.
    bursts: Vec<u8>,
    /// Chains of the last one.
    last: u8,
    kill: Kill,
    /// Whether the driver looks before the next device starts, and offers more.
    goes_on: bool,
    /// Whether the front end then drops what it finds in the ring, as QEMU does.
    drops: bool,
}

/// What a front end knows of a ring that has lost its device: where it said itself that the ring stands.
struct FrontEnd(Cursor);

impl FrontEnd {
    /// Uses all that is available where it believes the ring to stand.
    fn drop_all(&mut self, driver: &Driver, setup: &RingSetup) {
        while let Some((id, end)) = driver.available(self.0) {
            driver.write_used(self.0, id, setup.access == Access::Write);
            self.0 = end;
        }
    }
}

fn record() -> RingRecord {
    let record = Records::in_memory().unwrap().ring(5).unwrap();
    record.begin(&IDENTITY);
    record
}

fn start(driver: &Driver, setup: RingSetup, record: &RingRecord, told: u32) -> PackedRing {
    let base = resume(&driver.table, &setup, record, told, None).unwrap_or(told);
    record.set_told(told);
    let mut ring = PackedRing::new(&driver.table, setup, base).unwrap();
    ring.suppress_kicks();
    ring.set_record(record.clone());
    ring
}

fn offer(driver: &mut Driver, setup: &RingSetup, chains: &[Option<u8>]) -> Vec<u16> {
    let flags = if setup.access == Access::Write { WRITE } else { 0 };
    let mut ids = Vec::new();
    for chain in chains {
        let parts: Vec<_> = (0..chain.unwrap_or(2).into()).map(|n| (BUFFERS + 64 * n, 64)).collect();
        let needed = if chain.is_some() { parts.len() as u16 } else { 1 };
        if needed <= driver.free() {
            ids.push(driver.add(&parts, flags, chain.is_none().then_some(BUFFERS + 0x1000)));
        }
    }
    ids
}

/// Completes up to so many chains.
fn complete(ring: &mut PackedRing, chains: u8) -> usize {
    let n = ring.take_burst(chains.into(), 1 << 20).unwrap().min(chains.into());
    if ring.setup().access == Access::Write {
        ring.complete_burst(&vec![64; n]);
    } else {
        ring.complete_unwritten(n);
    }
    n
}

fn live(
    (driver, front_end): (&mut Driver, &mut FrontEnd),
    setup: RingSetup,
    record: &RingRecord,
    life: &Life,
    expected: &mut Vec<u16>,
) {
    expected.extend(offer(driver, &setup, &life.offered));
    let mut ring = start(driver, setup, record, front_end.0.base());
    for burst in &life.bursts {
        complete(&mut ring, *burst);
        ring.publish();
    }
    match life.kill {
        Kill::Taken => _ = ring.take_burst(life.last.into(), 1 << 20).unwrap(),
        Kill::Completed => _ = complete(&mut ring, life.last),
        Kill::Recorded => {
            let before: Vec<[u8; 16]> = (0..setup.size).map(|at| driver.read(DESC + 16 * u64::from(at))).collect();
            let first = ring.base() as u16 & 0x7fff;
            if complete(&mut ring, life.last) > 0 {
                ring.publish();
                driver.write(DESC + 16 * u64::from(first), before[usize::from(first)]);
            }
        }
        Kill::Shown => {
            complete(&mut ring, life.last);
            ring.publish();
        }
    }
    drop(ring);
    if life.goes_on {
        reap(driver, &setup, expected);
        expected.extend(offer(driver, &setup, &life.offered));
    }
    if life.drops {
        front_end.drop_all(driver, &setup);
    }
}

/// Takes back what the device used: the oldest chains, each once.
fn reap(driver: &mut Driver, setup: &RingSetup, expected: &mut Vec<u16>) {
    let came = driver.reap(setup.in_order);
    let ids: Vec<_> = came.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, expected[..ids.len()]);
    expected.drain(..ids.len());
    for (_, written) in came {
        let possible: &[u32] = if setup.access == Access::Write { &[0, 64] } else { &[0] };
        assert!(possible.contains(&written), "{written} bytes");
    }
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let chain = prop_oneof![4 => Just(Some(1)), 2 => (2u8..4).prop_map(Some), 1 => Just(None)];
    let offered = prop::collection::vec(chain, 0..6);
    let kill = prop::sample::select(vec![Kill::Taken, Kill::Completed, Kill::Recorded, Kill::Shown]);
    let life = (offered, prop::collection::vec(1u8..5, 0..4), 1u8..6, kill, any::<(bool, bool)>());
    let life = life.prop_map(|(offered, bursts, last, kill, (goes_on, drops))| Life {
        offered,
        bursts,
        last,
        kill,
        goes_on,
        drops,
    });
    prop::collection::vec(life, 1..20)
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn every_chain_comes_back_once_and_in_order_however_often_the_device_is_killed(
        lives in lives(),
        size in 3u16..12,
        writes in any::<bool>(),
        in_order in any::<bool>(),
        event_idx in any::<bool>(),
    ) {
        let mut driver = Driver::new(size, Cursor::FIRST);
        let access = if writes { Access::Write } else { Access::Read };
        let setup = RingSetup { in_order, ..driver.setup(access, event_idx) };
        let record = record();
        let (mut expected, mut front_end) = (Vec::new(), FrontEnd(Cursor::FIRST));
        for life in &lives {
            live((&mut driver, &mut front_end), setup, &record, life, &mut expected);
        }
        // The last one is not killed.
        let mut ring = start(&driver, setup, &record, front_end.0.base());
        while complete(&mut ring, 3) > 0 {
            ring.publish();
        }
        reap(&mut driver, &setup, &mut expected);
        prop_assert!(expected.is_empty(), "chains do not come back: {expected:?}");
    }
}

#[test]
fn a_ring_that_its_driver_has_reset_is_not_gone_on_with() {
    for event_idx in [false, true] {
        let mut driver = Driver::new(7, Cursor::FIRST);
        let setup = driver.setup(Access::Read, event_idx);
        let record = record();
        assert_eq!(resume(&driver.table, &setup, &record, NEW, None), None, "nothing was recorded");
        let mut ring = start(&driver, setup, &record, NEW);
        offer(&mut driver, &setup, &[Some(1); 3]);
        complete(&mut ring, 3);
        ring.publish();
        assert_eq!(resume(&driver.table, &setup, &record, NEW, None), Some(0x8003_8003));
        // Armed, as a worker that sleeps leaves it.
        assert!(!ring.arm_kicks().unwrap());
        assert_eq!(resume(&driver.table, &setup, &record, NEW, None), Some(0x8003_8003), "event_idx {event_idx}");
        // A new ring, in the same place of a guest that was booted anew.
        driver.write(USED, [0; 4]);
        assert_eq!(resume(&driver.table, &setup, &record, NEW, None), None, "event_idx {event_idx}");
    }
}

#[test]
fn a_record_that_makes_no_sense_moves_nothing() {
    let mut driver = Driver::new(7, Cursor::FIRST);
    let setup = driver.setup(Access::Write, true);
    let record = record();
    drop(start(&driver, setup, &record, NEW));
    offer(&mut driver, &setup, &[Some(1); 7]);
    let words = |driver: &Driver| (0..7).map(|at| driver.read::<16>(DESC + 16 * at)).collect::<Vec<_>>();
    let before = words(&driver);
    for stand in [1, 1 << 48 | 7, 2 << 48 | 0x7fff, 3 << 48, u64::MAX] {
        record.set_stand(stand);
        assert_eq!(resume(&driver.table, &setup, &record, NEW, None), None, "{stand:#x}");
        assert_eq!(words(&driver), before, "{stand:#x}");
    }
}
