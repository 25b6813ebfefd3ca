//! Opens the file in which a device's state outlives the daemon.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Nobody else reads or writes the file.
const MODE: u32 = 0o600;
/// Permission bits of a directory in which others may put a file of theirs in the place of ours.
const OTHERS_WRITE: u32 = 0o022;

/// Why a state file could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// There is no directory.
    #[error("state directory '{0}' does not exist: make it first, with mode 700")]
    NoDirectory(PathBuf),
    /// Something else is there.
    #[error("state directory '{0}' is no directory: choose another path")]
    NotDirectory(PathBuf),
    /// Another user has power over the directory.
    #[error(
        "state directory '{path}' belongs to user {uid}: choose one that belongs to user {own}, which vnicd runs as"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// The daemon's user.
        own: u32,
    },
    /// Others may write to the directory.
    #[error("state directory '{path}' has mode {mode:o}, so that others may write to it: chmod go-w '{path}'")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else than a file is there.
    #[error("state file '{0}' is not a file of vnicd's: remove it")]
    NotFile(PathBuf),
    /// Another daemon has it.
    #[error(
        "state file '{0}' is in use by another vnicd: give the device another --name, or this vnicd another --state-dir"
    )]
    InUse(PathBuf),
    /// Anything else the kernel refused.
    #[error("cannot {what} '{path}'")]
    Kernel {
        /// File or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Opens the file of `len` bytes in which the device called `name` keeps its state, for this process alone, and makes it
/// if there is none.
///
/// # Errors
/// When the directory or the file is not the daemon's alone, in use, or refused by the kernel.
pub(super) fn open_state(dir: &Path, name: &str, len: u64) -> Result<File, StateError> {
    check_directory(dir)?;
    let path = dir.join(format!("{name}.rings"));
    let kernel = |what| {
        let path = path.clone();
        move |source| StateError::Kernel { path, what, source }
    };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(MODE).custom_flags(flags).open(&path);
    let file = file.map_err(kernel("open the state file"))?;
    let found = file.metadata().map_err(kernel("examine the state file"))?;
    if !found.is_file() || found.uid() != own_uid() {
        return Err(StateError::NotFile(path));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path)),
        Err(TryLockError::Error(source)) => return Err(kernel("lock the state file")(source)),
    }
    if found.mode() & 0o7777 != MODE {
        file.set_permissions(fs::Permissions::from_mode(MODE)).map_err(kernel("set the mode of the state file"))?;
    }
    if found.len() != len {
        file.set_len(len).map_err(kernel("set the size of the state file"))?;
    }
    Ok(file)
}

fn check_directory(dir: &Path) -> Result<(), StateError> {
    let path = || dir.to_owned();
    let found = fs::metadata(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StateError::NoDirectory(path()),
        _ => StateError::Kernel { path: path(), what: "examine the state directory", source },
    })?;
    let (own, mode) = (own_uid(), found.mode() & 0o7777);
    match found.uid() {
        _ if !found.is_dir() => Err(StateError::NotDirectory(path())),
        uid if uid != own && uid != 0 => Err(StateError::Foreign { path: path(), uid, own }),
        _ if mode & OTHERS_WRITE != 0 => Err(StateError::Open { path: path(), mode }),
        _ => Ok(()),
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_made_once_and_belongs_to_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let file = open_state(dir.path(), "nic0", 4096).unwrap();
        let path = dir.path().join("nic0.rings");
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777), (4096, 0o600));
        assert!(matches!(open_state(dir.path(), "nic0", 4096), Err(StateError::InUse(_))));
        open_state(dir.path(), "nic1", 4096).unwrap();
        drop(file);
        fs::write(&path, "kept").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        open_state(dir.path(), "nic0", 8192).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777), (8192, 0o600));
        assert_eq!(fs::read(&path).unwrap()[..5], *b"kept\0");
    }

    #[test]
    fn what_others_have_power_over_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = |dir: &Path| open_state(dir, "nic0", 4096);
        assert!(matches!(open(&dir.path().join("none")), Err(StateError::NoDirectory(_))));
        for mode in [0o777, 0o1777, 0o720, 0o702] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = open(dir.path()).unwrap_err();
            assert!(matches!(error, StateError::Open { .. }) && error.to_string().contains("chmod go-w"), "{error}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("nic0.rings");
        assert!(matches!(open(&path), Err(StateError::NoDirectory(_))));
        symlink("/dev/null", &path).unwrap();
        assert!(matches!(open(dir.path()), Err(StateError::Kernel { .. })), "a link is not followed");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(open(dir.path()).is_err());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(open(&path), Err(StateError::NotDirectory(_))));
    }
}
