//! `vnicctl device`: devices that have a file each, in the directory that the daemon's configuration names.
//!
//! The daemon is never told what a device is: it reads that from the files. So whoever can write these can add a device,
//! and nobody else.

mod add;
mod change;
mod directory;
mod list;
mod remove;
mod show;

use serde_json::Value;
use vnicd::control::Configuration;

use self::directory::Directory;
use super::client::{self, Daemon, Error};
use super::text::Table;
use super::{reload, status};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a file for a new device, and have the daemon open it
    #[command(after_help = add::AFTER_HELP)]
    Add(add::Args),
    /// Delete the file of a device, and have the daemon close it
    Remove(remove::Args),
    /// Show which devices are configured, where, and whether they are in use
    List(list::Args),
    /// Show how a device is configured, and what it does
    Show(show::Args),
}

pub(crate) fn run(daemon: &Daemon, command: Command) -> Result<(), Error> {
    match command {
        Command::Add(args) => add::run(daemon, &args),
        Command::Remove(args) => remove::run(daemon, &args),
        Command::List(args) => list::run(daemon, &args),
        Command::Show(args) => show::run(daemon, &args),
    }
}

fn configuration(daemon: &Daemon) -> Result<Configuration, Error> {
    daemon.ask_for("configuration", Value::Null)
}

fn wrong(what: impl ToString) -> Error {
    Error::Device(what.to_string())
}

/// There is none of this name.
fn unknown(name: &str, configuration: &Configuration) -> Error {
    let names: Vec<_> = configuration.devices.iter().map(|device| device.name.as_str()).collect();
    wrong(match &*names {
        [] => format!("there is no device '{name}', nor any other"),
        names => format!("there is no device '{name}', but {}", names.join(", ")),
    })
}
