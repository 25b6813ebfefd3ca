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

#![forbid(unsafe_code)]

mod af_xdp;
mod metrics;
pub mod uplink_help;
mod values;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::guard::{Filter, Limits};
use crate::mode::{Policy, Setting};
use crate::nic::{MAX_QUEUE_PAIRS, MIN_MTU};
use crate::ring::MAX_QUEUE_SIZE;
use crate::worker::{DeviceName, Moderation, Threads};

pub use crate::guard::Mac;
pub use af_xdp::XdpSpec;
pub use metrics::MetricsAddress;
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

    /// The devices.
    #[arg(skip)]
    #[serde(default, rename = "device")]
    pub devices: Vec<DeviceOptions>,
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

/// Options of a device: on the command line for the only one, in a file for each `[[device]]`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq)]
#[command(next_help_heading = "The device")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DeviceOptions {
    /// Name of the device in log lines, thread names and commands
    ///
    /// Letters, digits, '.', '_' and '-'.
    ///
    /// Range: 1 to 32 characters.
    #[arg(long, value_name = "NAME", default_value = "nic0")]
    pub name: DeviceName,

    /// Listen for a front end (QEMU, cloud-hypervisor, DPDK virtio-user) on this Unix socket
    ///
    /// A stale socket is replaced, a live one refused. This or --fd is needed, unless a service manager passes the socket.
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Serve a front end on this open file descriptor, a connected or a listening Unix socket
    ///
    /// A listening one is served like a path; a connected one until it closes, and then vnicd exits with 0.
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Connect to the socket instead, where the front end listens; try until it does
    ///
    /// And again when it has gone. The socket is the front end's then, so --socket-mode and --socket-group mean nothing.
    #[arg(long)]
    pub client: bool,

    /// Permission bits of the socket, in octal, such as 660 [default: as the umask says]
    ///
    /// Range: 0 to 777, octal.
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<SocketMode>,

    /// Group of the socket, a name or a number [default: the daemon's]
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<SocketGroup>,

    /// Where packets go.
    #[arg(
        long,
        value_name = "SPEC",
        default_value = "tap=vnic%d",
        help = uplink_help::SHORT,
        long_help = uplink_help::long()
    )]
    pub uplink: UplinkSpec,

    /// MAC address that a guest is told, where its front end asks vnicd for it
    ///
    /// cloud-hypervisor asks; QEMU does not, and has mac= of its device. Unicast, such as 52:54:00:12:34:56.
    #[arg(long, value_name = "MAC")]
    pub mac: Option<Mac>,

    /// Largest packet, in bytes of IP: told to the guest, and set for a TAP that is named
    ///
    /// Range: 68 to 65535.
    #[arg(long, value_name = "N")]
    pub mtu: Option<u16>,

    /// Queue pairs that a guest may use
    ///
    /// What --threads says serves them; a pair that no guest uses costs nothing.
    ///
    /// Range: 1 to 32.
    #[arg(long, value_name = "N", default_value_t = MAX_QUEUE_PAIRS)]
    pub queue_pairs: u16,

    /// Largest ring that a guest may use, in entries
    ///
    /// Range: 1 to 32768.
    #[arg(long, value_name = "N", default_value_t = MAX_QUEUE_SIZE)]
    pub queue_size: u16,

    /// Send every packet to the TAP, and take it from AF_XDP, by itself, rather than those of a flow together
    ///
    /// Together are those packets of a flow that come in one burst; nothing waits for them.
    #[arg(long)]
    pub no_coalesce: bool,

    /// When rings and uplink are polled, and when the worker sleeps until it is interrupted
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub mode: Setting,

    /// Which threads move its packets
    #[arg(long, value_name = "HOW", default_value = "per-pair")]
    pub threads: Threads,

    /// CPUs to pin the workers to, in turn, such as 2,4-7 [default: the kernel places them]
    ///
    /// With --threads per-cpu: those that have a worker.
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// Whether workers are kept near the guest's memory: on the CPUs of its NUMA node
    ///
    /// With --cpus: on those of them that the node has.
    #[arg(long, value_name = "HOW", default_value = "off")]
    pub numa: Numa,

    /// What `auto` goes by.
    #[command(flatten)]
    pub governor: Policy,

    /// When the guest is interrupted.
    #[command(flatten)]
    pub interrupts: Moderation,

    /// What the guest may send.
    #[command(flatten)]
    pub filter: Filter,

    /// How much may move.
    #[command(flatten)]
    pub limits: Limits,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        use clap::{CommandFactory, FromArgMatches, Parser};
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            options: DeviceOptions,
        }
        let matches = Defaults::command().no_binary_name(true).get_matches_from::<_, &str>([]);
        Defaults::from_arg_matches(&matches).map_or_else(|e| e.exit(), |defaults| defaults.options)
    }
}

