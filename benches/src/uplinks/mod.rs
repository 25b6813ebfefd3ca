//! An uplink under a virtio-user client: what the benches of uplinks share. The client and its packets, what stands between
//! the client's rings and the uplink, and how packets are counted behind it.

pub mod back_end;
pub mod client;
pub mod counting;
pub mod packets;

pub use back_end::{BackEnd, Place};
pub use client::{Client, Work};
pub use packets::Stream;
