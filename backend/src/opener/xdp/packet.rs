//! A packet socket (packet(7)) that has an interface take frames in for a guest: those that its program sends to our
//! sockets, and with them, where the guest shares the interface with the host, a copy of all frames to groups.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes that may wait.
const RECEIVE_BUFFER: libc::c_int = 1 << 20;

/// linux/filter.h: where the kernel keeps what is not in the frame, and there the kind of packet.
const PACKET_TYPE: u32 = (-0x1000i32 + 4) as u32;
const PACKET_OUTGOING: u32 = 4;

// Codes of a classic filter.
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const IF_EQ: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Has the interface take in all frames, whoever they are for.
pub(super) fn open_for_all(interface: u32) -> io::Result<OwnedFd> {
    let socket = open()?;
    join(&socket, interface, libc::PACKET_MR_PROMISC, None)?;
    Ok(socket)
}

/// Has the interface take in frames for `mac` and for all groups. The latter can be read from the socket.
pub(super) fn open_for_groups(interface: u32, mac: [u8; 6]) -> io::Result<OwnedFd> {
    let socket = open()?;
    join(&socket, interface, libc::PACKET_MR_UNICAST, Some(mac))?;
    join(&socket, interface, libc::PACKET_MR_ALLMULTI, None)?;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD_BYTE, 0, 0, 0),
        step(AND, 0, 0, 1),
        step(IF_EQ, 3, 0, 0),
        step(LOAD_WORD, 0, 0, PACKET_TYPE),
        step(IF_EQ, 1, 0, PACKET_OUTGOING),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel reads the filter and the steps that it points to, which live until the call returns.
    unsafe { set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter) }?;
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER),
        (libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1),
        (libc::SOL_PACKET, libc::PACKET_AUXDATA, 1),
    ] {
        // SAFETY: these options are integers.
        unsafe { set(&socket, level, option, &value) }?;
    }
    // No frame came before there was a filter: the socket was not bound.
    // SAFETY: all-zero is a valid address: of no family.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is whole and as long as the kernel is told.
    let status = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// A socket that gets nothing yet.
fn open() -> io::Result<OwnedFd> {
    // SAFETY: it takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn join(socket: &OwnedFd, interface: u32, kind: libc::c_int, mac: Option<[u8; 6]>) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&mac.unwrap_or_default());
    let request = libc::packet_mreq {
        mr_ifindex: interface as i32,
        mr_type: kind as u16,
        mr_alen: if mac.is_some() { 6 } else { 0 },
        mr_address: address,
    };
    // SAFETY: the option takes such a request.
    unsafe { set(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request) }
}

/// Has the kernel poll the queue of an AF_XDP socket when that asks for it, rather than by interrupts (Linux 5.11).
pub(super) fn prefer_busy_poll(socket: &OwnedFd) -> io::Result<()> {
    /// How long a look may take that finds nothing, and packets that it may find.
    const MICROSECONDS: libc::c_int = 20;
    const BUDGET: libc::c_int = 64;
    for (option, value) in
        [(libc::SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, MICROSECONDS), (libc::SO_BUSY_POLL_BUDGET, BUDGET)]
    {
        // SAFETY: these options are integers.
        unsafe { set(socket, libc::SOL_SOCKET, option, &value) }?;
    }
    Ok(())
}

/// # Safety
/// `T` is what the option takes, and its pointers are valid as the kernel uses them.
unsafe fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the caller vouches for the value; the kernel is told how long it is.
    let status = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), len) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
