//! `vnicctl device add`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vnicd::config::{NewDevice, one_device};

use super::change::{apply, hold_signals};
use super::{Daemon, Directory, Error, client, configuration, reload, wrong};

pub(super) const AFTER_HELP: &str = "\
Options that are left out are vnicd's defaults, and not written. The device is there when the command ends with 0; when it \
ends with 1, nothing has changed.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    device: NewDevice,

    /// Take the device from this file instead, with the keys of a device; - is standard input
    #[arg(long, value_name = "FILE", help_heading = "How to add")]
    file: Option<PathBuf>,

    /// Take the place of a device of this name, if there is one; its front end loses the connection
    #[arg(long, help_heading = "How to add")]
    replace: bool,
}

pub(super) fn run(daemon: &Daemon, args: &Args) -> Result<(), Error> {
    let name = args.device.name.as_str();
    let text = text(args)?;
    if name.starts_with('.') {
        return Err(wrong(format!("'{name}' begins with a dot: the daemon does not read hidden files")));
    }
    let directory = Directory::of(&configuration(daemon)?)?;
    hold_signals();
    let change = directory.put(name, &text, args.replace)?;
    let path = change.path().to_string_lossy().into_owned();
    let reloaded = apply(daemon, change, &format!("'{name}' is not added"), |reloaded, configuration| {
        if let Some((_, why)) = reloaded.failed.iter().find(|(failed, _)| failed == name) {
            return Err(why.clone());
        }
        match configuration.device(name) {
            Some(device) if device.file.as_ref() == Some(&path) => Ok(()),
            _ => Err(format!("the daemon does not see {path}: is it in another container, or has device-dir changed?")),
        }
    })?;
    client::print(&reload::show(&reloaded))
}

/// What is to stand in the file.
fn text(args: &Args) -> Result<String, Error> {
    if args.file.is_some() && !args.device.is_empty() {
        return Err(wrong("--file has all that is to be known of the device: leave the other options out"));
    }
    let from = args.file.as_ref().map(|path| path.to_string_lossy());
    let text = match &args.file {
        None => args.device.text().map_err(io::Error::other),
        Some(path) if path == Path::new("-") => io::read_to_string(io::stdin()),
        Some(path) => fs::read_to_string(path),
    };
    let from = from.as_deref().map(|from| if from == "-" { "standard input" } else { from });
    let text = text.map_err(|e| wrong(format!("cannot read {}: {e}", from.unwrap_or("the options"))))?;
    // The daemon would say the same, of a file that is gone by then.
    one_device(from, args.device.name, &text).map_err(wrong)?;
    Ok(text)
}
