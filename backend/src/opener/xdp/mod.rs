//! Opens queues of an interface for AF_XDP (Linux, Documentation/networking/af_xdp.rst): the XDP program that sends
//! frames to sockets, and the sockets. Their memory and rings are not set up here: that takes no rights.

mod attached;
mod bpf;
mod netlink;
mod packet;
mod program;
mod routes;

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::adopt;
use super::interface::{IfName, Interfaces};

pub use attached::XdpProgram;

/// How frames come to sockets and leave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the best way that driver and kernel know.
    #[default]
    Auto,
    /// The driver reads and writes packet memory itself.
    ZeroCopy,
    /// The program runs in the driver, and the kernel copies.
    Copy,
    /// The program runs in the kernel's stack, which every interface has.
    Skb,
}

/// Which queues to open.
#[derive(Clone, Debug)]
pub struct XdpRequest {
    /// Name of the interface.
    pub interface: String,
    /// Its first queue.
    pub queue: u32,
    /// How many queues, at most.
    pub queues: u32,
    /// In which way.
    pub mode: XdpMode,
    /// The guest's address, if the guest is to get no other frames.
    pub mac: Option<[u8; 6]>,
    /// Whether to take all frames even of the interface that the default route goes over.
    pub force: bool,
    /// Sockets that somebody else opened and sends frames to.
    pub sockets: Vec<RawFd>,
}

/// Open queues.
#[derive(Debug)]
pub struct OpenedXdp {
    /// Index of the interface.
    pub interface: u32,
    /// Largest packet, in bytes of IP.
    pub mtu: u32,
    /// One socket a queue, from the first on. Nothing is set up yet.
    pub sockets: Vec<OwnedFd>,
    /// Whether the sockets may poll their queues (`SO_PREFER_BUSY_POLL`).
    pub busy_poll: bool,
    /// The program that sends frames to them, unless somebody else has one.
    pub program: Option<XdpProgram>,
    /// A packet socket that has the interface take frames in for the guest; frames to groups come over it if the guest
    /// shares the interface with the host.
    pub packets: Option<OwnedFd>,
}

