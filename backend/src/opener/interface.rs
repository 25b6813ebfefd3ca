//! Interface requests of the kernel (netdevice(7), bridges, ethtool), each a safe function on a checked name.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// The TUN driver counts the Ethernet header against what IP allows.
const MAX_TAP_MTU: u16 = 65_535 - 14;

/// linux/sockios.h; not in the libc crate.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;

/// linux/sockios.h; a bridge takes its old commands (linux/if_bridge.h) through it.
const SIOCDEVPRIVATE: libc::Ioctl = 0x89f0;
const BRCTL_GET_PORT_LIST: libc::c_ulong = 7;
/// What the kernel allows (BR_MAX_PORTS).
const MAX_BRIDGE_PORTS: usize = 1024;

/// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GLINK: u32 = 0xa;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    versions: [u8; 64],
    bus: [u8; 32],
    rest: [u8; 64],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

pub(super) const EMPTY: libc::ifreq =
    libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 } };

/// An interface name that fits the kernel (at most 15 bytes, no slash, no space).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IfName(String);

impl IfName {
    pub(super) fn new(name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ && name != "." && name != "..";
        let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
        (fits && plain).then(|| Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn request(&self) -> libc::ifreq {
        let mut request = EMPTY;
        for (to, from) in request.ifr_name.iter_mut().zip(self.0.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }
}

/// A socket that interface requests go through.
pub(super) struct Interfaces(OwnedFd);

impl Interfaces {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?))
    }

    /// Index of the interface, or none if it does not exist.
    pub(super) fn index(&self, name: &IfName) -> io::Result<Option<i32>> {
        match self.call(libc::SIOCGIFINDEX, name.request()) {
            // SAFETY: SIOCGIFINDEX fills ifru_ifindex; all bit patterns are an int.
            Ok(answer) => Ok(Some(unsafe { answer.ifr_ifru.ifru_ifindex })),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Brings the interface up. One that is up already takes no rights.
    pub(super) fn set_up(&self, name: &IfName) -> io::Result<()> {
        let mut request = self.call(libc::SIOCGIFFLAGS, name.request())?;
        // SAFETY: SIOCGIFFLAGS filled ifru_flags; all bit patterns are a short.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if i32::from(flags) & libc::IFF_UP != 0 {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.call(libc::SIOCSIFFLAGS, request).map(drop)
    }

    /// Sets the largest packet of the interface, in bytes of IP; the largest that a TAP takes, if that is smaller.
    pub(super) fn set_mtu(&self, name: &IfName, mtu: u16) -> io::Result<()> {
        let mut request = name.request();
        request.ifr_ifru.ifru_mtu = mtu.min(MAX_TAP_MTU).into();
        self.call(libc::SIOCSIFMTU, request).map(drop)
    }

    /// Largest packet of the interface, in bytes of IP.
    pub(super) fn mtu(&self, name: &IfName) -> io::Result<u32> {
        let answer = self.call(libc::SIOCGIFMTU, name.request())?;
        // SAFETY: SIOCGIFMTU fills ifru_mtu; all bit patterns are an int.
        let mtu = unsafe { answer.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Queues of the interface that frames both come from and go to.
    pub(super) fn queues(&self, name: &IfName) -> io::Result<u32> {
        let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
        match self.ethtool(name, &mut channels) {
            Ok(()) => Ok((channels.combined + channels.rx.min(channels.tx)).max(1)),
            // A driver that does not tell, of a TAP for instance: the kernel's own list does.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let listed = std::fs::read_dir(format!("/sys/class/net/{}/queues", name.as_str()));
                let names = listed.into_iter().flatten().flatten().map(|queue| queue.file_name());
                Ok((names.filter(|name| name.as_encoded_bytes().starts_with(b"rx-")).count() as u32).max(1))
            }
            Err(e) => Err(e),
        }
    }

    /// MAC address of the interface.
    pub(super) fn mac(&self, name: &IfName) -> io::Result<[u8; 6]> {
        let answer = self.call(libc::SIOCGIFHWADDR, name.request())?;
        // SAFETY: SIOCGIFHWADDR fills ifru_hwaddr; all bit patterns are a sockaddr.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok(mac)
    }

    /// Whether the TUN driver made the interface, as one that carries Ethernet frames.
    pub(super) fn is_tap(&self, name: &IfName) -> io::Result<bool> {
        let mut info =
            DriverInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], versions: [0; 64], bus: [0; 32], rest: [0; 64] };
        match self.ethtool(name, &mut info) {
            Ok(()) => Ok(info.driver.starts_with(b"tun\0") && info.bus.starts_with(b"tap\0")),
            // The loopback and others have no driver to tell of.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether an interface that is up has a carrier at this moment. `IFF_RUNNING` would tell it late: up to a second
    /// after a TAP was closed it still says yes.
    pub(super) fn has_carrier(&self, name: &IfName) -> io::Result<bool> {
        let mut value = [ETHTOOL_GLINK, 0];
        self.ethtool(name, &mut value)?;
        Ok(value[1] != 0)
    }

    /// Passes a command with room for its answer to the interface's driver (linux/ethtool.h).
    fn ethtool<T>(&self, name: &IfName, command: &mut T) -> io::Result<()> {
        let mut request = name.request();
        request.ifr_ifru.ifru_data = (&raw mut *command).cast();
        self.call(libc::SIOCETHTOOL, request).map(drop)
    }

    /// Makes the interface with this index a port of `bridge`.
    pub(super) fn add_to_bridge(&self, bridge: &IfName, index: i32) -> io::Result<()> {
        let mut request = bridge.request();
        request.ifr_ifru.ifru_ifindex = index;
        match self.call(SIOCBRADDIF, request) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && self.ports_of(bridge)?.contains(&index) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Indices of the interfaces that are ports of `bridge`; 0 where there is none.
    fn ports_of(&self, bridge: &IfName) -> io::Result<Vec<libc::c_int>> {
        let mut ports = vec![0 as libc::c_int; MAX_BRIDGE_PORTS];
        let mut list = [BRCTL_GET_PORT_LIST, ports.as_mut_ptr() as libc::c_ulong, MAX_BRIDGE_PORTS as libc::c_ulong, 0];
        let mut request = bridge.request();
        request.ifr_ifru.ifru_data = (&raw mut list).cast();
        self.call(SIOCDEVPRIVATE, request)?;
        Ok(ports)
    }

    fn call(&self, number: libc::Ioctl, mut request: libc::ifreq) -> io::Result<libc::ifreq> {
        // SAFETY: every number passed in this file takes a pointer to an ifreq, which is initialised and ours.
        let status = unsafe { libc::ioctl(self.0.as_raw_fd(), number, &raw mut request) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
    }
}

/// The name that the kernel wrote into a request.
pub(super) fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_refuses_are_refused() {
        assert!(IfName::new("vnic%d").is_some());
        for bad in ["", ".", "..", "a/b", "a b", "sixteen-letters-", "a:b", "ü"] {
            assert!(IfName::new(bad).is_none(), "{bad}");
        }
    }
}
