//! What a guest may do to the network: which addresses it may send from, and how much may move. All of it is off unless
//! somebody asks.
//!
//! Pure functions on bytes and times, no I/O.

#![forbid(unsafe_code)]

mod bucket;
mod filter;
mod gate;
mod mac;
mod prefix;
mod quantity;
mod vlans;

pub use filter::{Filter, HEAD_LEN, Refusal};
pub use gate::{Allowance, Gate, Limits};
pub use mac::{Mac, Macs};
pub use prefix::Prefixes;
pub use quantity::Quantity;
pub use vlans::Vlans;
