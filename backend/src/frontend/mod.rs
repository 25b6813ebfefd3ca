//! The vhost-user protocol: whoever connects tells of guest memory and rings, and this room passes it on to workers.
//!
//! The `vhost` crate reads, checks and answers messages. [`adapter`](self) answers those that it leaves out, and
//! `session` says what each message means. Nothing here touches a packet.

#![forbid(unsafe_code)]

mod adapter;
mod server;
mod session;

pub use server::{Outcome, Server};
