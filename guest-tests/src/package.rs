//! Packages of the programs beside the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Process;
use crate::vnicd::binary;

const PATIENCE: Duration = Duration::from_secs(180);

/// Makes a package (`deb` or `rpm`) of this version in `dir`; its path.
pub fn package(dir: &Path, kind: &str, version: &str) -> Result<PathBuf> {
    let programs = binary()?.parent().context("no directory")?.to_owned();
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/package"));
    command.arg(kind).env("VERSION", version).env("PROGRAMS", programs).env("OUTPUT", dir);
    Process::spawn(command)?.wait_output(PATIENCE)?.ok("scripts/package")?;
    let made = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.ends_with(kind) && name.contains(version)
    };
    made.into_iter().find(is_it).with_context(|| format!("no {kind} was made"))
}
