//! A virtio-net driver of one queue pair that sends by the clock and takes back what comes.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::config::{DriverConfig, Mode, Sizes, Way};
use super::frame::{Frames, NET_HEADER, Stamp};
use super::outcome::{Counts, Found};
use super::peer::thread_cpu;
use super::returns::Returns;
use super::schedule::{Rate, Schedule};
use super::session::{Queue, QueuePair};

/// Most packets between two looks at the clock and the rings.
const BATCH: u16 = 64;
/// An iteration of the loop that took longer, in nanoseconds, did not have its CPU all the time.
const STALL_NS: u64 = 200_000;
/// A slice of a run, in nanoseconds: a machine that is taken away for milliseconds now and then leaves most of them alone.
const SLICE_NS: u64 = 50_000_000;
/// A stall that is not made up for within this time, in nanoseconds, excuses nothing more.
const CATCH_UP_NS: u64 = 20_000_000;
/// How long what is out may stay out without any progress, once nothing more is due.
const PATIENCE: Duration = Duration::from_secs(2);

/// A driver on its queues.
#[derive(Debug)]
pub struct Driver {
    config: DriverConfig,
    pair: QueuePair,
    frames: Frames,
    sizes: Sizes,
    schedule: Schedule,
    epoch: Instant,
    /// When the packet in each transmit slot was due.
    dues: Box<[u64]>,
    /// The length for which each transmit slot is laid out.
    laid_out: Box<[usize]>,
    /// Number of the next packet sent.
    next: u64,
    returns: Returns,
    /// Packets that were due before are not clocked.
    clocked_from: u64,
    /// When this thread had its CPU again after a stall.
    stalled_at: u64,
    found: Found,
}

impl Driver {
    /// A driver for queue pair number `index`. Posts receive buffers if anything is to come back.
    ///
    /// # Errors
    /// When the device cannot be kicked.
    pub fn new(mut pair: QueuePair, config: DriverConfig, index: usize) -> Result<Self> {
        for queue in [&mut pair.rx, &mut pair.tx] {
            if config.mode != Mode::Always {
                queue.ring.suppress_calls();
            }
        }
        let slots = usize::from(pair.tx.ring.config().size);
        let mut driver = Self {
            frames: Frames::default(),
            sizes: Sizes::new(config.size),
            schedule: Schedule::new(config.rate, config.pattern, index as u64),
            epoch: Instant::now(),
            dues: vec![0; slots].into(),
            laid_out: vec![0; slots].into(),
            next: 0,
            returns: Returns::default(),
            clocked_from: 0,
            stalled_at: 0,
            found: Found::default(),
            pair,
            config,
        };
        if driver.config.way != Way::Tx {
            let ring = &mut driver.pair.rx.ring;
            while ring.room() > 0 {
                ring.offer(ring.config().buffer_len);
            }
            let published = ring.publish();
            tell(&driver.pair.rx, &mut driver.found.counts, published)?;
        }
        Ok(driver)
    }

    /// Sends each slot once or twice and waits for what comes back, so that every page and cache line was touched;
    /// counts nothing.
    ///
    /// # Errors
    /// When the device breaks the rules, or lets a packet lie.
    pub fn warm_up(&mut self) -> Result<()> {
        self.epoch = Instant::now();
        for _ in 0..2 * self.dues.len().div_ceil(usize::from(BATCH)) {
            for _ in 0..BATCH.min(self.pair.tx.ring.room()) {
                self.send_one(0);
            }
            self.publish_tx()?;
            self.settle()?;
        }
        ensure!(self.pair.tx.ring.in_flight() == 0, "the device takes no packet");
        self.found = Found::default();
        Ok(())
    }

