//! What the daemon is to do, checked: from the command line or from a file, with the same names.
//!
//! ```toml
//! control = "/run/vnicd/control.sock"
//!
//! [[device]]
//! name = "vm1"
//! socket-path = "/run/vnicd/vm1.sock"
//! uplink = "tap=vm1,bridge=br0"
//! queue-pairs = 4
//! ```
//!
//! More devices may have a file each, in a directory that the first file names: `device-dir`.

#![forbid(unsafe_code)]

mod af_xdp;
mod device;
mod error;
mod files;
mod metrics;
mod new_device;
pub mod uplink_help;
mod values;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;

pub use crate::guard::Mac;
pub use af_xdp::XdpSpec;
pub use device::DeviceOptions;
pub use error::{ConfigError, Named};
pub use files::{Origin, Texts, one_device};
pub use metrics::MetricsAddress;
pub use new_device::NewDevice;
pub use values::{CpuList, RunAs, SocketGroup, SocketMode, UplinkSpec};

/// The daemon's configuration.
#[derive(Args, Clone, Debug, Deserialize)]
#[command(next_help_heading = "The daemon")]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Answer vnicctl on this Unix socket
    ///
    /// It belongs to the daemon's user alone (mode 600).
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Give Prometheus metrics on this port, such as 127.0.0.1:9477, at /metrics
    ///
    /// With port 0 the kernel chooses one, and the log tells which. Loopback addresses only, unless there is
    /// --metrics-public.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<MetricsAddress>,

    /// Let --metrics have an address that other machines can reach
    #[arg(long)]
    #[serde(default)]
    pub metrics_public: bool,

    /// Keep in this directory where packed rings stand, so that a daemon that is killed and started again goes on there
    ///
    /// It must belong to the daemon's user and be writable for nobody else. One that is gone after a boot does best, such
    /// as /run/vnicd. Without it packed rings survive a connection, not the daemon.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Give up all rights but those that are needed
    #[arg(long, value_name = "ON", default_value = "on")]
    #[serde(default)]
    pub sandbox: Switch,

    /// Become this user, a name or a number, after what needs rights was set up
    ///
    /// The process that opens things stays what it was. Not with --sandbox off.
    #[arg(long, value_name = "USER")]
    pub user: Option<RunAs>,

    /// What to log: error, warn, info, debug, trace, or a filter such as vnicd::worker=debug
    #[arg(long, value_name = "LEVEL", default_value = DEFAULT_LOG)]
    #[serde(default = "default_log")]
    pub log: String,

    /// How log lines look, on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    #[serde(default)]
    pub log_format: LogFormat,

    /// A directory with a file for each of more devices: the keys of a `[[device]]`, in NAME.toml.
    #[arg(skip)]
    pub device_dir: Option<PathBuf>,

    /// The devices, those of the file first.
    #[arg(skip)]
    #[serde(default, rename = "device")]
    pub devices: Vec<DeviceOptions>,

    /// Where each of the devices is defined, as far as that is in files.
    #[arg(skip)]
    #[serde(skip)]
    origins: Vec<Origin>,
}

const DEFAULT_LOG: &str = "info";

fn default_log() -> String {
    DEFAULT_LOG.into()
}

/// Whether rights are given up.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// A process of its own opens what takes rights; the one that serves guests has no capabilities, no paths and few
    /// system calls.
    #[default]
    On,
    /// One process with all that it was started with, for debugging.
    Off,
}

/// Whether threads are placed by where a guest's memory is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Numa {
    /// They are.
    Auto,
    /// They are not.
    #[default]
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Names of the options that differ from those of `other` and are no device's.
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        let differing = [
            ("control", self.control != other.control),
            ("metrics", self.metrics != other.metrics || self.metrics_public != other.metrics_public),
            ("state-dir", self.state_dir != other.state_dir),
            ("log", self.log != other.log || self.log_format != other.log_format),
            ("sandbox", self.sandbox != other.sandbox),
            ("user", self.user != other.user),
        ];
        differing.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// The configuration if it makes sense.
    ///
    /// # Errors
    /// When options do not fit together.
    pub fn check(self) -> Result<Self, ConfigError> {
        if self.devices.is_empty() && self.device_dir.is_none() {
            return Err(ConfigError::NoDevice);
        }
        if self.user.is_some() && self.sandbox == Switch::Off {
            return Err(ConfigError::UserWithoutSandbox);
        }
        metrics::check(self.metrics, self.metrics_public).map_err(ConfigError::Metrics)?;
        let named = |n: usize| Named(self.devices[n].name, self.origins.get(n).cloned());
        for (n, device) in self.devices.iter().enumerate() {
            device.check().map_err(|what| ConfigError::Device { device: named(n), what })?;
            for (other, before) in self.devices[..n].iter().enumerate() {
                if let Some(what) = before.shares(device) {
                    return Err(ConfigError::Shared { first: named(other), second: named(n), what });
                }
            }
        }
        Ok(self)
    }

    /// The devices and where each is defined, if that is in a file.
    pub fn defined(&self) -> impl Iterator<Item = (&DeviceOptions, Option<&Origin>)> {
        self.devices.iter().enumerate().map(|(n, device)| (device, self.origins.get(n)))
    }
}

#[cfg(test)]
mod tests;
