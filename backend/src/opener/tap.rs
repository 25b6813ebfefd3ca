//! Opens the queues of a TAP: a new one, or one that an operator made.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::interface::{IfName, Interfaces};
use super::tun;

const TUN_PATH: &str = "/dev/net/tun";
const HEADER_LEN: libc::c_int = 12;

/// Which TAP to open.
#[derive(Clone, Debug)]
pub struct TapRequest {
    /// Interface name; with `%d` in it the kernel picks a free number.
    pub name: String,
    /// Bridge that the TAP becomes a port of.
    pub bridge: Option<String>,
    /// Queues to open.
    pub queues: u16,
    /// What the TAP keeps for a slow receiver, in bytes; without it there is no bound and no back-pressure.
    pub sndbuf: Option<u32>,
    /// Whether the TAP stays when the daemon ends.
    pub persist: bool,
    /// Largest packet, in bytes of IP.
    pub mtu: Option<u16>,
}

/// An open TAP. Every queue is attached.
#[derive(Debug)]
pub struct OpenedTap {
    /// The name that the interface has.
    pub name: String,
    /// One descriptor a queue, non-blocking.
    pub queues: Vec<OwnedFd>,
    /// Whether the interface takes more than one queue, so that queues can be detached.
    pub multi_queue: bool,
    /// Whether the interface was there before.
    pub existed: bool,
    /// Whether the kernel can hand over and take UDP frames to be segmented (`TUN_F_USO4`, Linux 6.2).
    pub uso: bool,
    /// The address of the interface at the guest's side, where that is one and the same (macvtap).
    pub guest_mac: Option<[u8; 6]>,
}

