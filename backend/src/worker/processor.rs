//! The second thread of a pair whose packets go through a pipeline: it has the uplink, and a wire each way to the worker
//! that has the rings.
//!
//! The worker moves packets between the rings and the wires; this thread sends and receives them. It drains what there is
//! and sleeps: whether the guest is polled is its worker's affair.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use super::wakeups::{Interest, Slot, Source, Wakeups};
use super::{BURST_PACKETS, Pulse, STOP_PATIENCE, Thread, pin, wait_for_end};
use crate::sandbox;
use crate::uplink::{Piped, Received, Rx, Sent, Tx, Valve, WireRx, WireTx, wire};

/// How long a thread that cannot wait for anything sleeps instead.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A running processor thread. It ends when this is dropped.
#[derive(Debug)]
pub struct ProcessorHandle {
    name: String,
    thread_id: i32,
    pulse: Arc<Pulse>,
    valve: Arc<Valve>,
    thread: Option<JoinHandle<()>>,
}

impl ProcessorHandle {
    /// Starts a processor called `name` for an uplink, on CPU `cpu` if one is given. Gives the halves that its worker uses
    /// instead.
    ///
    /// # Errors
    /// When the kernel gives no thread, epoll or eventfd.
    pub fn spawn(name: String, cpu: Option<usize>, uplink: (Tx, Rx)) -> io::Result<(Self, (Tx, Rx))> {
        let own_name = name.clone();
        let valve = Arc::new(Valve::new()?);
        let (mut to_uplink, from_rings) = wire();
        let (to_rings, from_uplink) = wire();
        to_uplink.ring_bells();
        to_rings.ring_bells();
        let (mut tx, rx) = uplink;
        to_uplink.join_by(tx.take_joiner());
        let beside = Box::new(rx.beside());
        let pulse = Arc::<Pulse>::default();
        let processor = Processor::new(tx, rx, from_rings, to_rings, valve.clone(), pulse.clone())?;
        let (began, begins) = sync_channel(1);
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let _ = began.send(rustix::thread::gettid().as_raw_nonzero().get());
            if let Some(cpu) = cpu {
                pin(&own_name, cpu);
            }
            sandbox::confine_worker(&own_name);
            processor.run();
        })?;
        let thread_id = begins.recv().map_err(io::Error::other)?;
        let halves = (Tx::Wire(to_uplink), Rx::Piped(Piped { wire: from_uplink, beside, valve: valve.clone() }));
        Ok((Self { name, thread_id, pulse, valve, thread: Some(thread) }, halves))
    }

    /// Its thread, as seen from outside.
    #[must_use]
    pub fn thread(&self) -> Thread {
        Thread { name: self.name.clone(), id: self.thread_id, pulse: self.pulse.clone() }
    }
}

impl Drop for ProcessorHandle {
    fn drop(&mut self) {
        self.valve.end();
        if let Some(thread) = self.thread.take() {
            wait_for_end(thread, &self.name, STOP_PATIENCE);
        }
    }
}

struct Processor {
    tx: Tx,
    rx: Rx,
    from_rings: WireRx,
    to_rings: WireTx,
    wakeups: Wakeups,
    /// What is watched: frames from the rings, room to the rings, the uplink, room in the uplink where that tells itself.
    interests: [Interest; 4],
    valve: Arc<Valve>,
    pulse: Arc<Pulse>,
}

/// What a round left.
#[derive(Default)]
struct Left {
    moved: bool,
    uplink_full: bool,
    wire_full: bool,
    uplink_gone: bool,
}

impl Processor {
    fn new(
        tx: Tx,
        rx: Rx,
        from_rings: WireRx,
        to_rings: WireTx,
        valve: Arc<Valve>,
        pulse: Arc<Pulse>,
    ) -> io::Result<Self> {
        let wakeups = Wakeups::new()?;
        wakeups.add_eventfd(&*valve, Source::Mailbox)?;
        Ok(Self { tx, rx, from_rings, to_rings, wakeups, interests: [Interest::default(); 4], valve, pulse })
    }

