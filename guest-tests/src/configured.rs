//! A daemon on a configuration file, with as many devices as that lists.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::vnicd::{binary, status};
use crate::{NetNs, Process};

/// How long the daemon may take until it listens.
const START: Duration = Duration::from_secs(10);

/// A running daemon; it is killed when this value is dropped.
#[derive(Debug)]
pub struct Configured {
    process: Process,
    dir: TempDir,
}

impl Configured {
    /// Starts it on a file and waits until each of the sockets is listened on. `DIR` in the file stands for a directory
    /// of its own, in which the sockets are and `control`, if it has one.
    pub fn start(ns: &NetNs, file: &str, sockets: &[&str]) -> Result<Self> {
        Self::start_with(ns, file, &[], sockets)
    }

    /// The same with more files, each a path in the directory and a text, beside the first one.
    pub fn start_with(ns: &NetNs, file: &str, more: &[(&str, &str)], sockets: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vnicd-test-").tempdir()?;
        let path = dir.path().join("vnicd.toml");
        let put = |path: &Path, text: &str| fs::write(path, text.replace("DIR", &dir.path().to_string_lossy()));
        put(&path, file)?;
        for (name, text) in more {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().context("no directory")?)?;
            put(&path, text)?;
        }
        let mut command = ns.command(binary()?);
        command.arg("--config").arg(path);
        let vnicd = Self { process: Process::spawn(command)?, dir };
        for socket in sockets {
            let line = format!("listening on {}", vnicd.path(socket).display());
            vnicd.process.wait_for_line(&line, START)?;
        }
        Ok(vnicd)
    }

    /// The process: signals, waits, output.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The socket of this name.
    pub fn path(&self, socket: &str) -> PathBuf {
        self.dir.path().join(socket)
    }

    /// What `vnicctl status --json` shows.
    pub fn status(&self) -> Result<Value> {
        status(&self.path("control"))
    }
}
