//! Kinds of commands, whether one did what a document says, and what they are about.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{looks_like, repository};
use crate::{Output, Process};

const PATIENCE: Duration = Duration::from_secs(60);
/// The daemon that answers where a document has started none: what it serves, and what it serves after a change.
pub(super) const SERVED: &str = "device-dir = '/etc/vnicd/devices'\n\n\
    [[device]]\nname = 'vm1'\nsocket-path = '/run/vnicd/vm1.sock'\nuplink = 'loopback'\nqueue-pairs = 4\n";
pub(super) const ANOTHER: &str =
    "[[device]]\nname = 'vm3'\nsocket-path = '/run/vnicd/vm3.sock'\nuplink = 'loopback'\nqueue-pairs = 1\n";
pub(super) const CHANGED: &str = "[[device]]\nname = 'vm3'\nsocket-path = '/run/vnicd/vm3.sock'\nuplink = 'loopback'\nqueue-pairs = 2\n\n\
                       [[device]]\nname = 'vm2'\nsocket-path = '/run/vnicd/vm2.sock'\nuplink = 'loopback'\n";

/// Whether make knows what it is told; it takes minutes to do it.
pub(super) fn rehearse(words: &[&str]) -> Result<()> {
    let mut command = Command::new("make");
    command.arg("--dry-run").args(&words[1..]).current_dir(repository());
    Process::spawn(command)?.wait_output(PATIENCE)?.ok("make --dry-run").map(drop)
}

/// Whether a script of the repository is there; each has tests of its own, or takes minutes.
pub(super) fn is_program(script: &str) -> Result<()> {
    let mode = fs::metadata(repository().join(script)).with_context(|| script.to_owned())?.permissions().mode();
    ensure!(mode & 0o111 != 0, "{script} cannot be started");
    Ok(())
}

/// Whether a command goes on until it is interrupted.
pub(super) fn is_endless(words: &[&str]) -> bool {
    let has = |word: &str| words.contains(&word);
    has("vnicctl") && (has("events") || has("capture") && !has("--count") || has("--watch"))
}

pub(super) fn judge(output: &Output, shown: &[String]) -> Result<()> {
    let printed = format!("{}{}", output.stdout, output.stderr);
    let fails =
        shown.iter().any(|line| line.starts_with("vnicctl:") || line.starts_with("vnicd:") || line.starts_with("BAD"));
    ensure!(fails == (output.status != 0), "it ended with {}\n{printed}", output.status);
    if let Some(line) = looks_like(shown, &printed) {
        bail!("nothing like \"{line}\" in\n{printed}");
    }
    Ok(())
}
