//! Where the daemon's configuration is, for whoever wants to change it there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The configuration that was taken last, by the places of its parts.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Configuration {
    /// The file that the daemon was started with, if there is one.
    pub file: Option<String>,
    /// The directory in which each file is a device, if there is one.
    pub device_dir: Option<String>,
    /// The devices that are configured. One that could not be opened is here all the same.
    pub devices: Vec<Definition>,
}

/// Where a device is defined.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// The file, if it is not on the command line.
    pub file: Option<String>,
    /// The line of the file where it begins, from 1.
    pub line: Option<usize>,
}

impl Configuration {
    /// That of `config`, which was read from `file`, if it was.
    #[must_use]
    pub fn of(config: &Config, file: Option<&Path>) -> Self {
        let in_words = |path: &Path| path.to_string_lossy().into_owned();
        let devices = config.defined().map(|(device, origin)| Definition {
            name: device.name.to_string(),
            file: origin.map(|origin| origin.file.clone()),
            line: origin.map(|origin| origin.line),
        });
        Self {
            file: file.map(in_words),
            device_dir: config.device_dir.as_deref().map(in_words),
            devices: devices.collect(),
        }
    }

    /// The device of this name.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<&Definition> {
        self.devices.iter().find(|device| device.name == name)
    }
}
