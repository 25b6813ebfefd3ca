//! What the opener may open: all of it in plain words, from the configuration.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use rustix::thread::CapabilitySet;

use super::{ListenRequest, TapRequest, XdpRequest};

/// Ports below this one take a right to listen on (ip(7)).
const FIRST_FREE_PORT: u16 = 1024;

/// Everything that may be opened.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The control socket.
    pub control: Option<ListenRequest>,
    /// The port that metrics are given on.
    pub metrics: Option<SocketAddr>,
    /// What each device needs, by its name.
    pub devices: BTreeMap<String, DevicePlan>,
}

/// What a device needs.
#[derive(Clone, Debug, Default)]
pub struct DevicePlan {
    /// How its front ends come.
    pub entrance: Option<EntrancePlan>,
    /// Where its packets go.
    pub uplink: Option<UplinkPlan>,
    /// The file in which it keeps its state.
    pub state: Option<StatePlan>,
    /// The real-time priority of its threads, 1 to 99.
    pub realtime: Option<u8>,
}

/// How front ends come to a device.
#[derive(Clone, Debug)]
pub enum EntrancePlan {
    /// To a socket.
    Listen(ListenRequest),
    /// They listen at a socket of theirs.
    Connect(PathBuf),
    /// Over a socket that was left open for the daemon.
    Passed(RawFd),
}

/// Where a device's packets go.
#[derive(Clone, Debug)]
pub enum UplinkPlan {
    /// To a TAP.
    Tap(TapRequest),
    /// To queues of a TAP that were left open for the daemon.
    TapFd(Vec<RawFd>),
    /// To a macvtap interface.
    Macvtap {
        /// Its name.
        name: String,
        /// How many queues to open.
        queues: u16,
    },
    /// To queues of an interface.
    Xdp(XdpRequest),
}

/// A file for a device's state.
#[derive(Clone, Debug)]
pub struct StatePlan {
    /// Its directory.
    pub dir: PathBuf,
    /// Its size in bytes.
    pub len: u64,
}

/// Makes a plan anew from where it came from.
pub struct Reread(Box<dyn Fn() -> Result<(Plan, String), String> + Send>);

impl Reread {
    /// By `read`, which gives the plan and the text that it is from, or says what is wrong with that.
    #[must_use]
    pub fn new(read: impl Fn() -> Result<(Plan, String), String> + Send + 'static) -> Self {
        Self(Box::new(read))
    }

    pub(super) fn read(&self) -> Result<(Plan, String), String> {
        (self.0)()
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reread")
    }
}

impl Plan {
    /// Descriptors that whoever started the daemon left open for it.
    pub(super) fn passed(&self) -> impl Iterator<Item = RawFd> {
        self.devices.values().flat_map(|device| {
            let entrance = match device.entrance {
                Some(EntrancePlan::Passed(fd)) => Some(fd),
                _ => None,
            };
            let uplink = match &device.uplink {
                Some(UplinkPlan::TapFd(fds)) => fds.as_slice(),
                Some(UplinkPlan::Xdp(request)) => &request.sockets,
                _ => &[],
            };
            entrance.into_iter().chain(uplink.iter().copied())
        })
    }

    /// The capabilities (capabilities(7)) that opening it may take, and no others.
    #[must_use]
    pub fn capabilities(&self) -> CapabilitySet {
        // Sockets and state files may lie in directories of other users, and belong to other groups.
        let mut all = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER | CapabilitySet::CHOWN;
        if self.metrics.is_some_and(|address| address.port() != 0 && address.port() < FIRST_FREE_PORT) {
            all |= CapabilitySet::NET_BIND_SERVICE;
        }
        if self.devices.values().any(|device| device.realtime.is_some()) {
            all |= CapabilitySet::SYS_NICE;
        }
        for device in self.devices.values() {
            all |= match device.uplink {
                None => CapabilitySet::empty(),
                Some(UplinkPlan::Tap(_) | UplinkPlan::TapFd(_)) => CapabilitySet::NET_ADMIN,
                // What is left to do is to let them poll their queues.
                Some(UplinkPlan::Xdp(ref request)) if !request.sockets.is_empty() => CapabilitySet::NET_ADMIN,
                // Its device node may have to be made.
                Some(UplinkPlan::Macvtap { .. }) => CapabilitySet::NET_ADMIN | CapabilitySet::MKNOD,
                Some(UplinkPlan::Xdp(_)) => xdp_capabilities(),
            };
        }
        all
    }
}

/// Sockets and an interface's settings; a program; to find one that is there by its number.
fn xdp_capabilities() -> CapabilitySet {
    CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN | CapabilitySet::BPF | CapabilitySet::SYS_ADMIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opener::XdpMode;

    #[test]
    fn only_what_is_planned_takes_rights() {
        let files = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER | CapabilitySet::CHOWN;
        let with = |uplink| {
            let device = DevicePlan { uplink: Some(uplink), ..DevicePlan::default() };
            Plan { devices: [("a".into(), device)].into(), ..Plan::default() }
        };
        assert_eq!(Plan::default().capabilities(), files);
        assert_eq!(with(UplinkPlan::TapFd(vec![9])).capabilities(), files | CapabilitySet::NET_ADMIN);
        let device = DevicePlan { realtime: Some(5), ..DevicePlan::default() };
        let realtime = Plan { devices: [("a".into(), device)].into(), ..Plan::default() };
        assert_eq!(realtime.capabilities(), files | CapabilitySet::SYS_NICE);
        let xdp = |sockets| {
            let (interface, mode) = ("eth0".into(), XdpMode::Auto);
            with(UplinkPlan::Xdp(XdpRequest { interface, queue: 0, queues: 1, mode, mac: None, force: false, sockets }))
        };
        assert!(xdp(vec![]).capabilities().contains(CapabilitySet::NET_RAW | CapabilitySet::BPF));
        assert_eq!(xdp(vec![7, 8]).capabilities(), files | CapabilitySet::NET_ADMIN);
        assert_eq!(xdp(vec![7, 8]).passed().collect::<Vec<_>>(), [7, 8]);
        for (port, takes) in [(80, true), (1024, false), (0, false)] {
            let plan = Plan { metrics: Some(([127, 0, 0, 1], port).into()), ..Plan::default() };
            assert_eq!(plan.capabilities().contains(CapabilitySet::NET_BIND_SERVICE), takes, "{port}");
        }
    }
}
