//! A guest that offers more than it may reaches its limit, and no more than that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Numbered, NumberedPair};
use guest_tests::lab::beside;
use guest_tests::{NetNs, Vnicd};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(20);
/// Frames on their way: more than what may come at once.
const AHEAD: u64 = 200;
/// How long is counted, and how often if the machine had no time for it.
const WINDOW: Duration = Duration::from_millis(1500);
const WINDOWS: usize = 6;
/// Of the limit, at least and at most.
const REACHED: std::ops::RangeInclusive<f64> = 0.7..=1.2;

/// Keeps more frames on their way than may move.
fn offers(pair: &mut NumberedPair, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        pair.receive()?;
        while pair.missing() < AHEAD && pair.offer()?.is_some() {}
        thread::sleep(Duration::from_millis(1));
    }
    pair.settle(PATIENCE)
}

/// What a counter gains a second: at least, and at most, by the time that it takes to look.
fn rate(vnicd: &Vnicd, counter: &str) -> Result<[f64; 2]> {
    // Of all of the guest's threads.
    let count = || anyhow::Ok(vnicd.counters(counter)?.iter().sum::<u64>());
    let look = || anyhow::Ok((Instant::now(), count()?, Instant::now()));
    let first = look()?;
    thread::sleep(WINDOW);
    let last = look()?;
    let gained = (last.1 - first.1) as f64;
    Ok([gained / (last.2 - first.0).as_secs_f64(), gained / (last.0 - first.2).as_secs_f64()])
}

/// Offers as much as there is room for: what a counter gains is the limit, in parts of `unit`.
fn reaches(option: &str, counter: &str, limit: f64, unit: f64, threads: &str, format: u64) -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").args([option, "--queue-pairs=1", "--threads", threads]);
    let vnicd = vnicd.control().start()?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES | format, 1, 256)?;
    let pair = &mut driver.pairs[0];
    beside(
        |stop| offers(pair, stop),
        || {
            // What may come at once has come then.
            thread::sleep(Duration::from_millis(200));
            let mut found = Vec::new();
            for _ in 0..WINDOWS {
                let [least, most] = rate(&vnicd, counter)?.map(|rate| rate * unit / limit);
                ensure!(least <= *REACHED.end(), "{least:.2} of the limit");
                found.push(most);
                if most >= *REACHED.start() {
                    println!("{option}, {threads}: {least:.3} to {most:.3} of the limit");
                    return Ok(());
                }
            }
            anyhow::bail!("of the limit there came {found:.2?}")
        },
    )
    .with_context(|| format!("{option}, {threads}, {}", if format == 0 { "split" } else { "packed" }))
}

#[test]
fn a_guest_that_sends_too_much_reaches_its_packets_a_second() -> Result<()> {
    reaches("--max-tx-pps=2k", "tx_packets", 2e3, 1.0, "per-pair", 0)?;
    reaches("--max-tx-pps=2k", "tx_packets", 2e3, 1.0, "pipeline", PACKED)
}

#[test]
fn a_guest_that_sends_too_much_reaches_its_bits_a_second() -> Result<()> {
    reaches("--max-tx-bps=12M", "tx_bytes", 12e6, 8.0, "per-direction", 0)?;
    reaches("--max-tx-bps=12M", "tx_bytes", 12e6, 8.0, "per-pair", PACKED)
}

#[test]
fn a_guest_that_gets_too_much_reaches_its_packets_a_second() -> Result<()> {
    reaches("--max-rx-pps=2k", "rx_packets", 2e3, 1.0, "pipeline", 0)?;
    reaches("--max-rx-pps=2k", "rx_packets", 2e3, 1.0, "per-pair", PACKED)
}

#[test]
fn a_guest_that_gets_too_much_reaches_its_bits_a_second() -> Result<()> {
    reaches("--max-rx-bps=12M", "rx_bytes", 12e6, 8.0, "per-pair", 0)?;
    reaches("--max-rx-bps=12M", "rx_bytes", 12e6, 8.0, "per-direction", PACKED)
}
