//! Mappings of guest memory, and what happens when the file behind one is cut short while it is in use.
//!
//! Touching a page that its file no longer has is a SIGBUS, which would end the daemon and with it every other device.
//! A handler puts zero pages in the place of the whole mapping instead and marks it poisoned; whoever touched it goes
//! on with zeroes, and its worker stops the device's rings at the end of the round.
//!
//! The handler runs on the thread that touched the memory. That thread holds the table and so the mapping, which thus
//! cannot be unmapped, and its place not be used for something else, while the handler works.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

/// Mappings that can be watched at a time: 32 devices with all their memory slots in use. Further ones are refused, for a file
/// of theirs that is cut short would end the daemon.
const MAX_WATCHED: usize = if cfg!(miri) { 16 } else { 16_384 };

/// What a mapping stands on; the memory that Miri gives instead does not of itself.
const MIRI_ALIGN: usize = 4096;

/// get_mempolicy(2): the node of the page at an address (`MPOL_F_NODE | MPOL_F_ADDR`).
const MPOL_NODE_OF: libc::c_ulong = 1 | 2;

/// A mapping under watch; `len` is 0 in a free slot.
struct Watched {
    start: AtomicUsize,
    len: AtomicUsize,
    poisoned: AtomicBool,
}

static WATCHED: [Watched; MAX_WATCHED] =
    [const { Watched { start: AtomicUsize::new(0), len: AtomicUsize::new(0), poisoned: AtomicBool::new(false) } };
        MAX_WATCHED];

/// Whether any mapping was ever poisoned: what a round looks at.
static ANY_POISONED: AtomicBool = AtomicBool::new(false);

/// A mapped region, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    slot: Option<usize>,
    region: MmapRegion<()>,
}

impl Mapping {
    /// Maps the `len` bytes at `offset` of `file`.
    pub(crate) fn of_file(file: File, offset: u64, len: usize) -> Result<Self, MmapRegionError> {
        let region = if cfg!(miri) {
            // Miri maps no files. Memory of its own does for what it checks: the accesses made here.
            MmapRegion::new(len + MIRI_ALIGN)
        } else {
            MmapRegion::from_file(FileOffset::new(file, offset), len)
        };
        let mapping = Self::new(region?);
        match mapping.slot {
            Some(_) => Ok(mapping),
            None => {
                let full = format!("{MAX_WATCHED} regions are in use already, by all devices together");
                Err(MmapRegionError::Mmap(io::Error::other(full)))
            }
        }
    }

    /// Maps `len` bytes of zeroes that no file is behind.
    pub(crate) fn anonymous(len: usize) -> Result<Self, MmapRegionError> {
        MmapRegion::new(if cfg!(miri) { len + MIRI_ALIGN } else { len }).map(Self::new)
    }

    fn new(region: MmapRegion<()>) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install_handler);
        let slot = WATCHED.iter().position(|watched| {
            // The length is set last, so that the handler sees whole entries only; a claimed slot is not empty.
            watched.len.compare_exchange(0, usize::MAX, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        if let Some(slot) = slot {
            WATCHED[slot].poisoned.store(false, Ordering::Relaxed);
            WATCHED[slot].start.store(region.as_ptr().addr(), Ordering::Relaxed);
            WATCHED[slot].len.store(region.size(), Ordering::Release);
        }
        Self { slot, region }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        let ptr = self.region.as_ptr();
        if cfg!(miri) { ptr.map_addr(|address| address.next_multiple_of(MIRI_ALIGN)) } else { ptr }
    }

    /// The NUMA node of the page at `offset` (get_mempolicy(2)): it is paged in if it was not. None: the kernel does not tell.
    pub(super) fn node_at(&self, offset: usize) -> Option<usize> {
        let (mut node, at) = (0 as libc::c_int, self.as_ptr().wrapping_add(offset));
        // SAFETY: the kernel writes one int, which is ours; it looks at the page itself, and refuses an address without one.
        let status = unsafe {
            libc::syscall(libc::SYS_get_mempolicy, &raw mut node, std::ptr::null_mut::<u8>(), 0, at, MPOL_NODE_OF)
        };
        if status < 0 { None } else { usize::try_from(node).ok() }
    }

    /// Whether its file was found cut short.
    pub(super) fn is_poisoned(&self) -> bool {
        self.slot.is_some_and(|slot| WATCHED[slot].poisoned.load(Ordering::Relaxed))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            WATCHED[slot].start.store(0, Ordering::Relaxed);
            WATCHED[slot].len.store(0, Ordering::Release);
        }
    }
}

