//! Opens what needs rights: TAP devices and listening sockets.
//!
//! The only room that needs capabilities. Requests are plain data and answers carry file descriptors, so that it can
//! become a process of its own.

mod adopt;
mod interface;
mod listen;
mod macvtap;
mod tap;
mod tun;

pub use adopt::{AdoptError, Adopted, adopt};
pub use listen::{ListenError, ListenRequest, Listening, check_path, listen};
pub use macvtap::open_macvtap;
pub use tap::{OpenTapError, OpenedTap, TapRequest, adopt_tap, open_tap, set_mtu};
