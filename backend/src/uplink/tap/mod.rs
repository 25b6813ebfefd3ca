//! A TAP or macvtap queue (Linux, Documentation/networking/tuntap.rst) as two halves: frames straight from and to guest
//! memory, and in between the work that one side does not do.

#![allow(unsafe_code)]

mod rx;
mod tx;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::join::Joiner;
use super::{Rx, Tx};
use crate::offload::Offloads;

pub use rx::TapRx;
pub use tx::TapTx;

/// Most pieces that the kernel takes in one call (IOV_MAX).
const MAX_IOVECS: usize = 1024;

/// What is known of a TAP.
#[derive(Clone, Copy, Debug)]
pub struct TapTerms {
    /// Its queues can be detached.
    pub multi_queue: bool,
    /// The kernel cuts up UDP.
    pub uso: bool,
    /// Packets of one flow are to be joined on their way to it.
    pub coalesce: bool,
}

/// Makes the halves of each queue of an open TAP. The queues are detached until they are wanted.
///
/// # Errors
/// When the kernel refuses to detach a queue of a multi-queue TAP.
pub fn tap_pairs(queues: Vec<OwnedFd>, terms: TapTerms) -> io::Result<Vec<(Tx, Rx)>> {
    let TapTerms { multi_queue, uso, coalesce } = terms;
    let pair = |fd: OwnedFd| {
        if multi_queue {
            set_queue(fd.as_raw_fd(), false)?;
        }
        let queue = Arc::new(Queue { fd, multi_queue, users: Mutex::new(0), takes: AtomicU8::new(0) });
        let takes = Offloads { uso4: uso, uso6: uso, ..Offloads::ALL };
        let tx = TapTx::new(queue.clone(), coalesce.then(|| Box::new(Joiner::new(takes))));
        Ok((Tx::Tap(tx), Rx::Tap(Box::new(TapRx::new(queue, uso)))))
    };
    queues.into_iter().map(pair).collect()
}

/// A TAP queue, and how many are using it now.
#[derive(Debug)]
struct Queue {
    fd: OwnedFd,
    /// Queues of a single-queue TAP cannot be detached.
    multi_queue: bool,
    users: Mutex<u32>,
    /// What the guest takes, for all who use the queue.
    takes: AtomicU8,
}

impl Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn takes(&self) -> Offloads {
        Offloads::from_bits(self.takes.load(Ordering::Relaxed))
    }

    fn set_takes(&self, takes: Offloads) {
        self.takes.store(takes.to_bits(), Ordering::Relaxed);
    }

    /// One more or one less uses the queue. Says whether it is the first.
    fn count_user(&self, comes: bool) -> io::Result<bool> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = if comes { *users == 0 } else { *users == 1 };
        if changes && self.multi_queue {
            set_queue(self.as_raw_fd(), comes)?;
        }
        *users = if comes { *users + 1 } else { users.saturating_sub(1) };
        Ok(changes && comes)
    }

    /// Tells the kernel which unfinished frames to give. USO for one IP version is offered by the kernel only
    /// together with the other.
    fn set_offload(&self, gives: Offloads, kernel_uso: bool) -> io::Result<()> {
        let mut flags = 0;
        if gives.csum {
            flags |= libc::TUN_F_CSUM;
            let uso = kernel_uso && gives.uso4 && gives.uso6;
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
        let status = unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Attaches or detaches a queue of a multi-queue TAP.
fn set_queue(queue: RawFd, attach: bool) -> io::Result<()> {
    let flags = if attach { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    };
    // SAFETY: TUNSETQUEUE reads the ifreq, which is initialised and ours.
    let status = unsafe { libc::ioctl(queue, libc::TUNSETQUEUE, &raw const request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn iovec_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
