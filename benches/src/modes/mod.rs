//! The worker's modes side by side: the daemon with `--mode interrupt`, `polling` and `auto`, and testpmd's vhost PMD as a
//! poller without end, each in turn under the same client.
//!
//! A client in user space ([`crate::loadgen`]) sends at named loads ([`load`]) through each subject's loopback
//! ([`subject`]), in a few short turns instead of a long one, so that the drift of a machine that others use hits all
//! subjects equally. What comes of it ([`points`]), of silence ([`quiet`]) and of full load ([`full`]) is held against
//! what `auto` must show ([`claims`]), told ([`account`]) and drawn. [`guest`] is for a bench of its own.

#![forbid(unsafe_code)]

pub mod account;
pub mod claims;
pub mod full;
pub mod guest;
pub mod load;
pub mod points;
pub mod quiet;
pub mod subject;

pub use load::Load;
pub use points::{Point, Points, Sample};
pub use subject::{Lab, Subject};
