//! The rings alone: DPDK's vhost PMD and the daemon in turn under the same virtio-user client, one core each, no VM.
//!
//! [`cases`] says what is measured, [`lab`] measures one case with one [`peer`] below the [`client`], and [`work`] is
//! what a packet costs that peer. Beside the rates there are a check that bytes are really read ([`payload`]), curves
//! of what a packet costs by the size of things ([`flatness`]), and instructions a packet ([`crate::instructions`]).

#![forbid(unsafe_code)]

pub mod cases;
pub mod client;
pub mod flatness;
pub mod lab;
pub mod payload;
pub mod peer;
pub mod work;

pub use cases::{Case, Path, RingKind};
pub use lab::{Lab, Sample};
pub use peer::Peer;
pub use work::Efficiency;
