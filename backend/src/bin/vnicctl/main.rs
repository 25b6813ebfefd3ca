//! Asks a running vnicd over its control socket, and tells it what to do.

#![forbid(unsafe_code)]

mod capture;
mod client;
mod device;
mod doctor;
mod events;
mod map;
mod mode;
mod reload;
mod stats;
mod status;
mod text;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use serde_json::Value;

use vnicd::control::DEFAULT_PATH;

use self::client::{Daemon, Error};

const AFTER_HELP: &str = "\
A TARGET is all, a device (nic0), a queue pair (nic0/0), or a direction of one (nic0/0/rx, nic0/0/tx) where each \
direction has a worker of its own.

It ends with 0 when all is well, and with 1 and one line when it is not.";

/// Asks a running vnicd what it is doing, and tells it what to do.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// The daemon's control socket, the one given to vnicd as --control
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH, global = true)]
    control: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show devices, their front ends, queue pairs and what they counted
    Status(status::Args),
    /// Show which worker, CPU, rings and uplink queue each queue has
    Map(map::Args),
    /// Have the daemon read its configuration file again, and change what differs
    Reload(reload::Args),
    /// Add, remove and show devices that have a file each, in the directory that the configuration file names
    #[command(subcommand)]
    Device(device::Command),
    /// Show or choose when queues sleep (interrupt) and when they are looked at all the time (polling)
    #[command(subcommand)]
    Mode(mode::Command),
    /// Show what queues counted, or at which rate they count
    Stats(stats::Args),
    /// Print a line for each change of a mode, until it is interrupted
    Events(events::Args),
    /// Write what a guest sends and gets to a file, until it is interrupted
    #[command(after_help = capture::AFTER_HELP)]
    Capture(capture::Args),
    /// Explain why a set-up does not work: rights, uplinks, sockets, memory, the daemon
    Doctor(doctor::Args),
    /// Show modes, rates and latencies of all queues, second by second
    Top(top::Options),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return cannot_read(&e),
    };
    let daemon = Daemon::new(cli.control);
    let done = match cli.command {
        Command::Status(args) => status::run(&daemon, &args),
        Command::Map(args) => map::run(&daemon, &args),
        Command::Reload(args) => reload::run(&daemon, &args),
        Command::Device(command) => device::run(&daemon, command),
        Command::Mode(command) => mode::run(&daemon, command),
        Command::Stats(args) => stats::run(&daemon, &args),
        Command::Events(args) => events::run(&daemon, &args),
        Command::Capture(args) => capture::run(&daemon, &args),
        Command::Doctor(args) => doctor::run(&daemon, &args),
        Command::Top(options) => show_top(&options, daemon),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever stopped reading has seen enough.
        Err(Error::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => fail(e),
    }
}

fn show_top(options: &top::Options, daemon: Daemon) -> Result<(), Error> {
    let status = move || daemon.ask_for("status", Value::Null).map_err(|e| e.to_string());
    client::print(&top::run(options, status).map_err(Error::Top)?)
}

/// Help that was asked for is no failure; help instead of a command that is missing is one.
fn cannot_read(error: &clap::Error) -> ExitCode {
    let is_help = !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !is_help {
        return fail(text::one_line(&error.to_string()));
    }
    // Whoever stopped reading has seen enough.
    let _ = error.print();
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn fail(why: impl std::fmt::Display) -> ExitCode {
    eprintln!("vnicctl: {why}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_are_one_line_that_names_the_value() {
        for (args, part) in [
            (vec!["mode", "set", "nic0", "fast"], "'fast'"),
            (vec!["mode", "set", "nic0/x", "polling"], "'nic0/x' is no target"),
            (vec!["mode", "set", "nic0"], "<MODE>"),
            (vec!["mode", "set", "nic0", "polling", "--for", "5"], "'5'"),
            (vec!["mode", "set", "nic0", "polling", "--for", "-5s"], "'-5s'"),
            (vec!["mode", "show", "/"], "'/' is no target"),
            (vec!["stats", "--watch", "0"], "'0'"),
            (vec!["stats", "--watch", "NaN"], "'NaN'"),
            (vec!["capture"], "--write <FILE>"),
            (vec!["capture", "-w", "-", "--filter", "tcp prot 80"], "'prot' is not expected there"),
            (vec!["capture", "-w", "-", "--snaplen", "0"], "0 is not in 1..=65553"),
            (vec!["capture", "-w", "-", "--count", "0"], "0 is not in 1.."),
            (vec!["capture", "-w", "-", "--device", "nic0/x"], "'nic0/x' is no target"),
            (vec!["device", "add"], "<NAME>"),
            (vec!["device", "add", "a/b"], "'a/b' is no device name"),
            (vec!["device", "add", "a", "--uplink", "wire"], "'wire' is no uplink"),
            (vec!["device", "remove"], "<NAME>"),
            (vec!["fly"], "'fly'"),
        ] {
            let error = Cli::try_parse_from(["vnicctl"].iter().chain(&args)).unwrap_err();
            let line = text::one_line(&error.to_string());
            assert!(line.contains(part) && !line.contains('\n'), "{args:?}: {line}");
        }
    }
}
