//! How many descriptors the kernel sends in a call where it copies.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17, `linux/if_xdp.h`).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Has a call send up to `count` descriptors, rather than 32. `count` is at most the size of the ring, which is there
/// already.
///
/// # Errors
/// When the kernel cannot: it goes on with 32 then.
pub(super) fn set(socket: &OwnedFd, count: u32) -> io::Result<()> {
    let len = size_of_val(&count) as libc::socklen_t;
    // SAFETY: the option is an integer of 32 bits, which the kernel reads.
    let status = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, (&raw const count).cast(), len)
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
