//! The system calls that each role makes. One that is missing here is refused with `EPERM`, and the kernel's audit log says
//! which it was (`type=1326 … syscall=N`).
//!
//! What is called for every burst stands here without conditions: the kernel then knows its verdict without running the
//! filter (Linux 5.11).

#![forbid(unsafe_code)]

use libc::*;

/// A system call, and for which arguments it is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// For all.
    Any(c_long),
    /// If the argument with this index is one of these values.
    OneOf(c_long, u8, &'static [u64]),
    /// If the argument with this index has none of these bits.
    Without(c_long, u8, u64),
    /// If the argument with this index has all of these bits.
    With(c_long, u8, u64),
}

use Call::{Any, OneOf, With, Without};

/// bpf(2): an entry of a map is set, an entry is deleted.
const MAP_UPDATE_ELEM: u64 = 2;
const MAP_DELETE_ELEM: u64 = 3;

/// What every thread does, of the daemon and of the opener.
const EVERYBODY: &[Call] = &[
    // Messages, files, sockets that are open.
    Any(SYS_read),
    Any(SYS_write),
    Any(SYS_sendto),
    Any(SYS_sendmsg),
    Any(SYS_recvfrom),
    Any(SYS_recvmsg),
    Any(SYS_getsockopt),
    Any(SYS_ppoll),
    Any(SYS_close),
    // Memory that holds no instructions.
    Without(SYS_mmap, 2, PROT_EXEC as u64),
    Without(SYS_mprotect, 2, PROT_EXEC as u64),
    Any(SYS_munmap),
    Any(SYS_mremap),
    Any(SYS_madvise),
    Any(SYS_brk),
    // Others, time, itself.
    Any(SYS_futex),
    Any(SYS_clock_gettime),
    Any(SYS_clock_nanosleep),
    Any(SYS_getrandom),
    Any(SYS_getpid),
    Any(SYS_gettid),
    Any(SYS_rt_sigaction),
    Any(SYS_rt_sigprocmask),
    Any(SYS_rt_sigreturn),
    Any(SYS_sigaltstack),
    Any(SYS_restart_syscall),
    Any(SYS_exit),
    Any(SYS_exit_group),
];

/// What every thread of the daemon does beside that: packets, eventfds, clocks.
const WORKER: &[Call] = &[
    // Packets, kicks and calls.
    Any(SYS_readv),
    Any(SYS_writev),
    Any(SYS_epoll_ctl),
    Any(SYS_epoll_pwait),
    Any(SYS_epoll_pwait2),
    // Whether an eventfd blocks.
    OneOf(SYS_ioctl, 1, &[FIONREAD, FIONBIO]),
    OneOf(SYS_bpf, 0, &[MAP_UPDATE_ELEM, MAP_DELETE_ELEM]),
    // Not who gets signals for what becomes readable.
    OneOf(SYS_fcntl, 1, &[F_GETFD as u64, F_SETFD as u64, F_GETFL as u64, F_SETFL as u64, F_DUPFD_CLOEXEC as u64]),
    Any(SYS_eventfd2),
    Any(SYS_timerfd_settime),
    // An alarm, set and at its end removed.
    Any(SYS_timer_settime),
    Any(SYS_timer_delete),
    // Others, time, itself.
    Any(SYS_membarrier),
    Any(SYS_nanosleep),
    Any(SYS_getrusage),
    Any(SYS_sched_yield),
    Any(SYS_sched_getaffinity),
    OneOf(SYS_prctl, 0, &[PR_SET_NAME as u64, PR_SET_TIMERSLACK as u64]),
];

