//! Opens the queues of a macvtap interface: a TAP whose other end is a physical interface.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use super::interface::{IfName, Interfaces};
use super::tap::{FLAGS, OpenTapError, OpenedTap, prepare};
use super::tun;

/// Opens `queues` queues of the macvtap interface `name`, and brings it up.
///
/// # Errors
/// When the interface is missing or no macvtap, or rights are missing.
pub fn open_macvtap(name: &str, queues: u16) -> Result<OpenedTap, OpenTapError> {
    let name = IfName::new(name).ok_or_else(|| OpenTapError::Name(name.to_owned()))?;
    let wanted = || name.as_str().to_owned();
    let kernel = |what| move |source| OpenTapError::Kernel { name: wanted(), what, source };
    let interfaces = Interfaces::open().map_err(kernel("look for"))?;
    let index = interfaces.index(&name).map_err(kernel("look for"))?;
    let index = index.ok_or_else(|| OpenTapError::NoMacvtap(wanted()))?;
    // The kernel makes one device node for each macvtap, named by the number of the interface.
    let node = format!("/dev/tap{index}");
    let open = || {
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&node);
        opened.map(OwnedFd::from).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OpenTapError::NotMacvtap(wanted()),
            io::ErrorKind::PermissionDenied => OpenTapError::MacvtapRights { name: wanted(), node: node.clone() },
            _ => kernel("open")(source),
        })
    };
    let mut opened = Vec::new();
    for _ in 0..queues {
        let queue = open()?;
        tun::set_iff(&queue, &name, FLAGS | libc::IFF_MULTI_QUEUE).map_err(kernel("set up"))?;
        opened.push(queue);
    }
    let uso = prepare(&opened, None).map_err(|(what, source)| kernel(what)(source))?;
    interfaces.set_up(&name).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => OpenTapError::Rights(wanted()),
        _ => kernel("bring up")(source),
    })?;
    let mac = interfaces.mac(&name).map_err(kernel("read the MAC address of"))?;
    Ok(OpenedTap { name: wanted(), queues: opened, multi_queue: true, existed: true, uso, guest_mac: Some(mac) })
}
