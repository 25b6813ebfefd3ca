//! The kernel's side of a TAP in the raw: every frame that the daemon writes to it, and every frame for the guest, each
//! with its virtio-net header (packet(7), PACKET_VNET_HDR).

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::{Frame, VnetHeader};
use crate::NetNs;

const BUFFER: usize = 64 << 20;
const HEADER_LEN: usize = 10;
/// Where a VLAN tag stands in a frame.
const TAG_AT: usize = 12;

/// A socket on a TAP.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Tap {
    /// On an interface of the namespace.
    ///
    /// # Errors
    /// When there is no such interface, or its frames may not be looked at.
    pub fn open(ns: &NetNs, interface: &str) -> Result<Self> {
        ns.run_in(|| {
            // SAFETY: the call has no pointers.
            let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            ensure!(socket >= 0, "no packet socket: {}", io::Error::last_os_error());
            // SAFETY: it is a new descriptor, which nobody else has.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
                let on: libc::c_int = 1;
                // SAFETY: the value lives until the call returns.
                let set = unsafe {
                    libc::setsockopt(
                        socket.as_raw_fd(),
                        libc::SOL_PACKET,
                        option,
                        (&raw const on).cast(),
                        size_of_val(&on) as libc::socklen_t,
                    )
                };
                ensure!(set == 0, "packet socket option {option}: {}", io::Error::last_os_error());
            }
            set_socket_recv_buffer_size_force(&socket, BUFFER)?;
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
                sll_ifindex: name_to_index(&socket, interface)? as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: the address lives until the call returns.
            let bound = unsafe {
                libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
            };
            ensure!(bound == 0, "cannot bind to {interface}: {}", io::Error::last_os_error());
            Ok(Self { socket, buffer: vec![0; 70_000] })
        })?
    }

    /// Has the kernel send a frame to the guest.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn send(&self, (header, frame): &Frame) -> Result<()> {
        let bytes = [&header.to_bytes()[..], frame].concat();
        let sent = rustix::io::write(&self.socket, &bytes).with_context(|| format!("the kernel refused {header:?}"))?;
        ensure!(sent == bytes.len(), "{sent} of {} bytes sent", bytes.len());
        Ok(())
    }

    /// The next frame from the daemon; none if none comes in time.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn receive(&mut self, patience: Duration) -> Result<Option<Frame>> {
        let timeout = Timespec::try_from(patience)?;
        if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout))? == 0 {
            return Ok(None);
        }
        let mut control = [0u64; 16];
        let mut iovec = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // SAFETY: all of it may be zero.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut iovec, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the message points to a buffer and room for control data that live until the call returns.
        let got = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error()).context("the packet socket")?;
        ensure!(message.msg_flags & libc::MSG_TRUNC == 0, "a frame of more than {got} bytes");
        let (header, frame) = self.buffer[..got].split_first_chunk::<HEADER_LEN>().context("no virtio-net header")?;
        let (mut header, mut frame) = (VnetHeader::from_bytes(header), frame.to_vec());
        // The kernel takes the outer tag out and tells it by the side.
        if let Some([type_, tag]) = tag_of(&message) {
            frame.splice(TAG_AT..TAG_AT, [type_.to_be_bytes(), tag.to_be_bytes()].concat());
            if header.flags & VnetHeader::NEEDS_CSUM != 0 {
                header.csum_start += 4;
            }
        }
        Ok(Some((header, frame)))
    }
}

/// Type and content of the VLAN tag that the kernel took out of a frame.
fn tag_of(message: &libc::msghdr) -> Option<[u16; 2]> {
    // SAFETY: the kernel filled the control data in, which still lives.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: as above.
    let first = unsafe { first.as_ref() }?;
    let is_data = (first.cmsg_level, first.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA);
    // SAFETY: it only counts.
    let least = unsafe { libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) } as usize;
    if !is_data || first.cmsg_len < least {
        return None;
    }
    // SAFETY: the pointer is that of a control message.
    let data = unsafe { libc::CMSG_DATA(first) }.cast::<libc::tpacket_auxdata>();
    // SAFETY: the message has such data, as its level, type and length say.
    let data = unsafe { data.read_unaligned() };
    (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some([data.tp_vlan_tpid, data.tp_vlan_tci])
}
