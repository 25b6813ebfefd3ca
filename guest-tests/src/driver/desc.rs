//! Descriptors of both ring formats (virtio 1.3, 2.7.5 and 2.8.13), and the words of a ring in shared memory.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The next descriptor continues the chain.
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// The buffer holds descriptors.
pub const INDIRECT: u16 = 4;

/// A descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// Guest address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// `VIRTQ_DESC_F_*`.
    pub flags: u16,
    /// The descriptor after it; of a packed ring, the buffer's id.
    pub next: u16,
}

impl Desc {
    /// Bytes of a descriptor in either format.
    pub const SIZE: u64 = 16;

    /// A descriptor that stands alone.
    #[must_use]
    pub fn new(address: u64, len: u32, flags: u16) -> Self {
        Self { address, len, flags, next: 0 }
    }

    /// As a split ring has it.
    pub(super) fn split(&self) -> [u8; 16] {
        self.bytes(self.flags, self.next)
    }

    /// As a packed ring has it: the last two words the other way around.
    pub(super) fn packed(&self) -> [u8; 16] {
        self.bytes(self.next, self.flags)
    }

    fn bytes(&self, third: u16, last: u16) -> [u8; 16] {
        let words = (u128::from(last) << 16 | u128::from(third)) << 96;
        (words | u128::from(self.len) << 64 | u128::from(self.address)).to_le_bytes()
    }
}

/// A chain that the device has.
#[derive(Debug)]
pub(super) struct Offered {
    /// What the device names it by: its first descriptor, or the buffer's id.
    pub(super) id: u16,
    /// Descriptors of it: their numbers in a split ring's table, of a packed ring those of their slots.
    pub(super) descs: Vec<u16>,
    /// Bytes that the device may write.
    pub(super) writable: u32,
}

/// The memory that a ring lies in. A ring lies in memory, or the test is wrong.
#[derive(Clone, Debug)]
pub(super) struct RingMemory(pub(super) GuestMemoryMmap);

impl RingMemory {
    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.0.write_slice(bytes, GuestAddress(at)).expect("the ring lies in memory");
    }

    pub(super) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_slice(&mut bytes, GuestAddress(at)).expect("the ring lies in memory");
        bytes
    }

    pub(super) fn store(&self, at: u64, value: u16) {
        self.0.store(value, GuestAddress(at), Ordering::Release).expect("the ring lies in memory");
    }

    pub(super) fn load(&self, at: u64) -> u16 {
        self.0.load(GuestAddress(at), Ordering::Acquire).expect("the ring lies in memory")
    }

    pub(super) fn store_pair(&self, at: u64, low: u16, high: u16) {
        let both = u32::from(high) << 16 | u32::from(low);
        self.0.store(both.to_le(), GuestAddress(at), Ordering::Release).expect("the ring lies in memory");
    }

    pub(super) fn load_pair(&self, at: u64) -> (u16, u16) {
        let both: u32 = self.0.load(GuestAddress(at), Ordering::Acquire).expect("the ring lies in memory");
        let both = u32::from_le(both);
        (both as u16, (both >> 16) as u16)
    }
}

/// Numbers that are free to be given out: of descriptors, or of buffers.
#[derive(Debug)]
pub(super) struct Free {
    numbers: std::collections::VecDeque<u16>,
    in_order: bool,
}

impl Free {
    pub(super) fn new(size: u16, in_order: bool) -> Self {
        Self { numbers: (0..size).collect(), in_order }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// With IN_ORDER the numbers go round (virtio 1.3, 2.7.9); without it, what came back last is given out first, so
    /// that they mix.
    pub(super) fn take(&mut self) -> Option<u16> {
        if self.in_order { self.numbers.pop_front() } else { self.numbers.pop_back() }
    }

    pub(super) fn give_back(&mut self, numbers: impl IntoIterator<Item = u16>) {
        self.numbers.extend(numbers);
    }
}
