//! Opens what needs rights: TAP devices, XDP programs and their sockets, listening sockets, files that outlive the daemon.
//!
//! The only room that needs capabilities. Requests are plain data and answers carry file descriptors, so that it can
//! become a process of its own.

mod adopt;
mod interface;
mod listen;
mod macvtap;
mod state;
mod tap;
mod tun;
mod xdp;

pub use adopt::{AdoptError, Adopted, adopt, path_of};
pub use listen::{ListenError, ListenRequest, Listening, check_path, listen};
pub use macvtap::open_macvtap;
pub use state::{StateError, open_state};
pub use tap::{OpenTapError, OpenedTap, TapRequest, adopt_tap, open_tap, set_mtu};
pub use xdp::{OpenedXdp, XdpError, XdpMode, XdpProgram, XdpRequest, open_xdp};
