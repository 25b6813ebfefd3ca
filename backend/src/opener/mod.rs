//! Opens what needs rights: TAP devices, XDP programs and their sockets, listening sockets, files that outlive the daemon.
//!
//! The only room that needs capabilities. It knows a [`Plan`], and opens what that names when it is asked to, in a process
//! of its own ([`Opener::into_process`]) or in this one. Everybody else has a [`Client`], which asks; answers carry file
//! descriptors.

mod adopt;
mod client;
mod fork;
mod interface;
mod listen;
mod macvtap;
mod messages;
mod plan;
mod port;
mod process;
mod realtime;
mod service;
mod state;
mod tap;
mod tun;
mod xdp;

pub use adopt::path_of;
pub use client::{Client, Listening, OpenedEntrance, OpenedUplink, OpenerError};
pub use listen::ListenRequest;
pub use plan::{DevicePlan, EntrancePlan, Plan, Reread, StatePlan, UplinkPlan};
pub use service::Opener;
pub use tap::{OpenTapError, OpenedTap, TapRequest, open_tap};
pub use xdp::{OpenedXdp, XdpError, XdpMode, XdpProgram, XdpRequest, open_xdp};
