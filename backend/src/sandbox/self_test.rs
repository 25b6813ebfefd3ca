//! Tries what the daemon must not do, and says what came of it.

#![allow(unsafe_code)]

use std::error::Error;
use std::ffi::c_long;
use std::io;
use std::ptr::null;

use super::Shed;

/// An attempt and how it is called.
type Attempt = (&'static str, fn() -> io::Result<()>);

/// What Landlock alone refuses, in any version.
const PATHS: &[Attempt] = &[
    ("open a file", || std::fs::File::open("/etc/passwd").map(drop)),
    ("list a directory", || std::fs::read_dir("/").map(drop)),
    ("make a file", || std::fs::write("/tmp/vnicd-self-test", "").map(drop)),
];

/// What no thread of the daemon may call.
const CALLS: &[Attempt] = &[
    ("open a socket", || std::net::UdpSocket::bind("127.0.0.1:0").map(drop)),
    ("connect to a port", || std::net::TcpStream::connect("127.0.0.1:9").map(drop)),
    ("start a program", || std::process::Command::new("/bin/true").spawn().map(drop)),
    ("become a program", || call(libc::SYS_execve, [c"/bin/true".as_ptr() as c_long, 0, 0])),
    ("trace a process", || call(libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0])),
    ("signal a process", || call(libc::SYS_kill, [1, 0, 0])),
    ("change the name space", || call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0])),
    ("load a program into the kernel", || call(libc::SYS_bpf, [5, null::<u8>() as c_long, 0])),
    ("make memory that runs", || {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, which nothing refers to.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }),
    ("get a capability back", || {
        let all = rustix::thread::CapabilitySet::NET_ADMIN;
        let sets = rustix::thread::CapabilitySets { effective: all, permitted: all, inheritable: all };
        Ok(rustix::thread::set_capabilities(None, sets)?)
    }),
];

/// What only the control thread may do.
const FOR_WORKERS: &[Attempt] = &[
    ("start a thread", || std::thread::Builder::new().spawn(|| ()).map(drop)),
    ("accept a connection", || call(libc::SYS_accept4, [-1, 0, 0])),
];

/// Makes a call that reads at most what its arguments point to, and does nothing if it is allowed.
fn call(number: c_long, args: [c_long; 3]) -> io::Result<()> {
    // SAFETY: the attempts above pass no pointer to memory that is written.
    let status = unsafe { libc::syscall(number, args[0], args[1], args[2]) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tries what must be refused: first without a filter of system calls, where there is Landlock; then in this thread, and in
/// one that is a worker. Prints a line for each attempt; whether all were refused.
///
/// # Errors
/// When the filters are wrong, or there is no thread.
pub fn self_test(shed: Shed) -> Result<bool, Box<dyn Error>> {
    let mut all = shed.landlock.is_err() || attempt("landlock", PATHS);
    shed.restrict_calls()?;
    all &= attempt("main", PATHS) & attempt("main", CALLS);
    let worker = std::thread::Builder::new().spawn(|| {
        super::confine_worker("self-test");
        attempt("worker", PATHS) & attempt("worker", CALLS) & attempt("worker", FOR_WORKERS)
    })?;
    Ok(all & worker.join().unwrap_or(false))
}

fn attempt(role: &str, attempts: &[Attempt]) -> bool {
    attempts.iter().fold(true, |all, (what, attempt)| {
        let refused = matches!(attempt(), Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)));
        println!("{role}: {what}: {}", if refused { "refused" } else { "ALLOWED" });
        all & refused
    })
}
