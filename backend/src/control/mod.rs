//! The control socket: JSON-RPC 2.0 (jsonrpc.org), one object a line, on a Unix socket.
//!
//! It runs on the control thread, reads counters and gauges, and never makes a worker wait. The socket belongs to the
//! daemon's user alone (mode 600). `docs/control.md` shows every method.

#![forbid(unsafe_code)]

mod captures;
mod client;
mod configuration;
mod door;
mod events;
mod map;
mod methods;
mod mode_status;
mod reloads;
mod rpc;
mod server;
mod stats;
mod status;
mod target;
#[cfg(test)]
pub(crate) mod testing;

use self::events::SinceStart;

pub use captures::CaptureStart;
pub use configuration::{Configuration, Definition};
pub use events::{EVENTS_LOST, Lost, MODE_CHANGED, ModeChange};
pub use map::MapEntry;
pub use mode_status::{LaneMode, ModeStatus};
pub use reloads::{Outcome, Reloaded, Reloads};
pub use rpc::{Request, RpcError, call, parse_answer};
pub use server::ControlServer;
pub use stats::{LaneStats, Stats};
pub use status::{DeviceStatus, PairStatus, Status};
pub use target::{Target, TargetError};

/// Where `vnicctl` looks for the daemon unless it is told.
pub const DEFAULT_PATH: &str = "/run/vnicd/control.sock";
