//! The vhost-user protocol: whoever connects tells of guest memory and rings, and this room passes it on to workers.
//!
//! The `vhost` crate reads, checks and answers messages; `adapter` answers the few that it leaves out. `messages` says
//! what each of them means to the `session`. Nothing here touches a packet.

#![forbid(unsafe_code)]

mod adapter;
mod client;
mod connection;
mod messages;
mod patience;
mod refusal;
mod rings;
mod server;
mod session;

pub use client::{Client, Connect};
pub use server::{Outcome, Server};
