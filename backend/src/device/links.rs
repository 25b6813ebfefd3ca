//! Watches the uplinks' interfaces (rtnetlink(7)), so that a guest learns when its link goes down or comes up.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use vmm_sys_util::epoll::EventSet;

use super::af_xdp::XdpQueues;
use crate::nic::Nics;
use crate::worker::DeviceName;

/// `RTMGRP_LINK`: interfaces come, change and go.
const GROUP_LINK: u32 = 1;
/// Bytes of a message's header, of the interface information behind it, and of an attribute's header.
const HEADER_LEN: usize = 16;
const INFO_LEN: usize = 16;
const ATTRIBUTE_LEN: usize = 4;
const NEW_LINK: u16 = libc::RTM_NEWLINK;
const DEL_LINK: u16 = libc::RTM_DELLINK;
const NAME: u16 = libc::IFLA_IFNAME;
/// An interface carries frames when it is up and has a carrier.
const CARRIES: u32 = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;

/// Tells NICs about their uplinks.
#[derive(Debug)]
pub struct Links {
    socket: OwnedFd,
    nics: Nics,
    reopened: Reopened,
}

/// What is opened again when its interface comes back, of each device.
pub(super) type Reopened = Rc<RefCell<Vec<(DeviceName, XdpQueues)>>>;

impl Links {
    /// Watches the interfaces of `nics`.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub(super) fn watch(nics: Nics, reopened: Reopened) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol number is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUP_LINK))?;
        Ok(Self { socket, nics, reopened })
    }

    fn tell(&self, change: &Change<'_>) {
        let reopened = self.reopened.borrow();
        let queues = reopened.iter().map(|(_, queues)| queues);
        for queues in queues.filter(|queues| queues.interface() == change.interface && change.exists) {
            queues.is_there(change.index);
        }
        for nic in self.nics.all().iter().filter(|nic| nic.interface() == Some(change.interface)) {
            nic.set_link_up(change.carries);
        }
    }
}

impl MutEventSubscriber for Links {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new_raw(self.socket.as_raw_fd(), EventSet::IN)) {
            tracing::warn!("guests will not learn of link changes: {e}");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let mut bytes = [0; 32 << 10];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((n, _)) if n > 0 => changes(&bytes[..n]).for_each(|change| self.tell(&change)),
                // ENOBUFS: changes were lost in a flood of them. The next one of an interface tells its state anew.
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

/// What a message says of an interface.
#[derive(Debug, PartialEq, Eq)]
struct Change<'a> {
    interface: &'a str,
    index: u32,
    /// It is there; else it has gone.
    exists: bool,
    carries: bool,
}

/// The changes in a row of messages, each padded to four bytes.
fn changes(mut bytes: &[u8]) -> impl Iterator<Item = Change<'_>> {
    std::iter::from_fn(move || {
        loop {
            let len = u32_at(bytes, 0)? as usize;
            let message = bytes.get(..len).filter(|_| len >= HEADER_LEN)?;
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            if let Some(change) = change(message) {
                return Some(change);
            }
        }
    })
}

fn change(message: &[u8]) -> Option<Change<'_>> {
    let kind = u16_at(message, 4)?;
    if kind != NEW_LINK && kind != DEL_LINK {
        return None;
    }
    let (index, flags) = (u32_at(message, HEADER_LEN + 4)?, u32_at(message, HEADER_LEN + 8)?);
    let mut attributes = message.get(HEADER_LEN + INFO_LEN..)?;
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        let attribute = attributes.get(..len).filter(|_| len >= ATTRIBUTE_LEN)?;
        if u16_at(attribute, 2)? == NAME {
            let name = attribute[ATTRIBUTE_LEN..].split(|b| *b == 0).next()?;
            let interface = std::str::from_utf8(name).ok()?;
            let exists = kind == NEW_LINK;
            return Some(Change { interface, index, exists, carries: exists && flags & CARRIES == CARRIES });
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u32, name: &str) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(9u32.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        // An attribute of another kind first.
        body.extend([5u16.to_ne_bytes(), 99u16.to_ne_bytes()].concat());
        body.extend([7, 0, 0, 0]);
        body.extend([(name.len() as u16 + 5).to_ne_bytes(), NAME.to_ne_bytes()].concat());
        body.extend(name.as_bytes());
        body.push(0);
        let len = (HEADER_LEN + body.len()) as u32;
        let mut bytes = [len.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &[0; 10], &body].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_read_and_nonsense_is_not() {
        let row = [
            message(NEW_LINK, CARRIES, "tap0"),
            message(20, 0, "x"),
            message(NEW_LINK, 1, "t"),
            message(DEL_LINK, CARRIES, "tap1"),
        ]
        .concat();
        let read: Vec<_> = changes(&row).map(|c| (c.interface.to_owned(), c.exists, c.carries)).collect();
        assert_eq!(read, [("tap0".into(), true, true), ("t".into(), true, false), ("tap1".into(), false, false)]);
        assert!(changes(&row).all(|c| c.index == 9));
        for cut in 0..row.len() {
            changes(&row[..cut]).for_each(drop);
        }
        changes(&[0; 64]).for_each(drop);
        changes(&[0xff; 64]).for_each(drop);
    }
}
