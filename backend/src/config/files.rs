//! A configuration in files: the one that the daemon is started with, and those in the directory that it names.
//!
//! Reading them and making sense of them are two things, for two processes do the second with what one of them has read.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Config, ConfigError, DeviceOptions, Named};
use crate::worker::DeviceName;

/// How the files of devices end. Others in their directory are not read.
const ENDING: &str = "toml";

/// The text of a configuration file, and of the files in the directory that it names.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Texts {
    file: Text,
    /// Sorted by their paths.
    devices: Vec<Text>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Text {
    path: String,
    text: String,
}

/// Where a device is defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: String,
    /// The line where it begins, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Where the devices of a file begin.
#[derive(Deserialize)]
struct Headings {
    #[serde(default)]
    device: Vec<Spanned<IgnoredAny>>,
}

/// The name in a file of a device.
#[derive(Deserialize)]
struct Heading {
    name: Option<Spanned<String>>,
}

impl Texts {
    /// What the file at `path` and those of its `device-dir` say now.
    ///
    /// # Errors
    /// When one cannot be read, or the first one makes no sense.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file = Text::read(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        let devices = match file.parse::<Config>()?.device_dir {
            Some(dir) if dir.is_relative() => return Err(ConfigError::RelativeDeviceDir(dir)),
            Some(dir) => devices_in(dir, &file.path)?,
            None => Vec::new(),
        };
        Ok(Self { file, devices })
    }

    /// What they mean. It is still to be checked.
    ///
    /// # Errors
    /// When one is not what it should be; with its line.
    pub fn parse(&self) -> Result<Config, ConfigError> {
        let mut config: Config = self.file.parse()?;
        let headings: Headings = self.file.parse()?;
        config.origins = headings.device.iter().map(|heading| self.file.origin(heading.span().start)).collect();
        for file in &self.devices {
            config.devices.push(file.device()?);
            config.origins.push(file.origin(0));
        }
        Ok(config)
    }
}

/// What the text of a device's file means, by itself. `path` is where it comes from, if that is a file; `name` is that of the
/// device.
///
/// # Errors
/// When it is not what it should be, or does not fit together; with its line where there is one.
pub fn one_device(path: Option<&str>, name: DeviceName, text: &str) -> Result<DeviceOptions, ConfigError> {
    let file = Text { path: path.unwrap_or_default().to_owned(), text: text.to_owned() };
    let device = file.device_named(name)?;
    let named = || Named(name, path.map(|_| file.origin(0)));
    device.check().map_err(|what| ConfigError::Device { device: named(), what })?;
    Ok(device)
}

impl Text {
    fn read(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_string_lossy().into_owned(), text: fs::read_to_string(path)? })
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|e| self.wrong(e.span().map_or(0, |span| span.start), e.message()))
    }

    /// The device of a file of its own.
    fn device(&self) -> Result<DeviceOptions, ConfigError> {
        let stem = Path::new(&self.path).file_stem().unwrap_or_default().to_string_lossy();
        self.device_named(stem.parse().map_err(|e: String| self.wrong(0, &format!("{e}: rename the file")))?)
    }

    fn device_named(&self, name: DeviceName) -> Result<DeviceOptions, ConfigError> {
        let device: DeviceOptions = self.parse()?;
        if let Some(other) = self.parse::<Heading>()?.name.filter(|other| other.get_ref() != name.as_str()) {
            let what = format!("the name '{}' is not the file's, '{name}': leave it out", other.get_ref());
            return Err(self.wrong(other.span().start, &what));
        }
        Ok(DeviceOptions { name, ..device })
    }

    fn wrong(&self, at: usize, what: &str) -> ConfigError {
        ConfigError::Parse { at: self.origin(at), message: what.replace('\n', " ") }
    }

    /// The line of a byte.
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        Origin { file: self.path.clone(), line: before.iter().filter(|b| **b == b'\n').count() + 1 }
    }
}

/// The files of devices in `dir`, sorted; `file` is the one that names it.
fn devices_in(dir: PathBuf, file: &str) -> Result<Vec<Text>, ConfigError> {
    let entries = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return Err(ConfigError::DeviceDir { dir, file: file.to_owned(), error }),
    };
    let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == ENDING) && !is_hidden(path));
    paths.sort();
    let mut texts = Vec::new();
    for path in paths {
        match Text::read(&path) {
            Ok(text) => texts.push(text),
            // It has gone meanwhile; a link that leads nowhere has not.
            Err(e) if e.kind() == ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {}
            Err(error) => return Err(ConfigError::Read { path, error }),
        }
    }
    Ok(texts)
}
