//! Requests of the TUN driver and of macvtap (linux/if_tun.h), each a safe function on an open queue.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::interface::{EMPTY, IfName, name_of};

/// Makes `tun` a queue of the interface `name`, with `flags` of the TUN driver; answers the name that it got.
pub(super) fn set_iff(tun: impl AsFd, name: &IfName, flags: i32) -> io::Result<IfName> {
    let mut request = name.request();
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq, which is initialised and ours.
    let status = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    IfName::new(&name_of(&request)).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Sets the length of the header before each frame of a TAP, in bytes.
pub(super) fn set_vnet_header_len(tun: impl AsFd, len: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which is ours.
    let status = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bounds what a TAP keeps for a receiver that is slow, in bytes: then it takes no more for a while.
pub(super) fn set_send_buffer(tun: impl AsFd, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETSNDBUF reads one int, which is ours.
    let status = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETSNDBUF, &raw const bytes) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the TAP stay when nobody has it open any more.
pub(super) fn set_persistent(tun: impl AsFd) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let status = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Name and flags of the interface that `tun` is a queue of.
pub(super) fn get_iff(tun: impl AsFd) -> io::Result<(String, i32)> {
    let mut request = EMPTY;
    // SAFETY: TUNGETIFF fills the ifreq, which is ours.
    let status = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TUNGETIFF filled ifru_flags; all bit patterns are a short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), i32::from(flags)))
}

/// Tells the kernel which unfinished frames the reader of a TAP takes (`TUN_F_*`).
pub(super) fn set_offload(tun: impl AsFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let status = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