    fn run(mut self) {
        let mut sources = Vec::new();
        while !self.valve.is_ended() {
            self.pulse.beat();
            if self.valve.is_flush_wanted() {
                self.flush();
            }
            let mut left = Left::default();
            self.send(&mut left);
            left.uplink_full |= !self.tx.flush();
            self.receive(&mut left);
            if left.moved {
                continue;
            }
            let watched = self.watch(&left);
            self.pulse.turn_over();
            let waited = watched.and_then(|()| self.wakeups.wait(None, &mut sources));
            self.pulse.turn_over();
            if let Err(e) = waited {
                tracing::error!("epoll: {e}");
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    /// Sends what the guest was told is sent, and forgets what came for it.
    fn flush(&mut self) {
        while let Some((header, frame)) = self.from_rings.take() {
            let sent = match self.tx.send_private(&header, frame) {
                // It cannot wait: the queue is taken away.
                Sent::Full => Sent::Refused,
                sent => sent,
            };
            self.from_rings.tell(sent);
        }
        self.rx.forget();
        self.valve.flushed();
    }

    /// At most a burst from the rings to the uplink.
    fn send(&mut self, left: &mut Left) {
        for _ in 0..BURST_PACKETS {
            let Some((header, frame)) = self.from_rings.take() else { return };
            let len = frame.len();
            let sent = self.tx.send_private(&header, frame);
            if sent == Sent::Full {
                self.from_rings.put_back(len);
                left.uplink_full = true;
                return;
            }
            self.from_rings.tell(sent);
            left.moved = true;
        }
    }

    /// At most a burst from the uplink to the rings.
    fn receive(&mut self, left: &mut Left) {
        for _ in 0..BURST_PACKETS {
            if !self.to_rings.has_room() {
                left.wire_full = true;
                return;
            }
            match self.rx.receive_private() {
                Received::Frame { header, rest, .. } => {
                    self.to_rings.put(&header, &[rest]);
                }
                Received::Spoilt => {}
                Received::Empty | Received::Fault => return,
                Received::Gone => {
                    left.uplink_gone = true;
                    return;
                }
            }
            left.moved = true;
        }
    }

    /// Has the thread woken by what it waits for.
    fn watch(&mut self, left: &Left) -> io::Result<()> {
        let readable = |readable| Interest { readable, writable: false };
        let [frames, room, uplink, uplink_room] = &mut self.interests;
        if let Some(fd) = self.from_rings.fd() {
            self.wakeups.watch(fd, Slot(0), readable(!left.uplink_full), frames)?;
        }
        if let Some(fd) = self.to_rings.fd() {
            self.wakeups.watch(fd, Slot(0), readable(left.wire_full), room)?;
        }
        if let Some(fd) = self.rx.fd() {
            let wanted = Interest { readable: !left.wire_full, writable: left.uplink_full };
            let wanted = if left.uplink_gone { Interest::default() } else { wanted };
            self.wakeups.watch(fd, Slot(0), wanted, uplink)?;
        }
        if let Some(fd) = self.tx.room_fd() {
            self.wakeups.watch(fd, Slot(0), readable(left.uplink_full), uplink_room)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::offload::NetHeader;
    use crate::uplink::loopback_pair;

    #[test]
    fn frames_go_out_and_come_in_in_their_order_and_it_ends() {
        let (tx, rx) = loopback_pair();
        let (handle, (mut tx, mut rx)) =
            ProcessorHandle::spawn("test".into(), None, (Tx::Wire(tx), Rx::Wire(rx))).unwrap();
        let start = Instant::now();
        let mut sent = 0u32;
        let mut got = 0u32;
        while got < 50_000 {
            assert!(start.elapsed() < Duration::from_secs(60), "{sent} sent, {got} got");
            let frame = [&[1; 6][..], &[2; 6], &sent.to_le_bytes()].concat();
            if sent < 50_000 && tx.send_private(&NetHeader::default(), &frame) == Sent::Done {
                sent += 1;
            }
            while let Received::Frame { rest, len, .. } = rx.receive_private() {
                assert_eq!((len, &rest[..6], &rest[6..12]), (16, &[2; 6][..], &[1; 6][..]));
                assert_eq!(rest[12..], got.to_le_bytes());
                got += 1;
            }
            if sent == 50_000 {
                std::thread::yield_now();
            }
        }
        drop(handle);
    }
}
