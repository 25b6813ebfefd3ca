//! Opens the socket that front ends connect to.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longest socket path that the kernel takes, in bytes (unix(7)).
const MAX_PATH: usize = 107;

/// Which socket to open.
#[derive(Clone, Debug)]
pub struct ListenRequest {
    /// Path of the socket.
    pub path: PathBuf,
    /// Permission bits of the socket.
    pub mode: Option<u32>,
    /// Group of the socket.
    pub group: Option<u32>,
}

/// A socket that was made in the file system.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Removes it, if it is still the one that was made.
    pub(super) fn remove(self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// The path does not fit the kernel's address.
    #[error("socket path '{path}' has {len} bytes, at most {MAX_PATH} are possible: choose a shorter one")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// Another program listens there.
    #[error("socket '{0}' is in use: another program listens on it; choose another path, or end that program")]
    Live(PathBuf),
    /// Something else than a socket is there.
    #[error("'{0}' exists and is not a socket: choose another path, or remove it")]
    NotSocket(PathBuf),
    /// The directory is not there.
    #[error("the directory of socket '{0}' does not exist: make it first")]
    NoDirectory(PathBuf),
    /// Anything else the kernel refused.
    #[error("cannot {what} socket '{path}'")]
    Kernel {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Opens a listening socket, non-blocking. A stale one (nobody listens) is replaced.
///
/// # Errors
/// When the path is too long, in use, not a socket, or the kernel refuses.
pub(super) fn listen(request: &ListenRequest) -> Result<(UnixListener, SocketFile), ListenError> {
    let path = &request.path;
    check_path(path)?;
    let kernel = |what| move |source| ListenError::Kernel { path: path.clone(), what, source };
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ListenError::NoDirectory(path.clone()),
        io::ErrorKind::AddrInUse => ListenError::Live(path.clone()),
        _ => kernel("open")(source),
    })?;
    listener.set_nonblocking(true).map_err(kernel("prepare"))?;
    let identity = identity(path).map_err(kernel("find again"))?;
    let file = SocketFile { path: path.clone(), identity };
    match give_away(request) {
        Ok(()) => Ok((listener, file)),
        Err((what, source)) => {
            file.remove();
            Err(kernel(what)(source))
        }
    }
}

/// Gives a socket its mode and its group; an error says what failed.
fn give_away(request: &ListenRequest) -> Result<(), (&'static str, io::Error)> {
    if request.mode.is_none() && request.group.is_none() {
        return Ok(());
    }
    let socket = find(&request.path).map_err(|e| ("find", e))?;
    if let Some(mode) = request.mode {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(place_of(&socket), permissions).map_err(|e| ("set the mode of", e))?;
    }
    if let Some(group) = request.group {
        let group = Some(Gid::from_raw(group));
        rustix::fs::chownat(&socket, "", None, group, AtFlags::EMPTY_PATH)
            .map_err(|e| ("set the group of", e.into()))?;
    }
    Ok(())
}

/// The socket at `path` itself. Whoever owns its directory may have put something else in its place, which the rights of this
/// process are not for: a link to another, or another's by a second name.
fn find(path: &Path) -> io::Result<OwnedFd> {
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || stat.st_nlink != 1 {
        return Err(io::Error::other("something else is there than a socket of its own"));
    }
    Ok(found)
}

/// A path to what was found, wherever it is now.
fn place_of(found: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", found.as_raw_fd()).into()
}

/// Connects to a socket, without waiting for a listener whose queue is full.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(place_of(&find(path)?))?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether a path fits a socket's address.
///
/// # Errors
/// When it does not.
pub(super) fn check_path(path: &Path) -> Result<(), ListenError> {
    let len = path.as_os_str().len();
    if len > MAX_PATH { Err(ListenError::TooLong { path: path.to_owned(), len }) } else { Ok(()) }
}

/// Removes a socket on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let kernel = |what| move |source| ListenError::Kernel { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotSocket(path.to_owned())),
        Ok(_) => {}
    }
    match connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(kernel("remove the stale"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(kernel("see who listens on")(e)),
        _ => Err(ListenError::Live(path.to_owned())),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &Path) -> ListenRequest {
        ListenRequest { path: path.to_owned(), mode: Some(0o660), group: None }
    }

    #[test]
    fn stale_is_replaced_live_is_refused_and_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let first = listen(&request(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(listen(&request(&path)), Err(ListenError::Live(_))));
        first.1.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_is_no_longer_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen(&request(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        first.1.remove();
        assert!(path.exists());
    }

    #[test]
    fn what_stands_in_a_sockets_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [other, link, twin] = ["other", "link", "twin"].map(|name| dir.path().join(name));
        let _listener = UnixListener::bind(&other).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(connect(&other).is_ok());
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert!(connect(&link).is_err() && give_away(&request(&link)).is_err());
        fs::hard_link(&other, &twin).unwrap();
        assert!(connect(&twin).is_err() && give_away(&request(&twin)).is_err());
        assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn wrong_paths_name_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(listen(&request(&long)), Err(ListenError::TooLong { .. })));
        assert!(matches!(listen(&request(&dir.path().join("no/s"))), Err(ListenError::NoDirectory(_))));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(listen(&request(&file)), Err(ListenError::NotSocket(_))));
    }
}
