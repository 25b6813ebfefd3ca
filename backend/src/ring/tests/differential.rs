//! The same driver's rings, served by this engine and by the `virtio-queue` crate: the same chains, the same used
//! ring, the same call decisions.

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::super::{Access, SplitRing, Virtqueue};
use super::guest::{BASE, BUFFERS, RingDriver, SIZE, WRITE};
use super::split_driver::Driver;
use crate::memory::{GuestSlice, copy_to_guest};

/// What a driver does in one step.
#[derive(Clone, Debug)]
struct Step {
    /// Chains that it offers: lengths of their buffers, and whether in an indirect table.
    chains: Vec<(Vec<u32>, bool)>,
    /// Most chains that the device takes then.
    burst: usize,
    /// How far behind the used index the driver wants its next call (EVENT_IDX).
    event_lag: u16,
}

fn step() -> impl Strategy<Value = Step> {
    let chain = (prop::collection::vec(1u32..3000, 1..5), any::<bool>());
    (prop::collection::vec(chain, 0..4), 1usize..8, 0u16..6).prop_map(|(chains, burst, event_lag)| Step {
        chains,
        burst,
        event_lag,
    })
}

/// The other implementation on a driver's memory.
fn oracle(driver: &Driver, access: Access, start: u16) -> (GuestMemoryMmap, Queue) {
    let file = FileOffset::new(driver.file.try_clone().unwrap(), 0);
    let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(BASE), SIZE as usize, Some(file))]).unwrap();
    let setup = driver.setup(access, true);
    let mut queue = Queue::new(driver.size).unwrap();
    queue.set_size(driver.size);
    queue.set_event_idx(true);
    queue.try_set_desc_table_address(GuestAddress(setup.desc)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(setup.avail)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(setup.used)).unwrap();
    queue.set_next_avail(start);
    queue.set_next_used(start);
    queue.set_ready(true);
    assert!(queue.is_valid(&memory));
    (memory, queue)
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "the other implementation maps a file")]
    fn both_engines_agree(steps in prop::collection::vec(step(), 1..40), start in any::<u16>(), write in any::<bool>()) {
        let (access, flags) = if write { (Access::Write, WRITE) } else { (Access::Read, 0) };
        let (mut ours, mut theirs) = (Driver::new(64, start), Driver::new(64, start));
        let mut ring = SplitRing::new(&ours.table, ours.setup(access, true)).unwrap();
        let (memory, mut queue) = oracle(&theirs, access, start);
        let mut buffer = 0u64;
        let mut first = true;
        let mut waiting = 0usize;

        for step in steps {
            for (lens, indirect) in step.chains {
                if waiting + lens.len() > 12 {
                    break;
                }
                let parts: Vec<_> = lens.iter().map(|len| {
                    buffer = (buffer + 1) % 512;
                    (BUFFERS + 0x10_000 + buffer * 4096, *len)
                }).collect();
                waiting += parts.len();
                for driver in [&mut ours, &mut theirs] {
                    let head = if indirect {
                        driver.indirect_chain(BUFFERS + buffer % 64 * 128, &parts, flags)
                    } else {
                        driver.chain(&parts, flags)
                    };
                    driver.offer(head);
                    driver.publish();
                }
            }
            let taken = ring.take_burst(step.burst, usize::MAX).unwrap();
            for n in 0..taken {
                let chain = queue.pop_descriptor_chain(&memory).expect("they see what we see");
                prop_assert_eq!(chain.head_index(), ring.taken().chains()[n].id);
                let their_lens: Vec<_> = chain.map(|d| d.len() as usize).collect();
                let our_lens: Vec<_> = ring.taken().slices_of(n).iter().map(GuestSlice::len).collect();
                prop_assert_eq!(&their_lens, &our_lens);
                waiting -= our_lens.len();
            }
            for driver in [&ours, &theirs] {
                driver.set_used_event((ring.base() as u16).wrapping_add(taken as u16).wrapping_sub(step.event_lag));
            }
            for _ in 0..taken {
                let (head, len) = (ring.taken().chains()[0].id, ring.taken().chains()[0].len);
                if write {
                    copy_to_guest(&[0x5a; 8], ring.taken().slices_of(0), 0);
                }
                ring.complete(len);
                queue.add_used(&memory, head, len).unwrap();
            }
            if ring.publish() {
                let (we_call, they_call) = (ring.needs_call(), queue.needs_notification(&memory).unwrap());
                // Before its first decision this engine knows nothing of what the driver saw, and calls.
                prop_assert!(first || we_call == they_call);
                first = false;
            }
            prop_assert_eq!(ours.used_idx(), theirs.used_idx());
            for back in 0..8u16.min(ours.used_idx().wrapping_sub(start)) {
                let idx = ours.used_idx().wrapping_sub(back + 1);
                prop_assert_eq!(ours.used(idx), theirs.used(idx));
            }
            let (we_see, they_see) = (ring.arm_kicks().unwrap(), queue.enable_notification(&memory).unwrap());
            prop_assert_eq!(we_see, they_see);
            prop_assert_eq!(ours.avail_event(), theirs.avail_event());
        }
    }
}
