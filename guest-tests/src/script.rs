//! The launch scripts of `configs/`, run as they stand: what a test has other than a user is said by the variables at their
//! tops, and by what comes first on their path.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::assets::Qemu;
use crate::guest::qemu::{Accel, accel, program};
use crate::guest::{Guest, GuestBuilder};
use crate::netns::NetNs;
use crate::process::Process;
use crate::vnicd;

/// A script and what it is told.
#[derive(Debug)]
pub struct Script {
    path: PathBuf,
    ns: NetNs,
    variables: Vec<(OsString, OsString)>,
    more_programs: Vec<PathBuf>,
    dir: TempDir,
}

impl Script {
    /// A script of `configs/`, in a namespace, with a socket in a directory of its own, and this build's vnicd.
    pub fn new(ns: &NetNs, name: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name).canonicalize();
        let path = path.with_context(|| format!("no configs/{name}"))?;
        let dir = tempfile::Builder::new().prefix("vnicd-test-").tempdir()?;
        let script = Self { path, ns: ns.clone(), variables: Vec::new(), more_programs: Vec::new(), dir };
        fs::create_dir(script.programs())?;
        symlink(vnicd::binary()?, script.programs().join("vnicd"))?;
        script.stand_in("qemu-system-x86_64", &as_shell(&program(Qemu::V10, None)?))?;
        let accel = if accel()? == Accel::Kvm { "kvm" } else { "tcg" };
        let (socket, state) = (script.socket(), script.dir().join("state"));
        Ok(script.set("ACCEL", accel).set("MEMORY", "256M").set("SOCKET", socket).set("STATE", state))
    }

    /// Sets a variable.
    pub fn set(mut self, variable: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((variable.into(), value.into()));
        self
    }

    /// Has it find the programs of a directory before the machine's.
    pub fn programs_of(mut self, dir: impl Into<PathBuf>) -> Self {
        self.more_programs.push(dir.into());
        self
    }

    /// Has it find a shell script in the place of a program.
    pub fn stand_in(&self, name: &str, text: &str) -> Result<()> {
        let path = self.programs().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    /// The socket between vnicd and its front end.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("s")
    }

    /// A directory that lives as long as this value.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs it as the first process of a process namespace: when it ends, however it ends, all that it started does.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.ns.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(&self.path);
        let machine = std::env::var_os("PATH").unwrap_or_default();
        let own = [self.programs()].into_iter().chain(self.more_programs.iter().cloned());
        command.env("PATH", std::env::join_paths(own.chain(std::env::split_paths(&machine)))?);
        command.envs(self.variables.iter().cloned());
        Ok(command)
    }

    /// Starts it with these arguments.
    pub fn spawn(&self, args: &[&str]) -> Result<Process> {
        let mut command = self.command()?;
        command.args(args);
        Process::spawn(command)
    }

    /// Boots a guest by it. The guest's process is the script: its output is that of vnicd and QEMU.
    pub fn boot(&self, guest: GuestBuilder) -> Result<Guest> {
        guest.qemu(Qemu::V10).boot_by(self.command()?)
    }

    fn programs(&self) -> PathBuf {
        self.dir().join("bin")
    }
}

/// A shell line that runs a command with the arguments that the shell was given besides.
fn as_shell(command: &Command) -> String {
    let quoted = |word: &std::ffi::OsStr| format!("'{}' ", word.to_string_lossy().replace('\'', r"'\''"));
    let set = command.get_envs().filter_map(|(name, value)| Some((name.to_string_lossy(), value?)));
    let variables: String = set.map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    let words: String = [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect();
    format!("{variables}exec {words}\"$@\"")
}
