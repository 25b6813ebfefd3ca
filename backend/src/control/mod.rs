//! The control socket: JSON-RPC 2.0 (jsonrpc.org), one object a line, on a Unix socket.
//!
//! It runs on the control thread, reads counters and never makes a worker wait. The socket belongs to the daemon's user
//! alone (mode 600).

#![forbid(unsafe_code)]

mod mode_status;
mod rpc;
mod server;
mod status;

pub use mode_status::ModeStatus;
pub use rpc::{Request, RpcError, call, parse_answer};
pub use server::ControlServer;
pub use status::{DeviceStatus, PairStatus, Status};

/// Where `vnicctl` looks for the daemon unless it is told.
pub const DEFAULT_PATH: &str = "/run/vnicd/control.sock";
