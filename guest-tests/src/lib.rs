//! Harness that runs vnicd against real guests.
//!
//! A test makes a [`NetNs`], starts [`Vnicd`] in it and boots a [`Guest`] on its socket; traffic made by [`transfer`]
//! is compared by hash on both sides. Everything is private to the test (anonymous namespace, temporary directory),
//! every wait has a time-out, and every process dies with the test, however the test ends.
//!
//! ```no_run
//! use guest_tests::{Guest, NetNs, Nic, Qemu, Side, Vnicd, transfer};
//!
//! # fn main() -> anyhow::Result<()> {
//! let ns = NetNs::new()?;
//! let vnicd = Vnicd::builder(&ns).start()?;
//! ns.sh("ip addr add 10.77.0.1/24 dev tap0 && ip link set tap0 up")?;
//! let guest = Guest::builder().qemu(Qemu::V10).nic(Nic::vhost_user(vnicd.socket())).boot()?;
//! guest.run_ok("ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up")?;
//! guest.run_ok("ping -c 1 -W 5 10.77.0.1")?;
//! transfer::tcp(Side::Guest(&guest), Side::Host(&ns), "10.77.0.1", 1 << 20)?;
//! # Ok(())
//! # }
//! ```
//!
//! Two front ends need no guest: a scripted [`driver`], and DPDK's [`testpmd`].
//!
//! `scripts/setup test` fetches what the harness runs (see [`assets`]). Environment: `GUEST_CACHE` (where the set-up
//! put its files), `GUEST_ACCEL` (`kvm` or `tcg`, not probed then), `VNICD` (the daemon's binary).

#![warn(missing_docs)]

pub mod assets;
pub mod captured;
pub mod configured;
pub mod container;
pub mod control;
pub mod documents;
pub mod driver;
pub mod guest;
pub mod lab;
pub mod lines;
pub mod netns;
pub mod openvswitch;
pub mod package;
pub mod packets;
pub mod patience;
pub mod process;
pub mod protocol;
pub mod script;
pub mod service_manager;
pub mod soak;
pub mod spawn;
pub mod spell;
pub mod streams;
pub mod testpmd;
pub mod tools;
pub mod transfer;
pub mod usage;
pub mod vnicd;
pub mod watch;

pub use assets::{Kernel, Qemu};
pub use configured::Configured;
pub use control::Control;
pub use guest::{Guest, GuestBuilder, GuestProcess, Nic, Slots, System};
pub use lab::Lab;
pub use netns::{Counters, NetNs};
pub use patience::Patience;
pub use process::{Output, Process, Signal};
pub use script::Script;
pub use streams::Streams;
pub use transfer::Side;
pub use usage::{Spent, Usage};
pub use vnicd::Vnicd;
pub use watch::{Lane, Watch};