    /// Sends for the time that was asked for, then waits for what is still out.
    ///
    /// # Errors
    /// When the device breaks the rules or says that we do.
    pub fn run(mut self) -> Result<Found> {
        let end = self.config.duration.as_nanos() as u64;
        let mut settled_at = Some(self.config.settling.as_nanos() as u64).filter(|ns| *ns > 0);
        let (mut looked, mut slice_end) = (None, SLICE_NS);
        let cpu = thread_cpu();
        let _ = self.pair.rx.calls() + self.pair.tx.calls();
        self.epoch = Instant::now();
        loop {
            let got = self.take_back()? | self.receive()?;
            let now = self.now();
            if now >= end {
                break;
            }
            if looked.replace(now).is_some_and(|before| now - before > STALL_NS) {
                self.stall();
            }
            if settled_at.is_some_and(|at| now >= at) {
                settled_at = None;
                self.found.forget_clocks();
                slice_end = now + SLICE_NS;
            }
            if now >= slice_end {
                self.found.close_slice();
                slice_end = now + SLICE_NS;
            }
            self.catch_up(now);
            let sent = self.send_due(now)?;
            if !got && !sent {
                let due = if self.pair.tx.ring.room() > 0 { self.schedule.due(now) } else { end };
                self.idle(due.min(end), false)?;
                // However long it slept.
                looked = None;
            }
        }
        self.found.counts.unsent = self.schedule.clone().left_before(end);
        self.settle()?;
        self.found.close_slice();
        self.found.cpu = thread_cpu() - cpu;
        self.found.counts.calls += self.pair.rx.calls() + self.pair.tx.calls();
        if self.pair.rx.is_broken() || self.pair.tx.is_broken() {
            bail!("the device says that a ring is broken; its log says why");
        }
        Ok(self.found)
    }

    /// This thread had no CPU for a while. What was due meanwhile is not clocked, nor what is until that is made up for: it
    /// would show what the machine did, not what the device does.
    #[cold]
    fn stall(&mut self) {
        self.found.counts.stalls += 1;
        self.clocked_from = u64::MAX;
        self.stalled_at = self.now();
    }

