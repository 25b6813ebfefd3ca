//! A load generator that is its own guest: a vhost-user front end and a virtio-net driver in user space, without a VM.
//!
//! The loop is open. When packets are due is laid down beforehand ([`schedule`]); a packet that finds no room is sent
//! late, and its latency counts from the time at which it was due, so that a device that stalls cannot hide it by
//! slowing the generator down. What comes back is judged to the last bit ([`frame`]).
//!
//! [`run()`] does all of it. Tests and other benches may also take the pieces: a [`Session`] gives queue pairs, a
//! [`Ring`](ring::Ring) is a driver's virtqueue, a [`Driver`] moves packets through a pair.
//!
//! It is a guest only in part: packets are written once and stay where they are, no stack stands above the driver, and
//! a sleep is a `ppoll`, which costs less than an interrupt of a guest. So it finds what the device can do.

#![deny(unsafe_code)]

pub mod config;
mod descriptors;
pub mod driver;
mod eventfd;
pub mod frame;
pub mod memory;
pub mod outcome;
pub mod peer;
mod returns;
pub mod ring;
pub mod run;
pub mod schedule;
pub mod session;

pub use config::{DriverConfig, Mode, Size, Way};
pub use driver::Driver;
pub use outcome::{Counts, Latency, Outcome};
pub use run::{RunConfig, run};
pub use schedule::{Pattern, Rate};
pub use session::{QueuePair, Session, SessionConfig};
