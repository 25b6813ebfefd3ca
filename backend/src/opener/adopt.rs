//! Takes over a socket that whoever started the daemon left open.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketType, sockopt};

/// A socket taken over.
#[derive(Debug)]
pub(super) enum Adopted {
    /// A front end is at the other end.
    Connected(UnixStream),
    /// Front ends connect to it. Non-blocking.
    Listening(UnixListener),
}

/// Why a file descriptor cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    /// Standard input, output and error have another use.
    #[error("file descriptor {0} is a standard stream: pass a socket as 3 or above")]
    Standard(RawFd),
    /// Nothing is open there.
    #[error("file descriptor {0} is not open: pass an open socket without close-on-exec")]
    NotOpen(RawFd),
    /// It is not a Unix stream socket.
    #[error("file descriptor {0} is no Unix stream socket")]
    NotUnixStream(RawFd),
    /// The kernel refused.
    #[error("file descriptor {fd} cannot be used")]
    Kernel {
        /// The descriptor.
        fd: RawFd,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Takes over what is open as `fd`, and keeps it from programs that are started; none if nothing is open there, or a
/// standard stream. To be called once for each number.
pub(super) fn take(fd: RawFd) -> Option<OwnedFd> {
    if fd <= 2 {
        return None;
    }
    // SAFETY: the number is only used to ask the kernel about it, which says so if nothing is open there.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: it was left open for this process by whoever started it, nothing here owns it, and the caller takes each
    // number once.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The path of the socket that is open as `fd`, if it is one and has a path.
#[must_use]
pub fn path_of(fd: RawFd) -> Option<PathBuf> {
    if fd <= 2 {
        return None;
    }
    // SAFETY: the number is only used to ask the kernel about it, which says so if nothing is open there.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let address = rustix::net::getsockname(borrowed).ok()?;
    let address = rustix::net::SocketAddrUnix::try_from(address).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(address.path_bytes()?)))
}

/// The socket `fd`, which was taken over if it is open.
///
/// # Errors
/// When `fd` is not an open Unix stream socket.
pub(super) fn adopt(fd: RawFd, owned: Option<OwnedFd>) -> Result<Adopted, AdoptError> {
    if fd <= 2 {
        return Err(AdoptError::Standard(fd));
    }
    let owned = owned.ok_or(AdoptError::NotOpen(fd))?;
    let unix = sockopt::socket_domain(&owned) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&owned) == Ok(SocketType::STREAM);
    if !unix {
        return Err(AdoptError::NotUnixStream(fd));
    }
    let kernel = |source: io::Error| AdoptError::Kernel { fd, source };
    let listening = sockopt::socket_acceptconn(&owned).map_err(|e| kernel(e.into()))?;
    if !listening {
        return Ok(Adopted::Connected(owned.into()));
    }
    let listener = UnixListener::from(owned);
    listener.set_nonblocking(true).map_err(kernel)?;
    Ok(Adopted::Listening(listener))
}
