//! Copies of what a guest sends and gets, on their way to whoever writes them to a file.
//!
//! A capture is a piece of shared memory with a ring for each lane: [`Producer`] is the worker's end, [`Consumer`] that of
//! the program that captures, which has the memory from the control socket. A worker never waits for it: a frame that finds
//! no room is counted and passed over. It trusts nothing in the memory but what it wrote itself.
//!
//! | at | in the page before a ring |
//! |--|--|
//! | 0 | bytes that were ever written to the ring (written by the worker) |
//! | 8 | frames that found no room (the worker) |
//! | 128 | bytes of these that were read (whoever reads) |
//!
//! The ring holds records, each on a multiple of eight bytes: how many bytes of the frame follow (4 bytes), its length (4),
//! twice the time in nanoseconds of `CLOCK_MONOTONIC`, and one more if the frame went to the guest (8), the bytes.

mod area;
mod recorder;
mod ring;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use self::area::Area;
use crate::uplink::MAX_FRAME;

pub use recorder::Recorder;
pub use ring::{Broken, Consumer, Meta, Producer};

/// Most bytes of a frame that are kept: all of any frame.
pub const MAX_SNAPLEN: usize = MAX_FRAME;

/// Most rings of a capture.
pub const MAX_RINGS: usize = 256;

/// The version of what is in the shared memory.
pub const FORMAT: u32 = 1;

/// Bytes of all rings of a capture together, as long as each has its least.
const TOTAL: usize = 16 << 20;
/// Least and most bytes of a ring. The least holds any frame.
const LEAST: usize = 256 << 10;
const MOST: usize = 4 << 20;

const _: () = assert!(LEAST > 2 * MAX_SNAPLEN && LEAST.is_power_of_two() && MOST.is_power_of_two());

/// Bytes of each of so many rings.
#[must_use]
pub fn ring_size(rings: usize) -> usize {
    let share = (TOTAL / rings.max(1)).clamp(LEAST, MOST);
    1 << share.ilog2()
}

/// Makes the memory of a capture of so many rings, 1 to [`MAX_RINGS`]: the file to share, and the end of each ring that
/// writes.
///
/// # Errors
/// When the kernel does not give the memory.
pub fn create(rings: usize) -> io::Result<(File, Vec<Producer>)> {
    let len = Area::len(rings, ring_size(rings)) as u64;
    let file = File::from(rustix::fs::memfd_create("capture", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    // Now, and not when a worker touches it.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len)?;
    // Whoever gets it cannot take it away.
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let areas = Area::map(file.try_clone()?, rings, ring_size(rings))?;
    Ok((file, areas.into_iter().map(Producer::new).collect()))
}

/// The other ends of a capture's rings, of so many bytes each.
///
/// # Errors
/// When the file does not hold them, or cannot be mapped.
pub fn open(file: File, rings: usize, size: usize) -> io::Result<Vec<Consumer>> {
    Ok(Area::map(file, rings, size)?.into_iter().map(Consumer::new).collect())
}
