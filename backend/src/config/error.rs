//! What may be wrong with a configuration.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Origin;
use crate::worker::DeviceName;

/// Why a configuration makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file '{path}': {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The file is not what it should be.
    #[error("{at}: {message}")]
    Parse {
        /// Where the mistake is.
        at: Origin,
        /// What is wrong.
        message: String,
    },
    /// The directory of devices cannot be read.
    #[error("the device-dir '{dir}' of {file} cannot be read: {error}; {}", mend(dir, error))]
    DeviceDir {
        /// The directory.
        dir: PathBuf,
        /// The file that names it.
        file: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// Whoever looks for it may be somewhere else.
    #[error("device-dir = '{0}' is not absolute: begin it with /")]
    RelativeDeviceDir(PathBuf),
    /// Options of a device do not fit together.
    #[error("device {device}: {what}")]
    Device {
        /// The device.
        device: Named,
        /// What is wrong.
        what: String,
    },
    /// No device at all.
    #[error("the configuration has no [[device]]: add one with a socket-path, or a device-dir that may be empty")]
    NoDevice,
    /// Metrics cannot be given so.
    #[error("{0}")]
    Metrics(String),
    /// There is no other user without a sandbox.
    #[error("--user means nothing with --sandbox off")]
    UserWithoutSandbox,
    /// Two devices want the same thing.
    #[error("devices {first} and {second} both use {what}: give each its own")]
    Shared {
        /// One device.
        first: Named,
        /// The other.
        second: Named,
        /// What they share.
        what: String,
    },
}

/// A device, and where it is defined if that is in a file.
#[derive(Clone, Debug)]
pub struct Named(pub DeviceName, pub Option<Origin>);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0)?;
        self.1.as_ref().map_or(Ok(()), |origin| write!(f, " ({origin})"))
    }
}

fn mend(dir: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("make it (mkdir -p {}), or leave device-dir out", dir.display()),
        ErrorKind::PermissionDenied => "let the user that vnicd is started as read it".into(),
        _ => "name a directory, or leave device-dir out".into(),
    }
}
