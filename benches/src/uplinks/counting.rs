//! Counting what gets there: how much a second, and when nothing more comes.

#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guest_tests::NetNs;

/// How long the first packet may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long traffic runs before it counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long nothing must come before nothing more is expected.
const QUIET: Duration = Duration::from_millis(300);

/// A namespace in which nobody speaks unasked.
pub fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// How much is added a second, once anything is and it has warmed up.
pub fn rate(time: Duration, mut count: impl FnMut() -> Result<u64>) -> Result<f64> {
    let begun = Instant::now();
    while count()? == 0 {
        ensure!(begun.elapsed() < PATIENCE, "no packet gets there");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(WARM_UP);
    let (start, before) = (Instant::now(), count()?);
    thread::sleep(time);
    let after = count()?;
    Ok((after - before) as f64 / start.elapsed().as_secs_f64())
}

/// What is counted when something was added to `first`, and nothing more comes.
pub fn settled(first: u64, mut count: impl FnMut() -> Result<u64>) -> Result<u64> {
    let begun = Instant::now();
    let (mut last, mut since) = (first, begun);
    loop {
        thread::sleep(Duration::from_millis(10));
        let now = count()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if last > first && since.elapsed() > QUIET {
            return Ok(last);
        }
        ensure!(begun.elapsed() < PATIENCE, "no packet gets there");
    }
}