/// Why a TAP could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenTapError {
    /// A name that no interface can have.
    #[error("'{0}' is no interface name: 1 to 15 letters without blanks, slashes and colons")]
    Name(String),
    /// The TUN driver is not there.
    #[error("cannot open {TUN_PATH} (is the kernel module 'tun' loaded?)")]
    Driver(#[source] io::Error),
    /// No right to make or use the TAP.
    #[error(
        "no right to open TAP '{0}': start vnicd with CAP_NET_ADMIN, or make the TAP for its user with \
         'ip tuntap add dev {0} mode tap multi_queue vnet_hdr user USER' and 'ip link set {0} up'"
    )]
    Rights(String),
    /// The interface is there but is no TAP.
    #[error("interface '{0}' is not a TAP: name another one, or delete it with 'ip link delete {0}'")]
    NotTap(String),
    /// Another program has the TAP open.
    #[error("TAP '{0}' is in use by another program: name another TAP, or end that program")]
    Busy(String),
    /// The macvtap interface is not there.
    #[error("interface '{0}' does not exist: make it with 'ip link add link ETH name {0} type macvtap mode bridge'")]
    NoMacvtap(String),
    /// The interface is there but is no macvtap.
    #[error("interface '{0}' is not a macvtap, or its device node is missing: see 'ip -d link show {0}'")]
    NotMacvtap(String),
    /// The device node of a macvtap belongs to somebody else.
    #[error("no right to open '{node}', the device node of macvtap '{name}': give it to vnicd's user with chown")]
    MacvtapRights {
        /// The interface.
        name: String,
        /// Its device node.
        node: String,
    },
    /// A file descriptor that was passed as a TAP is none that can be used.
    #[error("file descriptor {fd} is no TAP queue opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    NotTapFd {
        /// The descriptor.
        fd: RawFd,
    },
    /// The bridge is not there.
    #[error("bridge '{0}' does not exist: make it with 'ip link add {0} type bridge'")]
    NoBridge(String),
    /// It is there and is something else.
    #[error("interface '{0}' is not a bridge: name another one, or make a bridge with 'ip link add NAME type bridge'")]
    NotBridge(String),
    /// The TAP hangs on something else.
    #[error(
        "TAP '{name}' belongs to another bridge or bond than '{bridge}': take it off with 'ip link set {name} nomaster'"
    )]
    OtherBridge {
        /// The TAP.
        name: String,
        /// The bridge that was asked for.
        bridge: String,
    },
    /// Anything else the kernel refused about the bridge.
    #[error("cannot put TAP '{name}' on bridge '{bridge}'")]
    Bridge {
        /// The TAP.
        name: String,
        /// The bridge.
        bridge: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Anything else the kernel refused.
    #[error("cannot {what} TAP '{name}'")]
    Kernel {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Opens a TAP with its queues, brings it up and puts it on its bridge.
///
/// # Errors
/// When a name is wrong, rights are missing, or the interface is no TAP or is busy.
pub fn open_tap(request: &TapRequest) -> Result<OpenedTap, OpenTapError> {
    let name = IfName::new(&request.name).ok_or_else(|| OpenTapError::Name(request.name.clone()))?;
    let kernel = |what| {
        let name = request.name.clone();
        move |source| OpenTapError::Kernel { name, what, source }
    };
    let interfaces = Interfaces::open().map_err(kernel("look for"))?;
    let existed = interfaces.index(&name).map_err(kernel("look for"))?.is_some();
    let bridge = match &request.bridge {
        Some(bridge) => {
            let bridge_name = IfName::new(bridge).ok_or_else(|| OpenTapError::Name(bridge.clone()))?;
            let index = interfaces.index(&bridge_name).map_err(kernel("look for the bridge of"))?;
            Some(index.map(|_| bridge_name).ok_or_else(|| OpenTapError::NoBridge(bridge.clone()))?)
        }
        None => None,
    };
    if existed {
        refuse_foreign(&interfaces, &name)?;
    }

    let (first, name, multi_queue) = open_first(&name, existed)?;
    let mut queues = vec![first];
    if multi_queue {
        for _ in 1..request.queues {
            let queue = open_tun()?;
            tun::set_iff(&queue, &name, FLAGS | libc::IFF_MULTI_QUEUE).map_err(kernel("open another queue of"))?;
            queues.push(queue);
        }
    }
    let uso = prepare(&queues, request.sndbuf).map_err(|(what, source)| kernel(what)(source))?;
    if request.persist {
        tun::set_persistent(&queues[0]).map_err(kernel("make persistent"))?;
    }
    if let Some(mtu) = request.mtu {
        interfaces.set_mtu(&name, mtu).map_err(kernel("set the MTU of"))?;
    }
    if let Some(bridge) = bridge
        && let Some(index) = interfaces.index(&name).map_err(kernel("look for"))?
    {
        interfaces.add_to_bridge(&bridge, index).map_err(|source| {
            let (name, bridge) = (name.as_str().to_owned(), bridge.as_str().to_owned());
            match source.raw_os_error() {
                Some(libc::EBUSY) => OpenTapError::OtherBridge { name, bridge },
                Some(libc::EOPNOTSUPP) => OpenTapError::NotBridge(bridge),
                _ => OpenTapError::Bridge { name, bridge, source },
            }
        })?;
    }
    interfaces.set_up(&name).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => OpenTapError::Rights(name.as_str().to_owned()),
        _ => kernel("bring up")(source),
    })?;
    Ok(OpenedTap { name: name.as_str().to_owned(), queues, multi_queue, existed, uso, guest_mac: None })
}

