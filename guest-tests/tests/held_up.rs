//! A front end that holds up its own workers: nobody else notices.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, Echo};
use guest_tests::lab::eventually;
use guest_tests::spell::Hold;
use guest_tests::{Configured, Control, NetNs, Signal, Usage};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::Value;
use vmm_sys_util::eventfd::EventFd;

const PATIENCE: Duration = Duration::from_secs(60);
const SET_VRING_CALL: u32 = 13;
const VERSION: u32 = 1;
const DEVICES: &str = "control = 'DIR/control'\n\
    [[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'loopback'\nqueue-pairs = 4\n\
    [[device]]\nname = 'b'\nsocket-path = 'DIR/b'\nuplink = 'loopback'\nqueue-pairs = 1\n";

/// Device `a`, each pair of which has a worker that is kept where it is, and beside it the honest device `b`.
struct Rig {
    /// Let go of first: the daemon cannot end before.
    holds: Vec<Hold>,
    _ns: NetNs,
    vnicd: Configured,
    a: Option<Client>,
    b: Echo,
}

impl Rig {
    fn start(pairs: usize) -> Result<Self> {
        let ns = NetNs::new()?;
        let vnicd = Configured::start(&ns, DEVICES, &["a", "b"])?;
        let mut b = Echo::at(&vnicd.path("b"))?;
        b.round()?;
        let mut a = Client::start(&vnicd.path("a"), VERSION_1)?;
        for ring in 0..2 * pairs {
            a.running_queue(ring, 256)?;
        }
        let usage = Usage::of(vnicd.process().pid())?;
        let holds: Vec<_> = usage.threads_named("a/").map(|thread| Hold::of(thread.tid)).collect::<Result<_>>()?;
        ensure!(holds.len() == pairs, "{} workers: {usage:?}", holds.len());
        Ok(Self { holds, _ns: ns, vnicd, a: Some(a), b })
    }

    fn lines(&self, part: &str) -> usize {
        self.vnicd.process().lines().all().iter().filter(|line| line.contains(part)).count()
    }

    /// The daemon ends as it should, though the workers never went on.
    fn end(self) -> Result<()> {
        let process = self.vnicd.process();
        process.signal(Signal::TERM)?;
        let stat = format!("/proc/{}/stat", process.pid());
        eventually("the daemon ends", || Ok(std::fs::read_to_string(&stat)?.contains(") Z ")))?;
        // Whoever keeps a thread has to let go of it first.
        drop(self.holds);
        ensure!(process.wait(PATIENCE)?.success(), "{}", process.tail());
        Ok(())
    }
}

fn open_fds(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

#[test]
fn whoever_comes_after_a_front_end_whose_workers_hang_keeps_nobody_waiting() -> Result<()> {
    let mut rig = Rig::start(4)?;
    drop(rig.a.take());
    // Its rings are being stopped, for as long as workers are waited for.
    let _next = UnixStream::connect(rig.vnicd.path("a"))?;
    let mut control = Control::connect(&rig.vnicd.path("control"))?;
    for _ in 0..3 {
        control.call("status", Value::Null)?;
        rig.b.round()?;
    }
    ensure!(rig.lines("front end gone device=a") == 0, "all waited for the rings of the one that had gone");
    // All workers are waited for together. Then the next one is let in, and the others have noticed nothing.
    rig.vnicd.process().wait_for_line("front end gone device=a", PATIENCE)?;
    ensure!(rig.lines("the worker is given up") == 4, "{}", rig.vnicd.process().tail());
    eventually("the next one is let in", || Ok(rig.lines("front end connected device=a") == 2))?;
    rig.b.round()?;
    rig.end()
}

#[test]
fn nothing_is_heaped_up_for_a_worker_that_hangs() -> Result<()> {
    let mut rig = Rig::start(1)?;
    let pid = rig.vnicd.process().pid();
    let before = open_fds(pid)?;
    let a = rig.a.as_ref().context("it is there")?;
    let call = eventfd(0, EventfdFlags::CLOEXEC)?;
    for _ in 0..200 {
        a.send(SET_VRING_CALL, VERSION, &1u64.to_le_bytes(), &[call.as_fd()])?;
    }
    rig.vnicd.process().wait_for_line("the worker is given up", PATIENCE)?;
    rig.b.round()?;
    drop(rig.a.take());
    rig.vnicd.process().wait_for_line("device=a", PATIENCE)?;
    eventually("eventfds are closed", || Ok(open_fds(pid)? <= before + 2))?;
    rig.end()
}

/// The eventfd as a file descriptor; the crate gives no more than its number.
fn as_fd(eventfd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the fd is open as long as the eventfd.
    unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) }
}

/// Fills an eventfd, and has further writes to it wait.
fn block(eventfd: &EventFd) -> Result<()> {
    let flags = fcntl_getfl(as_fd(eventfd))?;
    ensure!(flags.contains(OFlags::NONBLOCK), "the daemon keeps the call fd from blocking");
    // Filled while a write to a full one fails: how far the calls so far have filled it is not known.
    for power in (0..u64::BITS).rev() {
        while eventfd.write(1 << power).is_ok() {}
    }
    Ok(fcntl_setfl(as_fd(eventfd), flags - OFlags::NONBLOCK)?)
}

/// Both devices have the same worker.
#[test]
fn a_call_fd_that_is_full_and_blocks_costs_its_device_the_ring_and_others_nothing() -> Result<()> {
    const SHARED: &str = "uplink = 'loopback'\nqueue-pairs = 1\nthreads = 'per-cpu'\ncpus = '0'\n";
    let ns = NetNs::new()?;
    let devices = format!(
        "[[device]]\nname = 'a'\nsocket-path = 'DIR/a'\n{SHARED}[[device]]\nname = 'b'\nsocket-path = 'DIR/b'\n{SHARED}"
    );
    let vnicd = Configured::start(&ns, &devices, &["a", "b"])?;
    let process = vnicd.process();
    let mut b = Echo::at(&vnicd.path("b"))?;
    // Without EVENT_IDX a driver is called for each burst.
    let mut a = Client::start(&vnicd.path("a"), VERSION_1 | MRG_RXBUF)?;
    let (_rx, mut tx) = (a.running_queue(0, 256)?, a.running_queue(1, 256)?);
    let frame = a.memory.allocate(4096);
    for _ in 0..3 {
        b.round()?;
    }
    block(&tx.call)?;
    tx.add(&[(frame, 100)], false).context("the ring is full")?;
    tx.kick.write(1)?;
    process.wait_for_line("full and made to block", PATIENCE)?;
    for _ in 0..20 {
        b.round()?;
    }
    ensure!(!process.lines().contains("given up"), "{}", process.tail());
    // The front end comes back: not for that ring.
    drop(a);
    let mut again = Client::start(&vnicd.path("a"), VERSION_1 | MRG_RXBUF)?;
    let (_rx, _tx) = (again.running_queue(0, 256)?, again.running_queue(1, 256)?);
    let told = || process.lines().all().iter().filter(|line| line.contains("full and made to block")).count();
    eventually("it is told again", || Ok(told() == 2))?;
    b.round()?;
    ensure!(process.terminate()?.success());
    Ok(())
}
