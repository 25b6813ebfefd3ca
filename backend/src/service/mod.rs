//! What the daemon and a service manager (systemd) tell each other: sockets that were opened for it, that it is ready,
//! what it does, and that its workers go on (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).
//!
//! Without one, nothing of this costs anything: no thread, no timer, no wake-up.

#![forbid(unsafe_code)]

mod manager;
mod notify;
mod sockets;
mod watchdog;

pub use manager::Manager;
pub use notify::Notifier;
pub use sockets::{PassedSocket, PassedSockets, SocketsError};
