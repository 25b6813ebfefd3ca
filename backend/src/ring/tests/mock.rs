//! A ring that another implementation's driver laid out (`virtio-queue`'s mock), served by this engine: that the two
//! agree on where things are is not this repository's word alone.

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::super::{Access, RingSetup, SplitRing, Virtqueue};
use super::guest::{BASE, BUFFERS, Guest, RingDriver, SIZE};
use super::split_driver::Driver;
use crate::memory::GuestSlice;

proptest! {
    #![proptest_config(super::cases(64))]

    #[test]
    #[cfg_attr(miri, ignore = "the other implementation maps a file")]
    fn chains_of_another_driver_are_taken_and_come_back(
        chains in prop::collection::vec(prop::collection::vec(1u32..2000, 1..5), 1..12),
        log_size in 6u32..9,
        write in any::<bool>(),
    ) {
        let guest = Guest::new();
        let file = FileOffset::new(guest.file.try_clone().unwrap(), 0);
        let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(BASE), SIZE as usize, Some(file))]).unwrap();
        let memory: &GuestMemoryMmap = &memory;
        let mock = MockSplitQueue::create(memory, GuestAddress(BASE), 1 << log_size);
        let (access, flags) = if write { (Access::Write, VRING_DESC_F_WRITE) } else { (Access::Read, 0) };
        let setup = RingSetup {
            size: 1 << log_size,
            desc: mock.desc_table_addr().0,
            avail: mock.avail_addr().0,
            used: mock.used_addr().0,
            ..Driver::new(1, 0).setup(access, false)
        };
        let mut ring = SplitRing::new(&guest.table, setup).unwrap();
        let (mut offset, mut heads) = (0u16, Vec::new());
        for lens in &chains {
            let descs: Vec<_> = lens.iter().enumerate().map(|(at, len)| {
                let more = if at + 1 < lens.len() { VRING_DESC_F_NEXT } else { 0 };
                let next = offset + at as u16 + 1;
                RawDescriptor::from(Descriptor::new(BUFFERS + u64::from(next) * 4096, *len, (flags | more) as u16, next))
            }).collect();
            mock.add_desc_chains(&descs, offset).unwrap();
            heads.push(offset);
            offset += descs.len() as u16;
        }
        prop_assert_eq!(ring.take_burst(64, usize::MAX).unwrap(), chains.len());
        for (at, lens) in chains.iter().enumerate() {
            let ours: Vec<_> = ring.taken().slices_of(at).iter().map(GuestSlice::len).collect();
            prop_assert_eq!(ours, lens.iter().map(|len| *len as usize).collect::<Vec<_>>());
        }
        for n in 0..chains.len() {
            ring.complete(n as u32);
        }
        ring.publish();
        prop_assert_eq!(usize::from(u16::from_le(mock.used().idx().load())), chains.len());
        for (n, head) in heads.into_iter().enumerate() {
            let used = mock.used().ring().ref_at(n).unwrap().load();
            prop_assert_eq!((used.id(), used.len()), (u32::from(head), n as u32));
        }
    }
}
