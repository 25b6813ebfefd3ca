//! The command line.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;

use crate::config::{Config, DeviceOptions, LogFormat};
use crate::service::PassedSockets;

/// A virtual NIC for virtual machines: a vhost-user-net back end that sleeps when idle.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(flatten)]
    device: DeviceOptions,

    #[command(flatten)]
    daemon: Config,

    /// Read everything from this file instead; its options bear the same names
    #[arg(long, value_name = "FILE", exclusive = true)]
    config: Option<PathBuf>,

    /// Try what the sandbox must refuse instead of serving anything, and say what came of it
    #[arg(long, hide = true)]
    sandbox_self_test: bool,

    /// Print what this program can do as JSON, and end
    #[arg(long)]
    print_capabilities: bool,
}

impl Cli {
    /// How to log, as far as the command line says.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        self.daemon.log_format
    }

    /// Whether the sandbox is to be tried.
    #[must_use]
    pub fn is_sandbox_self_test(&self) -> bool {
        self.sandbox_self_test
    }

    /// The configuration that was asked for, with the sockets that were passed, checked.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn into_config(self, passed: PassedSockets) -> Result<Config, Box<dyn Error>> {
        let mut config = match self.config {
            Some(path) => Config::read(&path)?,
            None => Config { devices: vec![self.device], ..self.daemon },
        };
        passed.give_to(&mut config)?;
        Ok(config.check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_file_stands_alone() {
        assert!(Cli::try_parse_from(["vnicd", "--config", "f", "--fd", "3"]).is_err());
        assert!(Cli::try_parse_from(["vnicd"]).unwrap().into_config(PassedSockets::default()).is_err(), "no front end");
    }
}
