//! Whether frames come to a TAP queue, and how unfinished they may be.
//!
//! The kernel changes that under a lock that every change of any interface of the host takes (`rtnl_lock`), and waits until
//! nobody looks at the queue any more: seconds on a busy host. So it is done by who may wait, and never by a worker.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::Queue;
use crate::offload::{HEADER_LEN, Offloads};

/// Frames that a TAP queues at most, unless somebody made its queue longer (1000 by default).
const MAX_QUEUED: usize = 16_384;

/// Lets frames come to a queue. At first none do, unless its TAP has a single queue: that cannot be kept from it.
#[derive(Debug)]
pub struct TapSwitch {
    queue: Arc<Queue>,
    multi_queue: bool,
    uso: bool,
    /// What whoever reads takes, while frames come.
    takes: Option<Offloads>,
}

impl TapSwitch {
    /// The switch of a queue that is attached. The kernel cuts up UDP if `uso` says so.
    pub(super) fn new(queue: Arc<Queue>, multi_queue: bool, uso: bool) -> io::Result<Self> {
        if multi_queue {
            attach(queue.as_raw_fd(), false)?;
        }
        Ok(Self { queue, multi_queue, uso, takes: None })
    }

    /// Lets frames come, with the unfinished work that `takes` allows, or keeps them away. Nothing is left of what came
    /// before a change.
    ///
    /// # Errors
    /// When the kernel refuses: the TAP is gone.
    pub fn set(&mut self, takes: Option<Offloads>) -> io::Result<()> {
        if takes == self.takes {
            return Ok(());
        }
        if self.takes.take().is_some() && self.multi_queue {
            attach(self.queue.as_raw_fd(), false)?;
        }
        let Some(new) = takes else { return Ok(()) };
        self.drain();
        if self.multi_queue {
            attach(self.queue.as_raw_fd(), true)?;
        }
        self.takes = takes;
        self.set_offload(if new.csum && new.tso4 && new.tso6 { new } else { Offloads::ALL })
    }

    /// Throws away what was queued while nobody read: it was for another guest. The kernel does that itself to a TAP's queue
    /// that it detaches, but not to a macvtap's. Of a frame that is longer than what it is read into, the rest is lost with it.
    fn drain(&self) {
        for _ in 0..MAX_QUEUED {
            if rustix::io::read(&self.queue.fd, &mut [0u8; HEADER_LEN]).is_err() {
                break;
            }
        }
    }

    /// Tells the kernel which unfinished frames to give. USO for one IP version is offered by the kernel only
    /// together with the other.
    fn set_offload(&self, gives: Offloads) -> io::Result<()> {
        let mut flags = 0;
        if gives.csum {
            flags |= libc::TUN_F_CSUM;
            let uso = self.uso && gives.uso4 && gives.uso6;
            for (wanted, flag) in [
                (gives.tso4, libc::TUN_F_TSO4),
                (gives.tso6, libc::TUN_F_TSO6),
                (gives.ecn && (gives.tso4 || gives.tso6), libc::TUN_F_TSO_ECN),
                (uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
            ] {
                flags |= if wanted { flag } else { 0 };
            }
        }
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let status = unsafe { libc::ioctl(self.queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Attaches or detaches a queue of a multi-queue TAP.
fn attach(queue: RawFd, on: bool) -> io::Result<()> {
    let flags = if on { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    };
    // SAFETY: TUNSETQUEUE reads the ifreq, which is initialised and ours.
    let status = unsafe { libc::ioctl(queue, libc::TUNSETQUEUE, &raw const request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
