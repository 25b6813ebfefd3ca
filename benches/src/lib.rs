//! What the benches share: comparing two subjects fairly and telling the result.
//!
//! A bench measures two subjects in turn in one run (A B A B ...), because on a machine that others use only the ratio
//! of neighbours means something. It fills a [`report::Report`], which becomes a table ([`report`]), a JSON file and a
//! plot ([`plot`], [`curves`]). Guests and their traffic come from [`rig`] and [`iperf`]; [`supervise`] takes everything
//! down, however a run ends. [`loadgen`] is a guest of its own: packets by the clock, without a VM. [`testpmd`] is
//! DPDK's program on either side of a socket, [`ring`] compares the rings alone with it,
//! [`modes`] the daemon's modes with each other and with it, [`tap`] the daemon's TAP with its own, and [`af_xdp`] the
//! daemon on an interface's queue with it; the last two share [`uplinks`]. [`kicks`] has a device beside one that is
//! kicked without end, [`devices`] many of them in one daemon.

#![warn(missing_docs)]

pub mod af_xdp;
pub mod claim;
pub mod curves;
pub mod devices;
pub mod distance;
pub mod instructions;
pub mod iperf;
pub mod kicks;
pub mod loadgen;
pub mod machine;
pub mod modes;
pub mod plot;
pub mod report;
pub mod rig;
pub mod ring;
pub mod stats;
pub mod supervise;
pub mod tap;
pub mod testpmd;
pub mod uplinks;
