//! The command line.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::config::{Config, DeviceOptions, LogFormat, Texts};
use crate::service::PassedSockets;

/// A virtual NIC for virtual machines: a vhost-user-net back end that sleeps when idle.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Read everything from this file instead; its options bear the same names
    ///
    /// It is read again at SIGHUP and by vnicctl reload.
    #[arg(long, value_name = "FILE", exclusive = true)]
    config: Option<PathBuf>,

    /// Try what the sandbox must refuse instead of serving anything, and say what came of it
    #[arg(long, hide = true)]
    sandbox_self_test: bool,

    /// Print what this program can do as JSON, and end
    ///
    /// As QEMU's conventions for back ends ask. All other options are ignored.
    #[arg(long)]
    print_capabilities: bool,

    // After the options above, which have no heading.
    #[command(flatten)]
    device: DeviceOptions,

    #[command(flatten)]
    daemon: Config,
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
        match self.source(passed.clone()) {
            Some(source) => source.parse(&source.text()?),
            None => {
                let Self { device, mut daemon, .. } = self;
                daemon.devices = vec![device];
                finished(daemon, passed)
            }
        }
    }

    /// Where the configuration can be read again, if it is a file.
    #[must_use]
    pub fn source(&self, passed: PassedSockets) -> Option<Source> {
        self.config.clone().map(|path| Source { path, passed })
    }
}

/// A configuration file with what it names, and the sockets that were passed for its devices.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    passed: PassedSockets,
}

impl Source {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the files say now, all of it as one text.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn text(&self) -> Result<String, Box<dyn Error>> {
        Ok(serde_json::to_string(&Texts::read(&self.path)?)?)
    }

    /// The configuration that `text` is, with the sockets that were passed, checked.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn parse(&self, text: &str) -> Result<Config, Box<dyn Error>> {
        finished(serde_json::from_str::<Texts>(text)?.parse()?, self.passed.clone())
    }
}

fn finished(mut config: Config, passed: PassedSockets) -> Result<Config, Box<dyn Error>> {
    passed.give_to(&mut config)?;
    Ok(config.check()?)
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
