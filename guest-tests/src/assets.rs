//! Where the things are that the harness runs: what `scripts/setup` fetched and what cargo built.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Which QEMU a guest runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qemu {
    /// Debian 12's own, 7.2.
    V7,
    /// That of Debian 12's backports, 10.0; the one that can do MSI-X and multi-queue with vhost-user under TCG.
    V10,
}

/// Which kernel a guest boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's own cloud kernel, 6.1.
    Stock,
    /// That of Debian 12's backports, 6.12; the one whose driver leaves UDP segmentation to the device.
    Backports,
}

impl Qemu {
    /// Both versions, for tests that run with each.
    pub const ALL: [Self; 2] = [Self::V7, Self::V10];

    /// The directory it was unpacked into; none for the one that is installed.
    pub(crate) fn unpacked(self) -> Result<Option<PathBuf>> {
        match self {
            Self::V7 => Ok(None),
            Self::V10 => set_up("qemu10").map(Some),
        }
    }
}

impl Kernel {
    /// The directory that holds `boot/` and `lib/modules/`.
    pub(crate) fn dir(self) -> Result<PathBuf> {
        match self {
            Self::Stock => set_up("kernel"),
            Self::Backports => set_up("kernel-backports"),
        }
    }

    /// The name of its initramfs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Backports => "backports",
        }
    }
}

/// The directory of the set-up: `GUEST_CACHE`, else `guest` in cargo's target directory.
pub fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("GUEST_CACHE") {
        // Taken from the top of the repository when relative, as the set-up does.
        return Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir));
    }
    let built = build_dir()?;
    let found = built.ancestors().skip(1).map(|dir| dir.join("guest")).find(|dir| dir.join("kernel").is_dir());
    found.context("no guest kernel beside the build: run `scripts/setup test` first")
}

/// A program of this workspace, built with the same profile as the one that runs.
pub fn built(name: &str) -> Result<PathBuf> {
    let path = build_dir()?.join(name);
    if !path.is_file() {
        bail!("{} is not built", path.display());
    }
    Ok(path)
}

/// The agent, which is also the traffic tools' program on the host.
pub fn agent() -> Result<PathBuf> {
    built("guest-agent").context("build it with `cargo build -p guest-tests`")
}

fn set_up(name: &str) -> Result<PathBuf> {
    let dir = cache()?.join(name);
    if !dir.is_dir() {
        bail!("{} is missing: run `scripts/setup test` first", dir.display());
    }
    Ok(dir)
}

/// `target/<profile>`, of which test programs run in `deps`.
fn build_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("this program lies nowhere")?;
    let nested = dir.ends_with("deps") || dir.ends_with("examples");
    Ok(if nested { dir.join("..").canonicalize()? } else { dir.into() })
}
