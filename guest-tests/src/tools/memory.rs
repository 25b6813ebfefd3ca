//! Memory that is checked and written over and over: what a migration must carry along.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::payload::Payload;
use super::{MemoryReport, READY};

const PAGE: usize = 4096;
/// One page of so many is written anew each time round.
const STRIDE: usize = 4;

/// Fills `mib` MiB, and checks and changes them until `stop` exists, with a rest after each round.
pub(super) fn check(mib: usize, stop: &Path, rest: Duration) -> Result<MemoryReport> {
    let pages = mib * ((1 << 20) / PAGE);
    let (mut memory, mut written) = (vec![0; pages * PAGE], vec![0u64; pages]);
    let (mut expected, mut wrong, mut rounds) = (vec![0; PAGE], 0, 0);
    for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
        fill(page, number, 0);
    }
    println!("{READY}");
    // Every page is looked at once more after the end was told.
    let mut is_last = false;
    while !is_last {
        is_last = stop.exists();
        for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
            fill(&mut expected, number, written[number]);
            wrong += u64::from(page != expected);
            if number % STRIDE == rounds as usize % STRIDE {
                written[number] += 1;
                fill(page, number, written[number]);
            }
        }
        rounds += 1;
        thread::sleep(rest);
    }
    Ok(MemoryReport { pages: pages as u64, rounds, wrong })
}

/// What stands in a page that was written so many times.
fn fill(page: &mut [u8], number: usize, written: u64) {
    Payload::new((number as u64) << 32 ^ written).fill(page);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_nobody_else_writes_stays_right() {
        let stop = tempfile::NamedTempFile::new().unwrap();
        let report = check(1, stop.path(), Duration::ZERO).unwrap();
        assert_eq!((report.pages, report.rounds, report.wrong), (256, 1, 0));
    }
}
