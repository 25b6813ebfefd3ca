//! Opens the queues of a macvtap interface: a TAP whose other end is a physical interface.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::interface::{IfName, Interfaces};
use super::tap::{FLAGS, OpenTapError, OpenedTap, prepare};
use super::tun;

/// Opens `queues` queues of the macvtap interface `name`, and brings it up.
///
/// # Errors
/// When the interface is missing or no macvtap, or rights are missing.
pub(super) fn open_macvtap(name: &str, queues: u16) -> Result<OpenedTap, OpenTapError> {
    let name = IfName::new(name).ok_or_else(|| OpenTapError::Name(name.to_owned()))?;
    let wanted = || name.as_str().to_owned();
    let kernel = |what| move |source| OpenTapError::Kernel { name: wanted(), what, source };
    let interfaces = Interfaces::open().map_err(kernel("look for"))?;
    let index = interfaces.index(&name).map_err(kernel("look for"))?;
    let index = index.ok_or_else(|| OpenTapError::NoMacvtap(wanted()))?;
    let node = Node::of(&name, index).ok_or_else(|| OpenTapError::NotMacvtap(wanted()))?;
    let mut opened = Vec::new();
    for _ in 0..queues {
        let queue = node.open().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OpenTapError::NotMacvtap(wanted()),
            io::ErrorKind::PermissionDenied => OpenTapError::MacvtapRights { name: wanted(), node: node.path.clone() },
            _ => kernel("open")(source),
        })?;
        tun::set_iff(&queue, &name, FLAGS | libc::IFF_MULTI_QUEUE).map_err(kernel("set up"))?;
        opened.push(queue);
    }
    let uso = prepare(&opened, None).map_err(|(what, source)| kernel(what)(source))?;
    interfaces.set_up(&name).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => OpenTapError::Rights(wanted()),
        _ => kernel("bring up")(source),
    })?;
    let mac = interfaces.mac(&name).map_err(kernel("read the MAC address of"))?;
    Ok(OpenedTap { name: wanted(), queues: opened, multi_queue: true, existed: true, uso, guest_mac: Some(mac) })
}

/// The device node of a macvtap.
///
/// The kernel names it by the number of the interface, which is unique in a network namespace only, while all of them
/// share one directory of nodes. So what counts is the device number that sysfs tells.
struct Node {
    path: String,
    device: Option<u64>,
}

impl Node {
    /// None if the interface is known to be no macvtap.
    fn of(name: &IfName, index: i32) -> Option<Self> {
        let interface = format!("/sys/class/net/{}", name.as_str());
        let path = format!("/dev/tap{index}");
        let Ok(number) = fs::read_to_string(format!("{interface}/macvtap/tap{index}/dev")) else {
            // Where sysfs shows another namespace's interfaces, the name is all there is.
            return (!Path::new(&interface).exists()).then_some(Self { path, device: None });
        };
        let (major, minor) = number.trim().split_once(':')?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        Some(Self { path, device: Some(device) })
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let open = |path: &str| -> io::Result<OwnedFd> {
            let mut options = OpenOptions::new();
            Ok(options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?.into())
        };
        match (fs::metadata(&self.path), self.device) {
            (Ok(found), Some(device)) if found.rdev() != device => self.open_own(device, open),
            (Err(e), Some(device)) if e.kind() == io::ErrorKind::NotFound => self.open_own(device, open),
            _ => open(&self.path),
        }
    }

    /// Opens the device by a node of our own, which is gone again at once.
    fn open_own(&self, device: u64, open: impl Fn(&str) -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
        let path = format!("{}.vnicd-{}", self.path, std::process::id());
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, device)?;
        let opened = open(&path);
        fs::remove_file(&path)?;
        opened
    }
}
