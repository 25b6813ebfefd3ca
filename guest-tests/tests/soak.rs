//! A short soak: each kind of event at least once. `make soak MINUTES=60` is the long one.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::soak::{Options, run};

#[test]
fn everything_at_once_loses_nothing() -> Result<()> {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let report = run(&Options { time: Duration::from_secs(15), seed, progress: Duration::from_secs(5) })?;
    println!("{report}");
    ensure!(report.is_clean(), "{report}");
    ensure!(report.events().len() == 8, "not all kinds of events came: {:?}", report.events());
    Ok(())
}
