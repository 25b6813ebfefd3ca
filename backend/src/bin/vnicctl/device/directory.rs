//! The directory of devices, and changes of it that can be taken back.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::{Configuration, Error, wrong};

/// Permission bits of a device's file.
const MODE: u32 = 0o644;
/// How long somebody else may take for a change of his, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// The directory. No other `vnicctl` changes it while this is there.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The directory itself, locked.
    lock: File,
}

/// A change that was made, and may be taken back. What was there before is kept beside it until then.
#[derive(Debug)]
#[must_use]
pub(super) struct Change {
    path: PathBuf,
    before: Option<PathBuf>,
}

impl Directory {
    /// The one that the daemon reads.
    pub(super) fn of(configuration: &Configuration) -> Result<Self, Error> {
        let path = match (&configuration.device_dir, &configuration.file) {
            (Some(dir), _) => PathBuf::from(dir),
            (None, Some(file)) => {
                return Err(wrong(format!(
                    "{file} names no directory for devices: make one, add device-dir = \"/etc/vnicd/devices\" above \
                     the first [[device]], and tell the daemon by vnicctl reload"
                )));
            }
            (None, None) => {
                return Err(wrong(
                    "this vnicd has no configuration file: start it with --config FILE, and in FILE device-dir = \
                     \"/etc/vnicd/devices\"",
                ));
            }
        };
        let lock = lock(&path).map_err(|e| failed(&path, &e))?;
        Ok(Self { path, lock })
    }

    /// The file of this device.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.toml"))
    }

    /// Whether this device has a file.
    pub(super) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.file(name)).is_ok()
    }

    /// Gives a device this file, all at once.
    pub(super) fn put(&self, name: &str, text: &str, may_replace: bool) -> Result<Change, Error> {
        let (path, beside) = (self.file(name), self.beside(name));
        let written = write(&beside, text).and_then(|()| match rename(&beside, &path, RenameFlags::NOREPLACE) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && may_replace => {
                rename(&beside, &path, RenameFlags::EXCHANGE).map(|()| Some(beside.clone()))
            }
            other => other.map(|()| None),
        });
        match written {
            Ok(before) => {
                self.sync();
                Ok(Change { path, before })
            }
            Err(e) => {
                let _ = fs::remove_file(&beside);
                Err(match e.kind() {
                    ErrorKind::AlreadyExists => wrong(format!(
                        "the device '{name}' has a file already, {}: --replace replaces it",
                        path.display()
                    )),
                    _ => failed(&path, &e),
                })
            }
        }
    }

    /// Takes a device's file away.
    pub(super) fn take(&self, name: &str) -> Result<Change, Error> {
        let (path, beside) = (self.file(name), self.beside(name));
        rename(&path, &beside, RenameFlags::empty()).map_err(|e| failed(&path, &e))?;
        self.sync();
        Ok(Change { path, before: Some(beside) })
    }

    /// Where a file is that the daemon does not read: it is hidden.
    fn beside(&self, name: &str) -> PathBuf {
        self.path.join(format!(".{name}.vnicctl"))
    }

    /// It is the file system's business where that is not known.
    fn sync(&self) {
        let _ = self.lock.sync_all();
    }
}

impl Change {
    /// The file that was changed.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It stands.
    pub(super) fn keep(self) {
        if let Some(before) = self.before {
            let _ = fs::remove_file(before);
        }
    }

    /// All is as it was.
    pub(super) fn undo(self) -> io::Result<()> {
        match self.before {
            Some(before) => fs::rename(before, self.path),
            None => fs::remove_file(self.path),
        }
    }
}

fn rename(from: &Path, to: &Path, how: RenameFlags) -> io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, how)?)
}

/// A new file with this text, whatever was there: one that was left behind is nobody's.
fn write(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // Whatever the umask says.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn lock(dir: &Path) -> io::Result<File> {
    let (file, until) = (File::open(dir)?, Instant::now() + PATIENCE);
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let s = PATIENCE.as_secs();
                return Err(io::Error::other(format!("another vnicctl has been changing it for {s} s: try again")));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let mend = match error.kind() {
        ErrorKind::PermissionDenied => ": that takes the right to write in its directory",
        ErrorKind::NotFound => ": make its directory (mkdir -p)",
        _ => "",
    };
    wrong(format!("cannot change {}: {error}{mend}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(dir: &Path) -> Directory {
        let device_dir = Some(dir.to_string_lossy().into_owned());
        Directory::of(&Configuration { device_dir, ..Configuration::default() }).unwrap()
    }

    /// All files with what they say.
    fn files(dir: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut files: Vec<_> = entries.map(|path| (name(&path), fs::read_to_string(path).unwrap())).collect();
        files.sort();
        files
    }

    fn file(name: &str, text: &str) -> (String, String) {
        (name.into(), text.into())
    }

    #[test]
    fn changes_stand_or_are_taken_back_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let devices = directory(dir.path());
        devices.put("a", "1", false).unwrap().undo().unwrap();
        assert_eq!(files(dir.path()), []);
        devices.put("a", "1", true).unwrap().keep();
        assert_eq!(fs::metadata(devices.file("a")).unwrap().permissions().mode() & 0o777, 0o644);
        let error = devices.put("a", "2", false).unwrap_err().to_string();
        assert!(error.contains("a.toml: --replace replaces it"), "{error}");
        assert_eq!(files(dir.path()), [file("a.toml", "1")]);
        let change = devices.put("a", "2", true).unwrap();
        assert_eq!(fs::read_to_string(change.path()).unwrap(), "2");
        change.undo().unwrap();
        assert_eq!(files(dir.path()), [file("a.toml", "1")]);
        devices.put("a", "3", true).unwrap().keep();
        assert_eq!(files(dir.path()), [file("a.toml", "3")]);
        devices.take("a").unwrap().undo().unwrap();
        assert_eq!(files(dir.path()), [file("a.toml", "3")]);
        devices.take("a").unwrap().keep();
        assert_eq!(files(dir.path()), []);
        assert!(!devices.has("a") && devices.take("a").is_err());
        // What somebody left behind who was killed is in nobody's way.
        fs::write(devices.beside("a"), "old").unwrap();
        devices.put("a", "4", false).unwrap().keep();
        assert_eq!(files(dir.path()), [file("a.toml", "4")]);
    }

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = directory(dir.path());
        let file = File::open(dir.path()).unwrap();
        assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(first);
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    }

    #[test]
    fn a_daemon_without_a_directory_is_told_how_to_get_one() {
        let none = Directory::of(&Configuration::default()).unwrap_err().to_string();
        assert!(none.contains("start it with --config FILE, and in FILE device-dir"), "{none}");
        let configuration = Configuration { file: Some("/f".into()), ..Configuration::default() };
        let none = Directory::of(&configuration).unwrap_err().to_string();
        assert!(none.starts_with("/f names no directory for devices: make one, add device-dir = "), "{none}");
        let configuration = Configuration { device_dir: Some("/nowhere/devices".into()), ..configuration };
        let none = Directory::of(&configuration).unwrap_err().to_string();
        assert!(none.contains("cannot change /nowhere/devices: No such file"), "{none}");
    }
}