/// Why a configuration makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file '{path}'")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}:{line}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line of the mistake, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Options of a device do not fit together.
    #[error("device '{device}': {what}")]
    Device {
        /// The device.
        device: DeviceName,
        /// What is wrong.
        what: String,
    },
    /// No device at all.
    #[error("the configuration has no [[device]]: add one with a socket-path")]
    NoDevice,
    /// Metrics cannot be given so.
    #[error("{0}")]
    Metrics(String),
    /// There is no other user without a sandbox.
    #[error("--user means nothing with --sandbox off")]
    UserWithoutSandbox,
    /// Two devices want the same thing.
    #[error("devices '{first}' and '{second}' both use {what}: give each its own")]
    Shared {
        /// One device.
        first: DeviceName,
        /// The other.
        second: DeviceName,
        /// What they share.
        what: String,
    },
}

impl Config {
    /// The text of a configuration file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
    }

    /// What the text of the file `path` says. It is still to be checked.
    ///
    /// # Errors
    /// When it is not what it should be; with the line where there is one.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
            ConfigError::Parse { path: path.to_owned(), line, message: e.message().replace('\n', " ") }
        })
    }

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
        if self.devices.is_empty() {
            return Err(ConfigError::NoDevice);
        }
        if self.user.is_some() && self.sandbox == Switch::Off {
            return Err(ConfigError::UserWithoutSandbox);
        }
        metrics::check(self.metrics, self.metrics_public).map_err(ConfigError::Metrics)?;
        for (n, device) in self.devices.iter().enumerate() {
            device.check()?;
            for other in &self.devices[..n] {
                if let Some(what) = other.shares(device) {
                    return Err(ConfigError::Shared { first: other.name, second: device.name, what });
                }
            }
        }
        Ok(self)
    }
}

impl DeviceOptions {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |what: &str| Err(ConfigError::Device { device: self.name, what: what.into() });
        match (&self.socket_path, self.fd) {
            (None, None) => return wrong("it needs --socket-path PATH or --fd N to meet its front end"),
            (Some(_), Some(_)) => return wrong("--socket-path and --fd exclude each other"),
            (None, Some(_)) if self.client => return wrong("--client means nothing with --fd"),
            (Some(_), None) if self.client && self.socket_mode.is_some() => {
                return wrong("--socket-mode means nothing with --client: the socket is the front end's");
            }
            (Some(_), None) if self.client && self.socket_group.is_some() => {
                return wrong("--socket-group means nothing with --client: the socket is the front end's");
            }
            (None, Some(_)) if self.socket_mode.is_some() => return wrong("--socket-mode means nothing with --fd"),
            (None, Some(_)) if self.socket_group.is_some() => return wrong("--socket-group means nothing with --fd"),
            _ => {}
        }
        if self.queue_pairs == 0 || self.queue_pairs > MAX_QUEUE_PAIRS {
            return wrong(&format!("--queue-pairs {} is not between 1 and {MAX_QUEUE_PAIRS}", self.queue_pairs));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return wrong(&format!("--mtu {mtu} is below {MIN_MTU}, the least that IP allows"));
        }
        if let UplinkSpec::AfXdp(spec) = &self.uplink
            && spec.by_mac
            && self.mac.is_none()
        {
            return wrong("steer=mac needs --mac, the address that frames for the guest have");
        }
        if self.queue_size == 0 || self.queue_size > MAX_QUEUE_SIZE {
            return wrong(&format!("--queue-size {} is not between 1 and {MAX_QUEUE_SIZE}", self.queue_size));
        }
        self.governor.check().map(drop).or_else(|e| wrong(&e.to_string()))?;
        self.limits.check().map(drop).or_else(|e| wrong(&e))?;
        self.interrupts.check().map(drop).or_else(|e| wrong(&e))
    }

    /// When its pairs sleep and when they poll.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy { mode: self.mode, ..self.governor }
    }

    /// What only one device can have and both want.
    fn shares(&self, other: &Self) -> Option<String> {
        if self.name == other.name {
            return Some(format!("the name '{}'", self.name));
        }
        if self.socket_path.is_some() && self.socket_path == other.socket_path {
            return self.socket_path.as_ref().map(|path| format!("the socket '{}'", path.display()));
        }
        if self.fd.is_some() && self.fd == other.fd {
            return self.fd.map(|fd| format!("the file descriptor {fd}"));
        }
        let own = self.uplink.holds();
        let theirs: HashSet<_> = other.uplink.holds().into_iter().collect();
        own.into_iter().find(|it| theirs.contains(it)).map(|it| format!("the {it}"))
    }
}

#[cfg(test)]
mod tests;