/// Why queues could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// A name that no interface can have.
    #[error("'{0}' is no interface name: 1 to 15 letters without blanks, slashes and colons")]
    Name(String),
    /// There is none of that name.
    #[error("interface '{0}' does not exist: see 'ip link' for those that do")]
    NoInterface(String),
    /// It has fewer queues.
    #[error("interface '{interface}' has no queue {queue}: its queues are 0 to {last}, see 'ethtool -l {interface}'")]
    NoQueue {
        /// The interface.
        interface: String,
        /// What was asked for.
        queue: u32,
        /// Its last queue.
        last: u32,
    },
    /// The host itself needs it.
    #[error(
        "the default route goes over '{0}': with steer=all the host would hear nothing more on that queue; \
         use steer=mac, another interface, or force"
    )]
    DefaultRoute(String),
    /// No right to open sockets.
    #[error(
        "no right to open an AF_XDP socket for '{0}': start vnicd with CAP_NET_RAW, or pass open sockets with fds=N"
    )]
    SocketRights(String),
    /// No right to load a program.
    #[error(
        "no right to put an XDP program at '{0}': start vnicd with CAP_NET_ADMIN and CAP_BPF, or pass open sockets with \
         fds=N"
    )]
    ProgramRights(String),
    /// No right to use the program that is there.
    #[error("'{0}' has an XDP program already, and no right to share it: start vnicd with CAP_SYS_ADMIN")]
    SharingRights(String),
    /// A program that is not ours is there.
    #[error(
        "'{0}' has another XDP program, and there can be one: take it off with 'ip link set {0} xdp off' or end the \
         program that it belongs to"
    )]
    OtherProgram(String),
    /// Our program is there, in another way than asked for.
    #[error("the XDP program that others use at '{0}' runs in another mode: use mode=auto")]
    OtherMode(String),
    /// The interface cannot be brought up.
    #[error("no right to bring up '{0}': do 'ip link set {0} up' first, or start vnicd with CAP_NET_ADMIN")]
    UpRights(String),
    /// A file descriptor that was passed is no socket that can be used.
    #[error("file descriptor {0} is no AF_XDP socket")]
    NotXdp(RawFd),
    /// Anything else the kernel refused.
    #[error("cannot {what} '{interface}'")]
    Kernel {
        /// The interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Opens queues of an interface, and brings it up.
///
/// # Errors
/// When a name or number is wrong, rights are missing, or the interface belongs to somebody else.
pub fn open_xdp(request: &XdpRequest) -> Result<OpenedXdp, XdpError> {
    open_xdp_with(request, adopt::take)
}

/// The same, with sockets that somebody else opened as `take` gives them.
pub(in crate::opener) fn open_xdp_with(
    request: &XdpRequest,
    mut take: impl FnMut(RawFd) -> Option<OwnedFd>,
) -> Result<OpenedXdp, XdpError> {
    let name = || request.interface.clone();
    let kernel = |what| move |source| XdpError::Kernel { interface: name(), what, source };
    let interface = IfName::new(&request.interface).ok_or_else(|| XdpError::Name(name()))?;
    let interfaces = Interfaces::open().map_err(kernel("look for"))?;
    let index = interfaces.index(&interface).map_err(kernel("look for"))?;
    let index = index.and_then(|index| u32::try_from(index).ok()).ok_or_else(|| XdpError::NoInterface(name()))?;
    let mtu = interfaces.mtu(&interface).map_err(kernel("read the MTU of"))?;
    let queues = interfaces.queues(&interface).map_err(kernel("count the queues of"))?;
    if request.queue >= queues {
        return Err(XdpError::NoQueue { interface: name(), queue: request.queue, last: queues.saturating_sub(1) });
    }
    if !request.sockets.is_empty() {
        let sockets = request.sockets.iter().map(|fd| adopted(*fd, take(*fd))).collect::<Result<Vec<_>, _>>()?;
        let busy_poll = sockets.iter().all(|socket| packet::prefer_busy_poll(socket).is_ok());
        return Ok(OpenedXdp { interface: index, mtu, sockets, busy_poll, program: None, packets: None });
    }
    if request.mac.is_none() && !request.force && routes::has_default_route(&request.interface) {
        return Err(XdpError::DefaultRoute(name()));
    }
    let raw = |source: io::Error| match source.raw_os_error() {
        Some(libc::EPERM) => XdpError::SocketRights(name()),
        _ => XdpError::Kernel { interface: name(), what: "open an AF_XDP socket for", source },
    };
    let count = request.queues.min(queues - request.queue);
    let sockets = (0..count).map(|_| socket()).collect::<Result<Vec<_>, _>>().map_err(raw)?;
    let generic = match request.mode {
        XdpMode::Auto => None,
        XdpMode::ZeroCopy | XdpMode::Copy => Some(false),
        XdpMode::Skb => Some(true),
    };
    let program = attached::attach(&request.interface, index, generic)?;
    let packets = match request.mac {
        Some(mac) => packet::open_for_groups(index, mac),
        None => packet::open_for_all(index),
    };
    let packets = packets.map_err(raw)?;
    interfaces.set_up(&interface).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => XdpError::UpRights(name()),
        _ => kernel("bring up")(source),
    })?;
    let busy_poll = sockets.iter().all(|socket| packet::prefer_busy_poll(socket).is_ok());
    Ok(OpenedXdp { interface: index, mtu, sockets, busy_poll, program: Some(program), packets: Some(packets) })
}

fn socket() -> io::Result<OwnedFd> {
    let xdp = AddressFamily::from_raw(libc::AF_XDP as u16);
    Ok(rustix::net::socket_with(xdp, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

/// Takes over a socket.
fn adopted(fd: RawFd, socket: Option<OwnedFd>) -> Result<OwnedFd, XdpError> {
    let socket = socket.ok_or(XdpError::NotXdp(fd))?;
    let domain = sockopt::socket_domain(&socket).map_err(|_| XdpError::NotXdp(fd))?;
    if domain.as_raw() == libc::AF_XDP as u16 { Ok(socket) } else { Err(XdpError::NotXdp(fd)) }
}
