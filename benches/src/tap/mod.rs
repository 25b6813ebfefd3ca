//! A TAP as an uplink, packets of 64 bytes towards it and long frames from it: the daemon beside testpmd's net_vhost and
//! net_tap, and beside a program that does nothing but write.
//!
//! What counts is what arrives behind the TAP ([`sink`]), packet by packet: an interface counts a frame that is yet to be
//! segmented once, so packets are worked out from bytes. A packet that was refused or dropped on its way is none.

pub mod account;
pub mod device;
pub mod injected;
pub mod joined;
pub mod sink;
pub mod subject;
pub mod writer;

pub use account::Account;
pub use sink::Sink;
pub use subject::Subject;
