//! Frames to groups (broadcast and multicast), which the kernel's own stack gets too: they come over a packet socket
//! (packet(7)) whose filter lets nothing else through.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use super::XdpSteering;
use crate::offload::{HEADER_LEN, NetHeader, Offloads, finish};
use crate::uplink::MAX_FRAME;

/// Bytes of the header before each frame: virtio-net's, without the number of buffers.
const PREFIX: usize = HEADER_LEN - 2;

/// Where a VLAN tag stands in a frame (IEEE 802.1Q), and the type that opens a usual one.
const TAG_AT: usize = 12;
const TAG_TYPE: u16 = 0x8100;

/// Most frames that may have been queued.
const MAX_QUEUED: usize = 4096;

/// A packet socket with `PACKET_VNET_HDR` and `PACKET_AUXDATA`.
#[derive(Debug)]
pub(super) struct Groups {
    steering: Arc<XdpSteering>,
    bytes: Box<[u8]>,
}

impl Groups {
    /// None where all frames come to the guest's queues anyway.
    pub(super) fn of(steering: &Arc<XdpSteering>) -> Option<Self> {
        let exist = steering.mac.is_some() && steering.packets.is_some();
        exist.then(|| Self { steering: steering.clone(), bytes: vec![0; PREFIX + MAX_FRAME].into() })
    }

    /// The socket that they come over.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.steering.packets.as_ref().map(AsFd::as_fd)
    }

    fn read(&mut self) -> Option<(usize, Option<(u16, u16)>)> {
        let socket = self.steering.packets.as_ref()?;
        read(socket.as_fd(), &mut self.bytes).ok()
    }

    /// Takes a frame, finished. Says whether there was one.
    pub(super) fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        while let Some((len, tag)) = self.read() {
            let Some((prefix, bytes)) = self.bytes[..len].split_at_mut_checked(PREFIX) else { continue };
            let mut header = NetHeader::default();
            header.0[..PREFIX].copy_from_slice(prefix);
            if bytes.len() < TAG_AT + 2 || finish(&mut header, bytes, Offloads::default()).is_err() {
                continue;
            }
            frame.clear();
            frame.extend_from_slice(&bytes[..TAG_AT]);
            frame.extend(tag.into_iter().flat_map(|(kind, tag)| [kind.to_be_bytes(), tag.to_be_bytes()]).flatten());
            frame.extend_from_slice(&bytes[TAG_AT..]);
            return true;
        }
        false
    }

    /// Throws away what waits.
    pub(super) fn drain(&mut self) {
        for _ in 0..MAX_QUEUED {
            if self.read().is_none() {
                break;
            }
        }
    }
}

/// Room for one control message with what the kernel tells beside a frame.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Reads a frame behind its header: how many bytes, and the VLAN tag that the kernel took out of it, with its type.
fn read(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<(u16, u16)>)> {
    let mut iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 64]);
    // SAFETY: all-zero is a valid msghdr: no address, no vectors, no control messages.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message points to a vector over `bytes` and to `control`, which live until the call returns and which
    // nothing else refers to.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(len) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
    Ok((len.min(bytes.len()), tag(&message)))
}

/// The tag in the control message of a frame.
fn tag(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the kernel filled the message and says how long its control part is.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    if first.is_null() {
        return None;
    }
    // SAFETY: it points to a whole header in the control part.
    let header = unsafe { first.read_unaligned() };
    // SAFETY: as above; it only adds to the address.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: it only computes a number.
    let needed = unsafe { libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) } as usize;
    let is_ours = header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == libc::PACKET_AUXDATA;
    if !is_ours || (header.cmsg_len as usize) < needed {
        return None;
    }
    // SAFETY: the message is as long as that.
    let auxiliary = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
    let has = |flag: libc::c_uint| auxiliary.tp_status & flag != 0;
    let kind = if has(libc::TP_STATUS_VLAN_TPID_VALID) { auxiliary.tp_vlan_tpid } else { TAG_TYPE };
    has(libc::TP_STATUS_VLAN_VALID).then_some((kind, auxiliary.tp_vlan_tci))
}
