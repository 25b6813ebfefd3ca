//! Which XDP program an interface has (rtnetlink(7), `IFLA_XDP`).

#![forbid(unsafe_code)]

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Bytes of a message's header, of the interface information behind it, and of an attribute's header.
const HEADER_LEN: usize = 16;
const INFO_LEN: usize = 16;
const ATTRIBUTE_LEN: usize = 4;

const NLM_F_REQUEST: u16 = 1;
/// `IFLA_XDP`, and inside it how a program is attached, and its id.
const XDP: u16 = 43;
const XDP_ATTACHED: u16 = 2;
const XDP_PROG_ID: u16 = 4;
/// `XDP_ATTACHED_SKB`.
const ATTACHED_SKB: u8 = 2;
/// What marks an attribute that holds others.
const NESTED: u16 = 1 << 15;

/// A program at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    /// The kernel's id of it.
    pub(super) id: u32,
    /// It runs in the kernel's stack instead of the driver.
    pub(super) is_generic: bool,
}

/// The program of the interface with this index, if it has one.
pub(super) fn attached_program(interface: u32) -> io::Result<Option<Attached>> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER_LEN + INFO_LEN);
    request.extend(((HEADER_LEN + INFO_LEN) as u32).to_ne_bytes());
    request.extend(libc::RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    // Family and kind are left open.
    request.extend([0; 4]);
    request.extend(interface.to_ne_bytes());
    request.extend([0; 8]);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 32 << 10];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    parse(&answer[..len])
}

fn parse(answer: &[u8]) -> io::Result<Option<Attached>> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(libc::NLMSG_ERROR as u16) {
        let error = answer.get(HEADER_LEN..HEADER_LEN + 4).and_then(|bytes| bytes.try_into().ok());
        return Err(io::Error::from_raw_os_error(-error.map_or(0, i32::from_ne_bytes)));
    }
    let attributes = answer.get(HEADER_LEN + INFO_LEN..).ok_or(io::ErrorKind::InvalidData)?;
    let Some(xdp) = find(attributes, XDP) else { return Ok(None) };
    let id = find(xdp, XDP_PROG_ID).and_then(|value| value.try_into().ok()).map(u32::from_ne_bytes);
    let is_generic = find(xdp, XDP_ATTACHED).is_some_and(|value| value.first() == Some(&ATTACHED_SKB));
    Ok(id.filter(|id| *id != 0).map(|id| Attached { id, is_generic }))
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let header = attributes.get(..ATTRIBUTE_LEN)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED;
        let value = attributes.get(ATTRIBUTE_LEN..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [((ATTRIBUTE_LEN + value.len()) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_program_is_found_among_other_attributes() {
        let head = [0; HEADER_LEN + INFO_LEN];
        let xdp = [attribute(XDP_ATTACHED, &[ATTACHED_SKB]), attribute(XDP_PROG_ID, &77u32.to_ne_bytes())].concat();
        let answer = [head.as_slice(), &attribute(3, b"eth0\0"), &attribute(XDP | NESTED, &xdp)].concat();
        assert_eq!(parse(&answer).unwrap(), Some(Attached { id: 77, is_generic: true }));
        let none = [head.as_slice(), &attribute(XDP, &attribute(XDP_ATTACHED, &[0]))].concat();
        assert_eq!(parse(&none).unwrap(), None);
        for cut in 0..answer.len() {
            let _ = parse(&answer[..cut]);
        }
        assert!(parse(&[0xff; 64]).is_ok_and(|found| found.is_none()));
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert_eq!(attached_program(1).unwrap(), None, "the loopback interface");
        assert_eq!(attached_program(0x7fff_0000).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