/// Whether any mapping was ever found cut short; if not, none needs to be asked.
#[inline]
pub(super) fn any_poisoned() -> bool {
    ANY_POISONED.load(Ordering::Relaxed)
}

fn install_handler() {
    if cfg!(miri) {
        return;
    }
    // SAFETY: all-zero is a valid sigaction: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is complete, and its handler makes only calls that are allowed in one.
    let status = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if status != 0 {
        tracing::warn!("guest memory that is cut short will end the daemon: {}", std::io::Error::last_os_error());
    }
}

/// Runs in a signal handler: atomics, mmap, sigaction and nothing else (signal-safety(7); mmap is a plain system call).
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo that lives until the handler returns.
    let info = unsafe { &*info };
    // SAFETY: a SIGBUS has an address.
    let address = unsafe { info.si_addr() }.addr();
    let hit = WATCHED.iter().find(|watched| {
        let len = watched.len.load(Ordering::Acquire);
        len != usize::MAX && address.wrapping_sub(watched.start.load(Ordering::Relaxed)) < len
    });
    if let Some(watched) = hit
        && replace(watched.start.load(Ordering::Relaxed), watched.len.load(Ordering::Relaxed))
    {
        watched.poisoned.store(true, Ordering::Relaxed);
        ANY_POISONED.store(true, Ordering::Relaxed);
        return;
    }
    // Not ours: the access is made again and ends the process, as it should.
    // SAFETY: as in `install_handler`; this one restores the default action.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the action is complete.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// Puts zero pages in the place of a mapping.
fn replace(start: usize, len: usize) -> bool {
    // SAFETY: it takes nothing.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it points to this thread's own errno, which lives as long as the thread.
    let errno = unsafe { &mut *errno };
    let before = *errno;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let place = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range is a mapping of ours that the interrupted thread keeps alive; what was read from it before is
    // owned by others by now, and what is read from now on is zeroes, which guest memory may hold at any time.
    let mapped = unsafe { libc::mmap(place, len, prot, flags, -1, 0) };
    // The interrupted code does not expect it to change.
    *errno = before;
    mapped == place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::memfd;

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no signals and maps no files")]
    fn memory_that_is_cut_short_reads_as_zeroes_and_is_marked() {
        let file = memfd(0x4000).unwrap();
        let map = || Mapping::of_file(file.try_clone().unwrap(), 0, 0x4000).unwrap();
        let (cut, other) = (map(), Mapping::new(MmapRegion::new(0x1000).unwrap()));
        let last_page = cut.as_ptr().wrapping_add(0x3000);
        // SAFETY: the mapping is 0x4000 bytes long.
        unsafe { last_page.write_volatile(7) };
        assert!(!cut.is_poisoned());
        file.set_len(0x1000).unwrap();
        // SAFETY: the mapping is 0x4000 bytes long; the handler answers for the missing page.
        assert_eq!(unsafe { last_page.read_volatile() }, 0);
        assert!(cut.is_poisoned() && !other.is_poisoned() && any_poisoned());
        assert!(cut.slot.is_some());
        drop(cut);
        let all: Vec<_> = std::iter::from_fn(|| Mapping::of_file(file.try_clone().unwrap(), 0, 0x1000).ok()).collect();
        assert!(all.len() <= MAX_WATCHED && all.iter().all(|mapping| mapping.slot.is_some()), "nobody is unwatched");
        drop(all);
        for _ in 0..2 * MAX_WATCHED {
            let again = map();
            assert!(again.slot.is_some(), "slots are given back");
            assert!(!again.is_poisoned(), "a slot that is used again starts clean");
        }
    }
}
