//! An interface's queue as an uplink, over AF_XDP on a veth pair (copy mode): packets of 64 bytes both ways beside testpmd's
//! net_vhost and net_af_xdp, time of the back end's own, and a guest's TCP beside the same guest on a TAP.
//!
//! What leaves is counted at the far end, whose stack drops it; what comes is put in there by the program that takes it
//! from the rings, on the same CPU. Both subjects have the kernel do the same for a packet: what remains is time in user
//! mode ([`user_time`]).

pub mod account;
pub mod lab;
pub mod user_time;

pub use account::Account;
pub use lab::{Lab, Subject, Way};
