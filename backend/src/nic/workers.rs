//! The workers of a NIC: they are started with the first ring of their lane, and placed.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::lane::{Idle, Lane, LaneState};
use super::{Nic, Place, placement};
use crate::worker::{Mailbox, Message, Pair, PairSetup, ProcessorHandle, QueueId, Threads};

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the worker of {id}")]
pub struct StartError {
    id: QueueId,
    #[source]
    source: io::Error,
}

impl Drop for Nic {
    /// What its lanes have of workers that others have, too, is given back: the uplink is closed then.
    fn drop(&mut self) {
        for lane in &self.lanes {
            if let LaneState::Running(worker, _) = &*lane.state()
                && Arc::strong_count(worker) > 1
            {
                let mailbox = worker.mailbox();
                mailbox.release(lane.id);
                // Nobody answers for a lane that has gone: the worker has come that far then.
                let _ = mailbox.ask(lane.id, |answer| Message::RingEnable(false, answer));
            }
        }
    }
}

impl Nic {
    /// The worker of a ring, if it was started.
    #[must_use]
    pub fn worker(&self, ring: QueueId) -> Option<Arc<Mailbox>> {
        self.lane(ring)?.mailbox()
    }

    /// All workers that were started, each with the name of what it serves of this device.
    pub fn workers(&self) -> impl Iterator<Item = (QueueId, Arc<Mailbox>)> + '_ {
        self.lanes.iter().filter_map(|lane| Some((lane.id, lane.mailbox()?)))
    }

    /// Whether it matters where a guest's memory is.
    #[must_use]
    pub fn is_placed_by_memory(&self) -> bool {
        self.placement.nodes.is_some()
    }

    /// Has the threads of a ring's lane run near the memory of `node`. A worker that other lanes have, too, stays on its CPU
    /// once it runs.
    pub fn place(&self, ring: QueueId, node: Option<usize>) {
        let Some(at) = self.lanes.iter().position(|lane| lane.id.covers(ring)) else { return };
        let lane = &self.lanes[at];
        let (worker, processor) = lane.thread_ids();
        if worker.is_some() && self.threads == Threads::PerCpu {
            return;
        }
        let place = self.placement.place(at, self.threads, node);
        if lane.set_place(place.clone()) {
            tracing::info!(queue = %lane.id, node = place.node, cpu = place.cpu, "placed by the guest's memory");
            self.settle(&place, worker, processor);
        }
    }

    /// Has threads run where they are to.
    fn settle(&self, place: &Place, worker: Option<i32>, processor: Option<i32>) {
        let near = place.node.map_or(&[][..], |node| self.placement.near(node));
        for (thread, cpu) in [(worker, place.cpu), (processor, place.processor_cpu)] {
            if let Some(thread) = thread {
                placement::set_affinity(thread, cpu.as_ref().map_or(near, std::slice::from_ref));
            }
        }
    }

    fn lane(&self, ring: QueueId) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.id.covers(ring))
    }

    /// Gives up the worker of a ring, which does not answer. Its lane stays out of order.
    pub fn give_up(&self, ring: QueueId) {
        if let Some(lane) = self.lane(ring) {
            // It is told to end outside the lock.
            let state = std::mem::replace(&mut *lane.state(), LaneState::Failed);
            if let LaneState::Running(worker, _) = &state {
                tracing::error!(queue = %lane.id, "the worker is given up; restart vnicd to use it again");
                // It may have other lanes to go on with.
                worker.mailbox().release(lane.id);
            }
            drop(state);
        }
    }

    /// Gives a thread the device's priority. It works without, if that cannot be.
    fn prioritize(&self, thread: i32) {
        if let Err(e) = self.opener.prioritize(self.name.as_str(), thread) {
            tracing::error!(device = %self.name, thread, "no real-time priority: {e}");
        }
    }

    /// Starts the worker of a ring.
    ///
    /// # Errors
    /// When there is no such ring, or the kernel gives no thread. The ring stays out of order then.
    pub fn start_worker(&self, ring: QueueId) -> Result<Arc<Mailbox>, StartError> {
        let error = |source| StartError { id: ring, source };
        let lane = self.lane(ring).ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
        let mut state = lane.state();
        match std::mem::replace(&mut *state, LaneState::Failed) {
            LaneState::Idle(Idle { tx, rx, policy, recorder }) => {
                let place = lane.place();
                let worker = self.workers.find(self.threads, lane.id, place.cpu).map_err(error)?;
                let (processor, (tx, rx)) = match self.threads {
                    Threads::Pipeline => {
                        let name = format!("{}/uplink", lane.id);
                        let spawned = ProcessorHandle::spawn(name, place.processor_cpu, (tx, rx)).map_err(error)?;
                        (Some(spawned.0), spawned.1)
                    }
                    _ => (None, (tx, rx)),
                };
                if place.node.is_some() && place.cpu.is_none() {
                    let processor = processor.as_ref().map(|processor| processor.thread().id);
                    self.settle(&place, Some(worker.thread_id()), processor);
                }
                if let Some(priority) = self.realtime {
                    // One that is shared has the highest of those that share it.
                    if worker.raise_to(priority) {
                        self.prioritize(worker.thread_id());
                    }
                    processor.iter().for_each(|processor| self.prioritize(processor.thread().id));
                }
                let mailbox = worker.mailbox().clone();
                mailbox.adopt(Pair::new(PairSetup {
                    id: lane.id,
                    tx,
                    rx,
                    counters: lane.counters.clone(),
                    uplink_mac: self.uplink_mac,
                    policy,
                    moderation: self.moderation,
                    guard: self.guard.clone(),
                    gauges: lane.gauges.clone(),
                    events: self.events.clone(),
                }));
                if !self.link_up() {
                    mailbox.send(lane.id, Message::Carrier(false));
                }
                if recorder.is_some() {
                    // Nothing copied before.
                    mailbox.send(lane.id, Message::Capture(recorder, sync_channel(1).0));
                }
                *state = LaneState::Running(worker, processor);
                Ok(mailbox)
            }
            LaneState::Running(worker, processor) => {
                let mailbox = worker.mailbox().clone();
                *state = LaneState::Running(worker, processor);
                Ok(mailbox)
            }
            LaneState::Failed => Err(error(io::Error::other("it failed before; restart vnicd"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::nic_with;
    use crate::nic::Placement;
    use crate::worker::{Direction, Nodes};

    fn allowed(thread: i32) -> Vec<usize> {
        let set = rustix::thread::sched_getaffinity(rustix::process::Pid::from_raw(thread)).unwrap();
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    }

    #[test]
    fn threads_run_near_the_memory_from_the_first_ring_on() {
        // As if the last CPU were on a node of its own.
        let own = allowed(0);
        let (first, last) = (own[0], own[own.len() - 1]);
        let nodes = Nodes::from([(0, vec![first]), (1, vec![last])]);
        for threads in [Threads::PerPair, Threads::Pipeline] {
            let nic = nic_with(1, threads, Placement { cpus: Vec::new(), nodes: Some(Arc::new(nodes.clone())) });
            let ring = nic.lanes()[0].id.with(Direction::Rx);
            nic.place(ring, Some(1));
            nic.start_worker(ring).unwrap();
            let (worker, processor) = nic.lanes()[0].thread_ids();
            let threads: Vec<_> = worker.into_iter().chain(processor).collect();
            assert!(threads.iter().all(|thread| allowed(*thread) == [last]), "{threads:?}");
            nic.place(ring, Some(0));
            assert!(threads.iter().all(|thread| allowed(*thread) == [first]), "{threads:?}");
            nic.place(ring, None);
            assert!(threads.iter().all(|thread| allowed(*thread) == own), "{threads:?}");
        }
    }
}
