//! Says which frames of a queue come to its socket: two maps that the XDP program reads (bpf(2)).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Commands of bpf(2).
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;

/// The program of an interface, as long as anybody has this.
#[derive(Debug)]
pub struct XdpSteering {
    /// The link that keeps the program at the interface.
    pub link: OwnedFd,
    /// A packet socket that has the interface take frames in for the guest. With an address, frames to groups come over
    /// it.
    pub packets: Option<OwnedFd>,
    /// By queue: the socket that its frames go to.
    pub sockets: OwnedFd,
    /// By queue: the address that a frame must have; zero stands for any.
    pub rules: OwnedFd,
    /// The address that frames for our sockets must have, if not all are to come.
    pub mac: Option<[u8; 6]>,
}

/// What bpf(2) is told about an entry of a map.
#[repr(C)]
struct Entry {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl XdpSteering {
    /// Lets the frames of `queue` come to `socket`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn admit(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        // As the program reads it: the first bytes of a frame as a little-endian number.
        let mut rule = [0; 8];
        rule[..6].copy_from_slice(&self.mac.unwrap_or_default());
        update(self.rules.as_fd(), queue, &u64::from_ne_bytes(rule))?;
        update(self.sockets.as_fd(), queue, &(socket.as_raw_fd() as u32))
    }

    /// Keeps the frames of `queue` away.
    pub(super) fn dismiss(&self, queue: u32) {
        let entry = Entry {
            map: self.sockets.as_raw_fd() as u32,
            padding: 0,
            key: (&raw const queue) as u64,
            value: 0,
            flags: 0,
        };
        // It fails if there is no such entry, which is what is wanted.
        let _ = call(MAP_DELETE_ELEM, &entry);
    }
}

fn update<T>(map: BorrowedFd<'_>, queue: u32, value: &T) -> io::Result<()> {
    let (map, key, value) = (map.as_raw_fd() as u32, (&raw const queue) as u64, (&raw const *value) as u64);
    call(MAP_UPDATE_ELEM, &Entry { map, padding: 0, key, value, flags: 0 })
}

fn call(command: libc::c_int, entry: &Entry) -> io::Result<()> {
    let entry: *const Entry = entry;
    // SAFETY: the kernel reads the entry, and from what its key and value point to as many bytes as the map was made
    // with: four of the key, eight of a rule and four of a socket.
    let status = unsafe { libc::syscall(libc::SYS_bpf, command, entry, size_of::<Entry>()) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
