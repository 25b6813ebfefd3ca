//! A guest's network device and what is behind it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::assets::Qemu;
use crate::guest::qemu::Accel;

/// What carries the packets.
#[derive(Clone, Debug)]
enum Backend {
    VhostUser { socket: PathBuf, server: bool, reconnect: Option<Duration> },
    Tap { ifname: String, vhost: bool },
}

/// A virtio-net device. Guests see their devices as eth0, eth1 and so on in the order in which they were given.
#[derive(Clone, Debug)]
pub struct Nic {
    backend: Backend,
    properties: String,
    queue_pairs: u16,
    mac: String,
}

impl Nic {
    /// Served by a vhost-user backend that listens at `socket`.
    pub fn vhost_user(socket: impl AsRef<Path>) -> Self {
        Self::new(Backend::VhostUser { socket: socket.as_ref().into(), server: false, reconnect: None })
    }

    /// Served by a vhost-user backend that connects to QEMU at `socket`. QEMU waits for it before the guest boots.
    pub fn vhost_user_server(socket: impl AsRef<Path>) -> Self {
        Self::new(Backend::VhostUser { socket: socket.as_ref().into(), server: true, reconnect: None })
    }

    /// QEMU's own TAP, for comparison; it is opened in the guest's namespace ([`GuestBuilder::ns`]).
    ///
    /// [`GuestBuilder::ns`]: crate::GuestBuilder::ns
    pub fn tap(ifname: impl Into<String>) -> Self {
        Self::new(Backend::Tap { ifname: ifname.into(), vhost: false })
    }

    /// Lets the kernel serve the rings of QEMU's own TAP (`vhost=on`), which needs `/dev/vhost-net`.
    pub fn kernel_vhost(mut self) -> Self {
        if let Backend::Tap { vhost, .. } = &mut self.backend {
            *vhost = true;
        }
        self
    }

    fn new(backend: Backend) -> Self {
        static LAST: AtomicU16 = AtomicU16::new(0);
        let [high, low] = (LAST.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes();
        let mac = format!("52:54:00:77:{high:02x}:{low:02x}");
        Self { backend, properties: String::new(), queue_pairs: 1, mac }
    }

    /// Makes QEMU, as a client, connect again this long after the backend was lost; whole seconds with QEMU 7.
    pub fn reconnect(mut self, every: Duration) -> Self {
        if let Backend::VhostUser { reconnect, .. } = &mut self.backend {
            *reconnect = Some(every);
        }
        self
    }

    /// Properties of QEMU's virtio-net-pci: `"mrg_rxbuf=off,event_idx=off,rx_queue_size=1024"`.
    pub fn properties(mut self, properties: impl Into<String>) -> Self {
        self.properties = properties.into();
        self
    }

    /// Adds to the properties.
    pub(crate) fn more_properties(mut self, properties: &str) -> Self {
        if !self.properties.is_empty() {
            self.properties.push(',');
        }
        self.properties += properties;
        self
    }

    /// Number of queue pairs. Linux uses as many of them as it has CPUs; `ethtool -L eth0 combined N` changes that.
    pub fn queue_pairs(mut self, pairs: u16) -> Self {
        self.queue_pairs = pairs;
        self
    }

    /// MAC address; without it every device of a test program has one of its own.
    pub fn mac(mut self, mac: impl Into<String>) -> Self {
        self.mac = mac.into();
        self
    }

    /// The arguments for QEMU; `index` makes the ids.
    pub(crate) fn args(&self, index: usize, qemu: Qemu, accel: Accel) -> Vec<String> {
        let Self { backend, properties, queue_pairs, mac } = self;
        let mut args = Vec::new();
        match backend {
            Backend::VhostUser { socket, server, reconnect } => {
                let mut chardev = format!("socket,id=vu{index},path={}", socket.display());
                if *server {
                    chardev += ",server=on";
                }
                if let Some(every) = reconnect {
                    chardev += &match qemu {
                        Qemu::V7 => format!(",reconnect={}", every.as_secs().max(1)),
                        Qemu::V10 => format!(",reconnect-ms={}", every.as_millis().max(1)),
                    };
                }
                args.extend(["-chardev".into(), chardev, "-netdev".into()]);
                args.push(format!("vhost-user,id=n{index},chardev=vu{index},queues={queue_pairs}"));
            }
            Backend::Tap { ifname, vhost } => {
                let vhost = if *vhost { "on" } else { "off" };
                let netdev = format!("tap,id=n{index},ifname={ifname},script=no,downscript=no,vhost={vhost}");
                let queues = if *queue_pairs > 1 { format!(",queues={queue_pairs}") } else { String::new() };
                args.extend(["-netdev".into(), netdev + &queues]);
            }
        }
        let mut device = format!("virtio-net-pci,netdev=n{index},mac={mac}");
        let says = |name: &str| properties.split(',').any(|property| property.starts_with(name));
        if !says("romfile=") {
            // No boot ROM: nothing boots from the network, and its scan costs time.
            device += ",romfile=";
        }
        let vectors = says("vectors=");
        if self.crashes_with_msix(qemu, accel) && !vectors {
            device += ",vectors=0";
        } else if *queue_pairs > 1 && !vectors {
            device += &format!(",vectors={}", 2 * queue_pairs + 2);
        }
        if *queue_pairs > 1 {
            device += ",mq=on";
        }
        if !properties.is_empty() {
            device += &format!(",{properties}");
        }
        args.extend(["-device".into(), device]);
        args
    }

    /// QEMU 7.2 under TCG dies in msix_set_vector_notifiers as soon as a guest uses MSI-X with any vhost-user backend.
    fn crashes_with_msix(&self, qemu: Qemu, accel: Accel) -> bool {
        matches!(self.backend, Backend::VhostUser { .. }) && qemu == Qemu::V7 && accel == Accel::Tcg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(nic: Nic, qemu: Qemu, accel: Accel) -> String {
        nic.args(0, qemu, accel).pop().unwrap()
    }

    #[test]
    fn msix_is_off_only_where_qemu_would_crash() {
        let nic = || Nic::vhost_user("/s");
        assert!(device(nic(), Qemu::V7, Accel::Tcg).contains("vectors=0"));
        assert!(!device(nic(), Qemu::V7, Accel::Kvm).contains("vectors"));
        assert!(!device(nic(), Qemu::V10, Accel::Tcg).contains("vectors"));
        assert!(!device(Nic::tap("tap0"), Qemu::V7, Accel::Tcg).contains("vectors"));
        assert!(!device(nic().properties("vectors=3"), Qemu::V7, Accel::Tcg).contains("vectors=0"));
    }

    #[test]
    fn several_pairs_need_a_vector_for_each_ring() {
        let args = Nic::vhost_user("/s").queue_pairs(2).args(0, Qemu::V10, Accel::Tcg);
        assert!(args.iter().any(|arg| arg.ends_with("queues=2")));
        assert!(args.iter().any(|arg| arg.contains("vectors=6,mq=on")));
    }
}
