//! Where packed rings stand, kept where a daemon that is started again finds it.
//!
//! The memory of a packed ring does not tell where its device stands (virtio 1.3, 2.8). A front end learns it from a ring
//! that is stopped in order (vhost-user, `VHOST_USER_GET_VRING_BASE`); from a connection that ended it learns nothing, and
//! QEMU keeps no inflight record for network devices. So the device keeps a record of its own: a line of 64 bytes a ring, in
//! a file that outlives the daemon, or in memory of its own that outlives the connection.
//!
//! | word of a line | what it holds |
//! |--|--|
//! | 0 | where the ring stands, in the ring's own words; 0: nobody knows |
//! | 1 | the front end: process in the lower half, user in the upper |
//! | 2 | features that the driver acknowledged |
//! | 3, 4, 5 | guest addresses of the ring's parts |
//! | 6 | where the front end said that it stands |
//! | 7 | the version of this format; entries, in its bits 40 to 55 |
//!
//! The first word is written by the ring's worker, once a publish, in one store that no reader sees half of. The others say
//! whose it is: they are written before the ring starts, while the first is 0. A line counts only if all of them match;
//! but a front end may have gone on from where it said that the ring stands (see [`resume`](crate::ring::resume)).

mod line;

use std::fs::File;
use std::io;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionError;

use self::line::{Line, WORDS};
use crate::memory::Mapping;

/// Bytes of a record: a page.
pub const LEN: usize = 4096;

/// Rings that have a line.
pub const RINGS: usize = LEN / (WORDS * size_of::<u64>());

/// "vnicd" and the version of the format.
const FORMAT: u64 = u64::from_le_bytes(*b"vnicd\0\0\x02");

/// The word that tells where the front end said that the ring stands.
const TOLD: usize = 6;

/// A front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0 if unknown.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

impl Peer {
    /// One that the kernel does not tell of.
    pub const UNKNOWN: Self = Self { pid: 0, uid: u32::MAX };
}

/// What a line is for. A front end that says something else has another ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The front end.
    pub peer: Peer,
    /// Features that the driver acknowledged.
    pub features: u64,
    /// Guest addresses of the ring's parts.
    pub addresses: [u64; 3],
    /// Entries.
    pub size: u16,
}

impl Identity {
    /// The words of a line that say so, each with its number.
    fn words(&self) -> [(usize, u64); WORDS - 2] {
        let [desc, avail, used] = self.addresses;
        let peer = u64::from(self.peer.pid.cast_unsigned()) | u64::from(self.peer.uid) << 32;
        let format = FORMAT | u64::from(self.size) << 40;
        [(1, peer), (2, self.features), (3, desc), (4, avail), (5, used), (7, format)]
    }
}

/// The record of a device.
#[derive(Debug)]
pub struct Records(Arc<Mapping>);

/// The record of a ring.
#[derive(Clone, Debug)]
pub struct RingRecord(Line);

impl Records {
    /// A record that ends with the daemon.
    ///
    /// # Errors
    /// When the kernel gives no memory.
    pub fn in_memory() -> io::Result<Self> {
        Mapping::anonymous(LEN).map(|mapping| Self(Arc::new(mapping))).map_err(io_error)
    }

    /// A record in a file of at least [`LEN`] bytes, which stays open.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn in_file(file: File) -> io::Result<Self> {
        Mapping::of_file(file, 0, LEN).map(|mapping| Self(Arc::new(mapping))).map_err(io_error)
    }

    /// The record of ring number `index`, if there can be one.
    #[must_use]
    pub fn ring(&self, index: usize) -> Option<RingRecord> {
        Line::new(self.0.clone(), index).map(RingRecord)
    }
}

impl RingRecord {
    /// Begins to be the record of the ring that `identity` tells of. If it was that before, what it says still stands.
    pub fn begin(&self, identity: &Identity) {
        let words = identity.words();
        if words.iter().all(|(at, word)| self.0.load(*at) == *word) {
            return;
        }
        self.forget();
        for (at, word) in words {
            self.0.store(at, word);
        }
    }

    /// Where the front end said that the ring stands when it last started. One that lost its device says the same again,
    /// if it did not touch the ring itself.
    #[must_use]
    pub fn told(&self) -> u32 {
        self.0.load(TOLD) as u32
    }

    /// Notes where the front end says that the ring stands. If it said something else before, what the record says stands
    /// no more.
    pub fn set_told(&self, base: u32) {
        if self.told() != base {
            self.forget();
            self.0.store(TOLD, base.into());
        }
    }

    /// Where the ring stands, if that is known.
    #[must_use]
    pub fn stand(&self) -> Option<u64> {
        Some(self.0.load(0)).filter(|stand| *stand != 0)
    }

    /// Notes where the ring stands. Whoever sees what is written to guest memory after this would find this here, too.
    #[inline]
    pub fn set_stand(&self, stand: u64) {
        self.0.store(0, stand);
    }

    /// Knows no more where the ring stands: its front end does.
    pub fn forget(&self) {
        self.0.store(0, 0);
    }
}

fn io_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let peer = Peer { pid: 17, uid: 1000 };
        Identity { peer, features: 1 << 34, addresses: [0x1000, 0x2000, 0x3000], size: 256 }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn what_stands_in_a_file_is_found_by_the_next_daemon() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEN as u64).unwrap();
        let open = || Records::in_file(file.try_clone().unwrap()).unwrap();
        let first = open().ring(63).unwrap();
        first.begin(&identity());
        assert_eq!(first.stand(), None);
        first.set_stand(42);
        let next = open();
        let again = next.ring(63).unwrap();
        again.begin(&identity());
        assert_eq!(again.stand(), Some(42));
        assert_eq!(next.ring(62).unwrap().stand(), None);
        assert!(next.ring(64).is_none());
    }

    #[test]
    fn whoever_is_anybody_else_finds_nothing() {
        let records = Records::in_memory().unwrap();
        let ring = records.ring(0).unwrap();
        let same = identity();
        let others = [
            Identity { peer: Peer { pid: 18, ..same.peer }, ..same },
            Identity { peer: Peer { uid: 0, ..same.peer }, ..same },
            Identity { features: 0, ..same },
            Identity { addresses: [0x1010, 0x2000, 0x3000], ..same },
            Identity { addresses: [0x1000, 0x2010, 0x3000], ..same },
            Identity { addresses: [0x1000, 0x2000, 0x3010], ..same },
            Identity { size: 512, ..same },
        ];
        for other in others {
            ring.begin(&same);
            ring.set_stand(42);
            ring.begin(&same);
            assert_eq!(ring.stand(), Some(42));
            ring.begin(&other);
            assert_eq!(ring.stand(), None, "{other:?}");
            ring.begin(&same);
            assert_eq!(ring.stand(), None, "what another has begun is not gone back to");
        }
        ring.set_told(0x8000_8000);
        ring.set_stand(42);
        ring.set_told(0x8000_8000);
        assert_eq!((ring.stand(), ring.told()), (Some(42), 0x8000_8000));
        ring.set_told(0x8001_8001);
        assert_eq!((ring.stand(), ring.told()), (None, 0x8001_8001));
        ring.set_stand(42);
        ring.forget();
        assert_eq!(ring.stand(), None);
    }
}
