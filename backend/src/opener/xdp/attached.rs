//! The XDP program of an interface: there can be one, so whoever comes second uses that of whoever came first.
//!
//! Nothing is pinned in a file system. Everybody who uses the program holds the link that keeps it at the interface,
//! and with the last of them it goes, however that one ends.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::XdpError;
use super::bpf;
use super::netlink;
use super::program::program;

/// Names of our program and its maps, by which others find them.
const PROGRAM: &str = "vnicd";
const SOCKETS: &str = "vnicd_sockets";
const RULES: &str = "vnicd_rules";

/// Queues that the maps have room for: more than interfaces have.
const MAX_QUEUES: u32 = 1024;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
const SKB_MODE: u32 = 1 << 1;
const DRIVER_MODE: u32 = 1 << 2;

/// A program at an interface.
#[derive(Debug)]
pub struct XdpProgram {
    /// The link that keeps it there.
    pub link: OwnedFd,
    /// By queue: the socket that frames go to (`BPF_MAP_TYPE_XSKMAP`).
    pub sockets: OwnedFd,
    /// By queue: the address that a frame must have, as eight bytes; zero for any.
    pub rules: OwnedFd,
    /// It runs in the kernel's stack instead of the driver.
    pub is_generic: bool,
    /// It was there before.
    pub is_shared: bool,
}

/// Puts our program at an interface, or finds it there. `generic` says whether it is to run in the driver (no), in the
/// kernel's stack (yes), or in the best place that there is.
pub(super) fn attach(name: &str, interface: u32, generic: Option<bool>) -> Result<XdpProgram, XdpError> {
    // Twice: somebody else's program may come or go meanwhile.
    for _ in 0..2 {
        if let Some(program) = find(name, interface)? {
            let fits = generic.is_none_or(|wanted| wanted == program.is_generic);
            return if fits { Ok(program) } else { Err(XdpError::OtherMode(name.to_owned())) };
        }
        match make(name, interface, generic) {
            Err(XdpError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
            other => return other,
        }
    }
    Err(XdpError::OtherProgram(name.to_owned()))
}

fn find(name: &str, interface: u32) -> Result<Option<XdpProgram>, XdpError> {
    let other = || XdpError::OtherProgram(name.to_owned());
    let kernel = |source: io::Error| match source.raw_os_error() {
        Some(libc::EPERM) => XdpError::SharingRights(name.to_owned()),
        _ => XdpError::Kernel { interface: name.to_owned(), what: "look at the XDP program of", source },
    };
    let Some(attached) = netlink::attached_program(interface).map_err(kernel)? else { return Ok(None) };
    let found = bpf::program_by_id(attached.id).map_err(kernel)?;
    if found.name != PROGRAM {
        return Err(other());
    }
    let (mut sockets, mut rules) = (None, None);
    for id in found.maps {
        match bpf::map_by_id(id).map_err(kernel)? {
            (map, name) if name == SOCKETS => sockets = Some(map),
            (map, name) if name == RULES => rules = Some(map),
            _ => {}
        }
    }
    let link = bpf::link_of_program(attached.id).map_err(kernel)?;
    let (Some(link), Some(sockets), Some(rules)) = (link, sockets, rules) else { return Err(other()) };
    Ok(Some(XdpProgram { link, sockets, rules, is_generic: attached.is_generic, is_shared: true }))
}

fn make(name: &str, interface: u32, generic: Option<bool>) -> Result<XdpProgram, XdpError> {
    let kernel = |what| {
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM) => XdpError::ProgramRights(name.to_owned()),
            _ => XdpError::Kernel { interface: name.to_owned(), what, source },
        }
    };
    let sockets = bpf::create_map(bpf::SOCKETS, 4, MAX_QUEUES, SOCKETS).map_err(kernel("make a map for"))?;
    let rules = bpf::create_map(bpf::ARRAY, 8, MAX_QUEUES, RULES).map_err(kernel("make a map for"))?;
    let instructions = program(sockets.as_raw_fd(), rules.as_raw_fd());
    let program = bpf::load_program(&instructions, PROGRAM).map_err(kernel("load an XDP program for"))?;
    let attach = |is_generic| bpf::attach(&program, interface, if is_generic { SKB_MODE } else { DRIVER_MODE });
    let (link, is_generic) = match generic {
        Some(is_generic) => (attach(is_generic), is_generic),
        None => match attach(false) {
            // Not what a driver says of itself.
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EPERM | libc::ENODEV)) => {
                (attach(true), true)
            }
            other => (other, false),
        },
    };
    let link = link.map_err(kernel("attach an XDP program to"))?;
    Ok(XdpProgram { link, sockets, rules, is_generic, is_shared: false })
}
