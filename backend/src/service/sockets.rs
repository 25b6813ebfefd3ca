//! Sockets that a service manager opened for the daemon before it started it (socket activation).

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::config::{Config, DeviceOptions};

/// A socket that was passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedSocket {
    /// Where it is open here.
    pub fd: RawFd,
    /// What the service manager calls it (`FileDescriptorName=`).
    pub name: String,
    /// Where front ends find it, if it has a path.
    pub path: Option<PathBuf>,
}

/// All sockets that were passed.
#[derive(Clone, Debug, Default)]
pub struct PassedSockets(Vec<PassedSocket>);

/// Why what was passed does not fit.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The environment makes no sense.
    #[error("the sockets that LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES tell of cannot be used")]
    Environment(#[source] io::Error),
    /// Nobody wants it.
    #[error(
        "a socket named '{name}' was passed, and no device is called so: set FileDescriptorName= of the socket unit \
         to one of {devices}"
    )]
    NoDevice {
        /// The socket's name.
        name: String,
        /// What devices there are.
        devices: String,
    },
    /// One device, several sockets.
    #[error("two sockets named '{0}' were passed: give each device one, by FileDescriptorName= of the socket units")]
    Twice(String),
    /// The device has another way in.
    #[error("a socket was passed for device '{device}', which has {has}: leave one of them out")]
    Taken {
        /// The device.
        device: String,
        /// What it has.
        has: String,
    },
}

impl PassedSockets {
    /// What the environment tells of.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn from_env() -> Result<Self, SocketsError> {
        let passed = sd_notify::listen_fds_with_names().map_err(SocketsError::Environment)?;
        let socket = |(fd, name)| PassedSocket { fd, name, path: crate::opener::path_of(fd) };
        Ok(Self(passed.map(socket).collect()))
    }

    /// Gives each socket to the device that bears its name. A single socket needs no name where there is a single device.
    ///
    /// # Errors
    /// When a socket is nobody's, or its device has another.
    pub fn give_to(self, config: &mut Config) -> Result<(), SocketsError> {
        if let ([socket], [device]) = (&*self.0, &mut *config.devices) {
            return give(socket, device);
        }
        for (n, socket) in self.0.iter().enumerate() {
            if self.0[..n].iter().any(|other| other.name == socket.name) {
                return Err(SocketsError::Twice(socket.name.clone()));
            }
            let names: Vec<_> = config.devices.iter().map(|device| device.name.as_str()).collect();
            let named = config.devices.iter_mut().find(|device| device.name.as_str() == socket.name);
            let none = || SocketsError::NoDevice { name: socket.name.clone(), devices: names.join(", ") };
            give(socket, named.ok_or_else(none)?)?;
        }
        Ok(())
    }
}

fn give(socket: &PassedSocket, device: &mut DeviceOptions) -> Result<(), SocketsError> {
    let taken = |has: String| Err(SocketsError::Taken { device: device.name.to_string(), has });
    let differs = |path: &&PathBuf| socket.path.as_deref() != Some(Path::new(path));
    if let Some(fd) = device.fd {
        return taken(format!("fd = {fd}"));
    }
    if device.client {
        return taken("client = true".into());
    }
    if let Some(path) = device.socket_path.as_ref().filter(differs) {
        return taken(format!("another socket-path, '{}'", path.display()));
    }
    device.fd = Some(socket.fd);
    // The same file serves without socket activation, too. Rights are then the socket unit's to set.
    (device.socket_path, device.socket_mode, device.socket_group) = (None, None, None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(fd: RawFd, name: &str, path: &str) -> PassedSocket {
        PassedSocket { fd, name: name.into(), path: Some(path.into()) }
    }

    /// The file descriptors that devices have in the end, or why not.
    fn given(sockets: &[PassedSocket], devices: &[&str]) -> Result<Vec<Option<RawFd>>, String> {
        let text: String = devices.iter().map(|device| format!("[[device]]\n{device}\n")).collect();
        let mut config = toml::from_str(&text).unwrap();
        PassedSockets(sockets.to_vec()).give_to(&mut config).map_err(|e| e.to_string())?;
        Ok(config.check().map_err(|e| e.to_string())?.devices.iter().map(|device| device.fd).collect())
    }

    #[test]
    fn a_single_one_needs_no_name() {
        assert_eq!(given(&[socket(3, "vnicd@vm1.socket", "/s")], &["name = 'vm1'"]), Ok(vec![Some(3)]));
        let same = "name = 'vm1'\nsocket-path = '/s'\nsocket-mode = '660'\nsocket-group = 'root'";
        assert_eq!(given(&[socket(3, "x", "/s")], &[same]), Ok(vec![Some(3)]));
        assert_eq!(given(&[], &["socket-path = '/s'"]), Ok(vec![None]));
    }

    #[test]
    fn several_go_by_their_names() {
        let devices = ["name = 'a'", "name = 'b'\nsocket-path = '/b'", "name = 'c'"];
        assert_eq!(given(&[socket(3, "c", "/c"), socket(4, "a", "/a")], &devices), Ok(vec![Some(4), None, Some(3)]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let two = ["name = 'a'", "name = 'b'\nsocket-path = '/b'"];
        let cases = [
            (vec![socket(3, "moon", "/s")], &two[..], "named 'moon' was passed, and no device is called so"),
            (vec![socket(3, "a", "/s"), socket(4, "a", "/t")], &two, "two sockets named 'a'"),
            (vec![socket(3, "b", "/c")], &two, "device 'b', which has another socket-path, '/b'"),
            (vec![socket(3, "a", "/s")], &["fd = 5"], "device 'nic0', which has fd = 5"),
            (vec![socket(3, "a", "/s")], &["socket-path = '/s'\nclient = true"], "which has client = true"),
            (vec![socket(3, "b", "/b")], &two, "device 'a': it needs --socket-path"),
        ];
        for (sockets, devices, words) in cases {
            let error = given(&sockets, devices).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
