//! vnicd: a virtual NIC for virtual machines.
//!
//! A vhost-user-net back end. It serves the virtqueues of a guest on one thread a queue pair and moves packets in
//! bursts between them and an uplink. `docs/architecture.md` draws the rooms; each folder is one of them.

#![deny(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod config;
pub mod control;
pub mod device;
pub mod frontend;
pub mod guard;
pub mod memory;
pub mod metrics;
pub mod mode;
pub mod nic;
pub mod offload;
pub mod opener;
pub mod record;
pub mod ring;
pub mod sandbox;
mod seldom;
pub mod service;
pub mod uplink;
mod words;
pub mod worker;
