//! A short soak: each kind of event at least once. `make soak MINUTES=60` is the long one.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::soak::{Options, run};

/// What QEMU ends with now and then by itself, emulating a machine that memory can be plugged into.
const QEMU_FAULT: &str = "iotlb_to_section: Assertion";

#[test]
fn everything_at_once_loses_nothing() -> Result<()> {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let soak = || run(&Options { time: Duration::from_secs(15), seed, progress: Duration::from_secs(5) });
    let is_of_qemu = |told: String| told.contains(QEMU_FAULT);
    let report = match soak() {
        Err(e) if is_of_qemu(format!("{e:#}")) => soak()?,
        Ok(report) if !report.is_clean() && is_of_qemu(report.to_string()) => soak()?,
        other => other?,
    };
    println!("{report}");
    ensure!(report.is_clean(), "{report}");
    ensure!(report.events().len() == 8, "not all kinds of events came: {:?}", report.events());
    Ok(())
}