/// What only the threads of control and of front ends do beside that: connections, guest memory, threads.
const MAIN: &[Call] = &[
    Any(SYS_accept4),
    Any(SYS_shutdown),
    Any(SYS_setsockopt),
    Any(SYS_getsockname),
    Any(SYS_getpeername),
    // A TAP's queue is attached, detached, told what the guest takes.
    OneOf(SYS_ioctl, 1, &[TUNSETQUEUE, TUNSETOFFLOAD]),
    // An AF_XDP socket gets its queue.
    Any(SYS_bind),
    Any(SYS_fstat),
    Any(SYS_statx),
    // Where guest memory lies.
    Any(SYS_get_mempolicy),
    Any(SYS_fstatfs),
    Any(SYS_lseek),
    Any(SYS_epoll_create1),
    Any(SYS_timerfd_create),
    // The memory of a capture.
    Any(SYS_memfd_create),
    Any(SYS_fallocate),
    OneOf(SYS_fcntl, 1, &[F_ADD_SEALS as u64]),
    // Where threads run, and their alarms.
    Any(SYS_sched_setaffinity),
    Any(SYS_timer_create),
    // A thread, and never a process. Newer C libraries ask for clone3(2), whose flags no filter sees, and are told that
    // there is none.
    With(SYS_clone, 0, (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD) as u64),
    Any(SYS_clone3),
    Any(SYS_set_robust_list),
    Any(SYS_rseq),
    // A worker's filter.
    Any(SYS_seccomp),
    // The opener's end.
    Any(SYS_wait4),
];

/// Calls that newer architectures do not have any more.
#[cfg(target_arch = "x86_64")]
const OLD: &[Call] = &[Any(SYS_epoll_wait), Any(SYS_poll)];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[Call] = &[];

/// What the opener does: opens interfaces, programs, sockets and files, and passes them on. It starts nothing.
const OPENER: &[Call] = &[
    Any(SYS_pread64),
    Any(SYS_lseek),
    Any(SYS_fcntl),
    Any(SYS_ioctl),
    // Files and their names.
    Any(SYS_openat),
    Any(SYS_statx),
    Any(SYS_fstat),
    Any(SYS_newfstatat),
    Any(SYS_fstatfs),
    Any(SYS_faccessat),
    Any(SYS_readlinkat),
    Any(SYS_getdents64),
    Any(SYS_unlinkat),
    Any(SYS_mknodat),
    Any(SYS_fchmod),
    Any(SYS_fchmodat),
    Any(SYS_fchown),
    Any(SYS_fchownat),
    Any(SYS_flock),
    Any(SYS_ftruncate),
    Any(SYS_fallocate),
    Any(SYS_memfd_create),
    // Sockets.
    OneOf(SYS_socket, 0, &FAMILIES),
    Any(SYS_bind),
    Any(SYS_listen),
    Any(SYS_connect),
    Any(SYS_getsockname),
    Any(SYS_getpeername),
    Any(SYS_setsockopt),
    // Programs of packets, their maps and links.
    Any(SYS_bpf),
    // A worker's priority.
    Any(SYS_sched_setscheduler),
    // Who it is.
    Any(SYS_getuid),
    Any(SYS_geteuid),
    Any(SYS_getgid),
    Any(SYS_getegid),
];

/// What the opener may open sockets of.
const FAMILIES: [u64; 6] =
    [AF_UNIX as u64, AF_INET as u64, AF_INET6 as u64, AF_NETLINK as u64, AF_PACKET as u64, AF_XDP as u64];

/// The same on architectures that still have the calls of old.
#[cfg(target_arch = "x86_64")]
const OPENER_OLD: &[Call] = &[
    Any(SYS_open),
    Any(SYS_stat),
    Any(SYS_lstat),
    Any(SYS_access),
    Any(SYS_readlink),
    Any(SYS_unlink),
    Any(SYS_mknod),
    Any(SYS_chmod),
    Any(SYS_chown),
    Any(SYS_lchown),
    Any(SYS_poll),
];
#[cfg(not(target_arch = "x86_64"))]
const OPENER_OLD: &[Call] = &[];

/// What the opener calls.
pub(super) fn of_opener() -> impl Iterator<Item = Call> {
    EVERYBODY.iter().chain(OPENER).chain(OPENER_OLD).copied()
}

/// What a worker calls.
pub(super) fn of_worker() -> impl Iterator<Item = Call> {
    EVERYBODY.iter().chain(WORKER).chain(OLD).copied()
}

/// What every other thread calls, and whatever the workers that it starts do.
pub(super) fn of_main() -> impl Iterator<Item = Call> {
    MAIN.iter().copied().chain(of_worker())
}