    /// Clocks packets again once nothing is late.
    fn catch_up(&mut self, now: u64) {
        if self.clocked_from == u64::MAX {
            let due = self.schedule.due(now);
            if due > now || self.config.rate == Rate::Max {
                self.clocked_from = due;
            } else if now.saturating_sub(self.stalled_at) > CATCH_UP_NS {
                self.clocked_from = now;
            }
        }
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Sends what is due, a batch at most, as far as there is room.
    fn send_due(&mut self, now: u64) -> Result<bool> {
        let batch = BATCH.min(self.pair.tx.ring.room());
        for _ in 0..batch {
            let due = self.schedule.due(now);
            if due > now {
                break;
            }
            self.send_one(due);
            if due >= self.clocked_from {
                self.found.lateness.record(now - due);
            }
            self.schedule.advance();
        }
        self.publish_tx()
    }

    fn send_one(&mut self, due: u64) {
        let ring = &mut self.pair.tx.ring;
        let slot = ring.next_slot();
        let (at, len) = (ring.at(slot), self.sizes.next());
        let laid_out = &mut self.laid_out[usize::from(slot)];
        if *laid_out != len {
            self.frames.lay_out(ring.buffers(), at, slot, len);
            *laid_out = len;
        }
        self.frames.stamp(ring.buffers(), at, len, Stamp { due, number: self.next, slot });
        self.dues[usize::from(slot)] = due;
        self.next += 1;
        self.found.counts.sent += 1;
        ring.offer((NET_HEADER + len) as u32);
    }

    fn publish_tx(&mut self) -> Result<bool> {
        let published = self.pair.tx.ring.publish();
        tell(&self.pair.tx, &mut self.found.counts, published)?;
        Ok(published.is_some())
    }

    /// Takes back buffers of packets that were sent.
    fn take_back(&mut self) -> Result<bool> {
        if self.pair.tx.ring.look()? == 0 {
            return Ok(false);
        }
        let now = self.now();
        let (ring, counts) = (&mut self.pair.tx.ring, &mut self.found.counts);
        while let Some(used) = ring.take()? {
            counts.taken += 1;
            counts.taken_bytes += u64::from(ring.len_of(used.slot)) - NET_HEADER as u64;
            let due = self.dues[usize::from(used.slot)];
            if self.config.way != Way::Rx && due >= self.clocked_from {
                self.found.taken.record(now.saturating_sub(due));
            }
        }
        if self.config.mode == Mode::Always {
            ring.arm_calls(0)?;
        }
        Ok(true)
    }

    /// Takes what came, judges it, and posts its buffers again.
    fn receive(&mut self) -> Result<bool> {
        if self.pair.rx.ring.look()? == 0 {
            return Ok(false);
        }
        let now = self.now();
        while let Some(used) = self.pair.rx.ring.take()? {
            let ring = &mut self.pair.rx.ring;
            self.returns.add(ring, used);
            ring.offer(ring.config().buffer_len);
            if let Some(judged) = self.returns.judge_whole() {
                judged.note(&mut self.found, now, self.clocked_from);
            }
        }
        let published = self.pair.rx.ring.publish();
        if self.config.mode == Mode::Always {
            self.pair.rx.ring.arm_calls(0)?;
        }
        tell(&self.pair.rx, &mut self.found.counts, published)?;
        Ok(true)
    }

    /// Waits for what is out, until it is back or does not move any more.
    fn settle(&mut self) -> Result<()> {
        let patience = PATIENCE.as_nanos() as u64;
        let mut deadline = self.now() + patience;
        loop {
            // The clock first: a look after the deadline decides, however long this thread had no CPU.
            let now = self.now();
            let moved = self.take_back()? | self.receive()?;
            let counts = self.found.counts;
            let back = self.config.way == Way::Tx || counts.received + counts.corrupt >= counts.sent;
            if back && self.pair.tx.ring.in_flight() == 0 {
                return Ok(());
            }
            if moved {
                deadline = now + patience;
            } else if now >= deadline {
                return Ok(());
            } else {
                self.idle(deadline, true)?;
            }
        }
    }

    /// Does what this driver does when it has nothing to do, until a call or the time `until` at the latest.
    fn idle(&mut self, until: u64, settling: bool) -> Result<()> {
        if self.config.mode == Mode::Busy {
            std::hint::spin_loop();
            return Ok(());
        }
        let slipped = self.arm(settling)?;
        if !slipped {
            self.sleep(until)?;
        }
        if self.config.mode == Mode::Napi {
            self.pair.rx.ring.suppress_calls();
            self.pair.tx.ring.suppress_calls();
        }
        Ok(())
    }

    /// Asks for calls of what this driver waits for; whether some is here already. A full ring waits until there is
    /// room for a good batch, as Linux does.
    fn arm(&mut self, settling: bool) -> Result<bool> {
        let DriverConfig { mode, way, .. } = self.config;
        let rx = way != Way::Tx && self.pair.rx.ring.arm_calls(0)?;
        let ring = &mut self.pair.tx.ring;
        let out = ring.in_flight();
        let tx = if out == 0 {
            false
        } else if ring.room() == 0 && mode == Mode::Napi && !settling {
            ring.arm_calls((u32::from(out) * 3 / 4) as u16)?
        } else if mode == Mode::Always || way != Way::Rx || settling {
            ring.arm_calls(0)?
        } else {
            false
        };
        Ok(rx || tx)
    }

    fn sleep(&mut self, until: u64) -> Result<()> {
        let left = Duration::from_nanos(until.saturating_sub(self.now()));
        let calls = [self.pair.rx.call_fd(), self.pair.tx.call_fd()];
        let mut fds = calls.map(|fd| PollFd::new(fd, PollFlags::IN));
        self.found.counts.sleeps += 1;
        match poll(&mut fds, Some(&Timespec::try_from(left)?)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [rx, tx] = fds.map(|fd| !fd.revents().is_empty());
        self.found.counts.calls += if rx { self.pair.rx.calls() } else { 0 };
        self.found.counts.calls += if tx { self.pair.tx.calls() } else { 0 };
        Ok(())
    }
}

/// Kicks the device if it wants to be told of what was `published`.
fn tell(queue: &Queue, counts: &mut Counts, published: Option<bool>) -> Result<()> {
    match published {
        None => {}
        Some(false) => counts.kicks_suppressed += 1,
        Some(true) => {
            counts.kicks += 1;
            queue.kick()?;
        }
    }
    Ok(())
}
