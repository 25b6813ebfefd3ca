//! What the benches share: comparing two subjects fairly and telling the result.
//!
//! A bench measures two subjects in turn in one run (A B A B ...), because on a machine that others use only the ratio
//! of neighbours means something. It fills a [`report::Report`], which becomes a table ([`report`]), a JSON file and a
//! plot ([`plot`]). Guests and their traffic come from [`rig`] and [`iperf`]; [`supervise`] takes everything down,
//! however a run ends. [`loadgen`] is a guest of its own: packets by the clock, without a VM.

#![warn(missing_docs)]

pub mod iperf;
pub mod loadgen;
pub mod plot;
pub mod report;
pub mod rig;
pub mod stats;
pub mod supervise;

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};

/// How busy the machine is: the load averages over 1, 5 and 15 minutes.
///
/// # Errors
/// When the kernel does not tell.
pub fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// The target directory: two above this program.
///
/// # Errors
/// When this program lies elsewhere.
pub fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe()?;
    exe.ancestors().nth(2).map(Into::into).context("this program lies nowhere")
}
