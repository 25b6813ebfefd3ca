//! Makes one thread of another process run without end and get nowhere, as a thread does whose loop has no way out; or keeps it
//! where it is, as memory does that never comes.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::libc::{c_long, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// `jmp .`, and what is never reached.
const JUMP_TO_ITSELF: c_long = 0xfeeb;
/// A system call that was interrupted is not to be begun again somewhere else.
const NO_CALL: u64 = u64::MAX;

/// A thread under the spell; it is where it was before when this is dropped.
#[derive(Debug)]
pub struct Spell {
    thread: Pid,
    before: user_regs_struct,
}

impl Spell {
    /// Casts it on thread `thread` of process `pid`.
    pub fn cast(pid: u32, thread: u32) -> Result<Self> {
        let at = end_of_code(pid)?;
        let thread = Pid::from_raw(thread.try_into()?);
        ptrace::seize(thread, ptrace::Options::empty())?;
        let before = stop(thread).and_then(|()| Ok(ptrace::getregs(thread)?))?;
        ptrace::write(thread, at as ptrace::AddressType, JUMP_TO_ITSELF)?;
        ptrace::setregs(thread, user_regs_struct { rip: at, orig_rax: NO_CALL, ..before })?;
        ptrace::detach(thread, None)?;
        Ok(Self { thread, before })
    }

    fn lift(&self) -> Result<()> {
        ptrace::seize(self.thread, ptrace::Options::empty())?;
        stop(self.thread)?;
        ptrace::setregs(self.thread, self.before)?;
        Ok(ptrace::detach(self.thread, None)?)
    }
}

impl Drop for Spell {
    fn drop(&mut self) {
        // A process that has ended needs no help.
        let _ = self.lift();
    }
}

/// A thread that is kept where it is; it goes on when this is dropped, on the thread that made it.
#[derive(Debug)]
pub struct Hold(Pid);

impl Hold {
    /// Keeps thread `thread`.
    pub fn of(thread: u32) -> Result<Self> {
        let thread = Pid::from_raw(thread.try_into()?);
        ptrace::seize(thread, ptrace::Options::empty())?;
        stop(thread)?;
        Ok(Self(thread))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Of a process that has ended, only the end of its thread is left to be taken note of.
        if ptrace::detach(self.0, None).is_err() {
            let _ = waitpid(self.0, Some(WaitPidFlag::__WALL));
        }
    }
}

fn stop(thread: Pid) -> Result<()> {
    ptrace::interrupt(thread)?;
    let status = waitpid(thread, Some(WaitPidFlag::__WALL))?;
    ensure!(
        matches!(status, WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)),
        "the thread did not stop: {status:?}"
    );
    Ok(())
}

/// The last word of the pages that the process's program is run from: behind its code, which fills no page to its end.
fn end_of_code(pid: u32) -> Result<u64> {
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let is_code = |line: &&str| line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy());
    let code = maps.lines().rfind(is_code).context("the process runs no code")?;
    let end = code.split(['-', ' ']).nth(1).context("no end")?;
    Ok(u64::from_str_radix(end, 16)? - 8)
}
