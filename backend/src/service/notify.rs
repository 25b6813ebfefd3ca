//! The way to the service manager.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

use sd_notify::NotifyState;

/// Tells the service manager how the daemon is. Connected from the start: the path may be out of reach later.
#[derive(Clone, Debug)]
pub struct Notifier {
    socket: Arc<UnixDatagram>,
}

impl Notifier {
    /// The service manager that `NOTIFY_SOCKET` names; none if there is none, or it cannot be reached.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let path = env::var_os("NOTIFY_SOCKET")?;
        Self::connect(&path)
            .inspect_err(|e| tracing::warn!("the service manager at {} cannot be told anything: {e}", path.display()))
            .ok()
    }

    /// Connects to a path, or to an abstract name where it begins with `@`.
    fn connect(path: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // The control thread has others to look after than a service manager that does not read.
        socket.set_nonblocking(true)?;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(path)?,
        }
        Ok(Self { socket: Arc::new(socket) })
    }

    /// Tells that the daemon ends.
    pub fn stopping(&self) {
        let _ = self.tell(&[NotifyState::Stopping]);
    }

    /// Tells the service manager. Says whether that could be done.
    pub(super) fn tell(&self, states: &[NotifyState<'_>]) -> bool {
        let mut message = String::new();
        for state in states {
            let _ = writeln!(message, "{state}");
        }
        let sent = self.socket.send(message.as_bytes());
        if let Err(e) = &sent {
            tracing::warn!("the service manager cannot be told {:?}: {e}", message.trim_end());
        }
        sent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("vnicd-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, address) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            assert!(Notifier::connect(&address).unwrap().tell(&[NotifyState::Ready, NotifyState::Status("well")]));
            let mut bytes = [0; 64];
            let len = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], b"READY=1\nSTATUS=well\n");
        }
        assert!(Notifier::connect(OsStr::new("/nowhere/at/all")).is_err());
    }
}
