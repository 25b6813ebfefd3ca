//! Everything at once for so many minutes: `soak MINUTES [SEED]`. See `guest_tests::soak`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::soak::{Options, run};

fn main() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let minutes: f64 = args.next().context("usage: soak MINUTES [SEED]")?.parse().context("MINUTES is no number")?;
    ensure!((0.0..100_000.0).contains(&minutes), "{minutes} minutes cannot be run");
    let seed = match args.next() {
        Some(seed) => seed.parse().with_context(|| format!("SEED is {seed}, not a whole number"))?,
        None => fastrand::u64(0..1_000_000),
    };
    let time = Duration::from_secs_f64(minutes * 60.0);
    let report = run(&Options { time, seed, progress: Duration::from_secs(60) })?;
    println!("\n{report}");
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