/// Takes over the open queues of a TAP, each as `take` gives it.
///
/// # Errors
/// When one of them is no TAP queue, or lacks the virtio-net header.
pub(super) fn adopt_tap(
    fds: &[RawFd],
    mut take: impl FnMut(RawFd) -> Option<OwnedFd>,
) -> Result<OpenedTap, OpenTapError> {
    let mut queues = Vec::new();
    let (mut name, mut multi_queue) = (String::new(), false);
    for fd in fds {
        let unusable = || OpenTapError::NotTapFd { fd: *fd };
        let queue = take(*fd).ok_or_else(unusable)?;
        let (interface, flags) = tun::get_iff(&queue).map_err(|_| unusable())?;
        if flags & FLAGS != FLAGS {
            return Err(unusable());
        }
        multi_queue = flags & libc::IFF_MULTI_QUEUE != 0;
        name = interface;
        queues.push(queue);
    }
    let kernel = |(what, source)| OpenTapError::Kernel { name: name.clone(), what, source };
    for queue in &queues {
        let flags = fcntl_getfl(queue).and_then(|flags| fcntl_setfl(queue, flags | OFlags::NONBLOCK));
        flags.map_err(|e| kernel(("prepare", e.into())))?;
    }
    let uso = prepare(&queues, None).map_err(kernel)?;
    Ok(OpenedTap { name, queues, multi_queue, existed: true, uso, guest_mac: None })
}

/// Sets the MTU of the interface `name`.
///
/// # Errors
/// When the interface is not there or rights are missing.
pub(super) fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    let name = IfName::new(name).ok_or(io::ErrorKind::InvalidInput)?;
    Interfaces::open()?.set_mtu(&name, mtu)
}

/// Gives all queues the header that the rings have, and no offload yet. Says whether the kernel knows USO; an error
/// says what failed.
pub(super) fn prepare(queues: &[OwnedFd], sndbuf: Option<u32>) -> Result<bool, (&'static str, io::Error)> {
    let all = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let mut uso = true;
    for queue in queues {
        tun::set_vnet_header_len(queue, HEADER_LEN).map_err(|e| ("set the header length of", e))?;
        if let Some(bytes) = sndbuf {
            let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            tun::set_send_buffer(queue, bytes).map_err(|e| ("set the send buffer of", e))?;
        }
        uso &= tun::set_offload(queue, all | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok();
        tun::set_offload(queue, 0).map_err(|e| ("reset the offloads of", e))?;
    }
    Ok(uso)
}

pub(super) const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

fn open_tun() -> Result<OwnedFd, OpenTapError> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN_PATH);
    tun.map(OwnedFd::from).map_err(OpenTapError::Driver)
}

/// Refuses an interface that is no TAP before it is touched, and a TAP that is in use. A multi-queue TAP lets any number
/// of programs open queues of it, which would share its frames: one that has a carrier is in use.
fn refuse_foreign(interfaces: &Interfaces, name: &IfName) -> Result<(), OpenTapError> {
    let kernel = |source| OpenTapError::Kernel { name: name.as_str().to_owned(), what: "look at", source };
    if !interfaces.is_tap(name).map_err(kernel)? {
        return Err(OpenTapError::NotTap(name.as_str().to_owned()));
    }
    // The carrier is only seen while the interface is up. Whoever may not bring it up learns of that later.
    let _ = interfaces.set_up(name);
    match interfaces.has_carrier(name) {
        Ok(true) => Err(OpenTapError::Busy(name.as_str().to_owned())),
        _ => Ok(()),
    }
}

/// The first queue, with the interface's real name and whether it takes more of them.
fn open_first(name: &IfName, existed: bool) -> Result<(OwnedFd, IfName, bool), OpenTapError> {
    let tun = open_tun()?;
    let wanted = name.as_str().to_owned();
    let refuse = |source: io::Error| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenTapError::Rights(wanted.clone()),
        Some(libc::EBUSY) => OpenTapError::Busy(wanted.clone()),
        Some(libc::EINVAL) if existed => OpenTapError::NotTap(wanted.clone()),
        _ => OpenTapError::Kernel { name: wanted.clone(), what: "open", source },
    };
    match tun::set_iff(&tun, name, FLAGS | libc::IFF_MULTI_QUEUE) {
        Ok(name) => Ok((tun, name, true)),
        // EINVAL on an interface that is there: a TAP of one queue, or none at all.
        Err(e) if existed && e.raw_os_error() == Some(libc::EINVAL) => {
            let name = tun::set_iff(&tun, name, FLAGS).map_err(refuse)?;
            Ok((tun, name, false))
        }
        Err(e) => Err(refuse(e)),
    }
}
