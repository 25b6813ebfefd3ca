//! Makes child processes that the kernel kills when this program dies, however it dies.
//!
//! The kernel ties a child's life to the *thread* that made it, and tests run on threads that end: one thread that
//! lives as long as the program makes them all.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::thread;

use rustix::io::FdFlags;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Makes the kernel kill the command's process when the thread that spawns it ends.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let hook = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above took effect.
        match getppid() {
            Some(pid) if pid.as_raw_nonzero().get() as u32 == parent => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    };
    // SAFETY: between fork and exec the hook makes two plain system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}

/// Leaves `fd` open in the command's process, as descriptor `number`.
pub fn pass_fd(command: &mut Command, fd: OwnedFd, number: RawFd) {
    let hook = move || {
        if fd.as_raw_fd() == number {
            return Ok(rustix::io::fcntl_setfd(&fd, FdFlags::empty())?);
        }
        // SAFETY: the child's own copy of this descriptor is what is to be replaced, and is not closed afterwards.
        let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
        Ok(rustix::io::dup2(&fd, &mut target)?)
    };
    // SAFETY: between fork and exec the hook makes one plain system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns on the one thread that lives as long as the program.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (sender, answer) = mpsc::channel();
    let gone = |_| io::Error::other("the spawner thread ended");
    spawner.send((command, sender)).map_err(|_| gone(mpsc::RecvError))?;
    answer.recv().map_err(gone)?
}
