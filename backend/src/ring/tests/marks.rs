//! What the device writes is marked while a log is set, and nothing is marked otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::RingLog;
use super::guest::{AVAIL, BASE, BUFFERS, DESC, Guest, SIZE, USED};
use super::model::{World, shape, step};
use crate::memory::{DirtyLog, PAGE_SIZE, memfd};

/// Bytes of the log.
const LOG_LEN: u64 = (BASE + SIZE) / PAGE_SIZE / 8;

type Page = [u8; PAGE_SIZE as usize];

/// The pages that a small ring of this driver and its buffers lie in, as far as the model uses them.
fn ring_and_buffers() -> impl Iterator<Item = u64> {
    [DESC, AVAIL, USED].into_iter().chain((BUFFERS..BUFFERS + 66 * PAGE_SIZE).step_by(4096)).map(|at| at / PAGE_SIZE)
}

fn all_pages() -> impl Iterator<Item = u64> {
    BASE / PAGE_SIZE..(BASE + SIZE) / PAGE_SIZE
}

fn snapshot(guest: &Guest) -> BTreeMap<u64, Page> {
    ring_and_buffers().map(|page| (page, guest.read(page * PAGE_SIZE))).collect()
}

/// The pages that differ.
fn changed(before: &BTreeMap<u64, Page>, after: &BTreeMap<u64, Page>) -> BTreeSet<u64> {
    before.iter().filter(|(page, bytes)| after[page] != **bytes).map(|(page, _)| *page).collect()
}

/// The pages that are marked; marks none any more.
fn take_marks(log: &File) -> BTreeSet<u64> {
    let mut bytes = [0; LOG_LEN as usize];
    log.read_exact_at(&mut bytes, 0).unwrap();
    log.write_all_at(&[0; LOG_LEN as usize], 0).unwrap();
    (0..LOG_LEN * 8).filter(|page| bytes[*page as usize / 8] & 1 << (page % 8) != 0).collect()
}

proptest! {
    #![proptest_config(super::cases(48))]

    #[test]
    #[cfg_attr(miri, ignore = "the log is read from its file, which Miri does not map")]
    fn every_page_that_changes_is_marked_while_there_is_a_log(
        shape in shape(),
        steps in prop::collection::vec((step(), any::<bool>()), 1..40),
        first_logged in 0usize..10,
    ) {
        let mut world = World::new(&shape);
        let file = memfd(LOG_LEN).unwrap();
        let log = Arc::new(DirtyLog::new(file.try_clone().unwrap(), 0, LOG_LEN).unwrap());
        let log = RingLog::new(log, Some(USED));
        for (n, (step, sleeps)) in steps.iter().enumerate() {
            let is_logged = n >= first_logged;
            world.ring.set_log(is_logged.then(|| log.clone()));
            world.drive(step);
            let before = snapshot(world.driver.guest());
            world.serve(step);
            // A ring that was set up anew is given its log anew.
            world.ring.set_log(is_logged.then(|| log.clone()));
            if *sleeps {
                world.ring.arm_kicks().unwrap();
                world.ring.suppress_kicks();
            }
            let changed = changed(&before, &snapshot(world.driver.guest()));
            let marked = take_marks(&file);
            if is_logged {
                prop_assert!(changed.is_subset(&marked), "{:?}: {:x?} changed, {:x?} marked", step, changed, marked);
            } else {
                prop_assert!(marked.is_empty(), "{:?}: {:x?} marked without a log", step, marked);
            }
            if !shape.write {
                prop_assert!(marked.iter().all(|page| *page < BUFFERS / PAGE_SIZE), "{:?}: {:x?} marked", step, marked);
            }
        }
        let known: BTreeSet<_> = ring_and_buffers().collect();
        for page in all_pages().filter(|page| !known.contains(page)) {
            let bytes: Page = world.driver.guest().read(page * PAGE_SIZE);
            prop_assert_eq!(bytes, [0; PAGE_SIZE as usize], "page {:#x} was written to by nobody's leave", page);
        }
    }
}
