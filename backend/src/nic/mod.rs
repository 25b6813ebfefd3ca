//! A virtual NIC: its queue pairs, their uplink queues and the workers that serve them.
//!
//! Front ends come and go; the device stays. A worker is started at the first ring of its pair.

#![forbid(unsafe_code)]

mod features;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

pub use features::{FeatureNames, offered, understood};

use crate::offload::Offloads;
use crate::uplink::{Rx, Tx};
use crate::worker::{DeviceCounters, DeviceName, Mailbox, PairCounters, PairSetup, QueueId, WorkerHandle};

/// Least MTU that IP allows (RFC 791).
pub const MIN_MTU: u16 = 68;

/// Most queue pairs of a device.
pub const MAX_QUEUE_PAIRS: u16 = 32;

/// What a device is made of.
#[derive(Debug)]
pub struct NicSetup {
    /// Its name.
    pub name: DeviceName,
    /// The halves of an uplink queue for each of its pairs.
    pub uplinks: Vec<(Tx, Rx)>,
    /// What the uplink is, in words.
    pub uplink: String,
    /// What the uplink takes and gives.
    pub offloads: Offloads,
    /// Largest ring that is accepted.
    pub max_queue_size: u16,
    /// CPUs that its workers are pinned to, in turn; none: they run where the kernel likes.
    pub cpus: Vec<usize>,
}

/// A virtual NIC.
#[derive(Debug)]
pub struct Nic {
    name: DeviceName,
    uplink: String,
    offered: u64,
    max_queue_size: u16,
    cpus: Vec<usize>,
    counters: DeviceCounters,
    pairs: Vec<Mutex<PairState>>,
    front_end: Mutex<Option<FrontEnd>>,
}

/// The front end that a device has, as far as others care.
#[derive(Clone, Debug, Default)]
pub struct FrontEnd {
    /// Its process.
    pub pid: i32,
    /// The features that its driver acknowledged.
    pub features: Option<u64>,
    /// Its rings that are started.
    pub started: Vec<QueueId>,
}

#[derive(Debug)]
enum PairState {
    Idle(Tx, Rx),
    Running(WorkerHandle),
    /// No thread was to be had.
    Failed,
}

/// A pair's worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the worker of {id}")]
pub struct StartError {
    id: QueueId,
    #[source]
    source: io::Error,
}

impl Nic {
    /// Makes a device. Nothing runs yet.
    #[must_use]
    pub fn new(setup: NicSetup) -> Self {
        let pairs: Vec<_> = setup.uplinks.into_iter().map(|(tx, rx)| Mutex::new(PairState::Idle(tx, rx))).collect();
        Self {
            name: setup.name,
            uplink: setup.uplink,
            offered: offered(setup.offloads, pairs.len()),
            max_queue_size: setup.max_queue_size,
            cpus: setup.cpus,
            counters: pairs.iter().map(|_| Arc::new(PairCounters::default())).collect(),
            pairs,
            front_end: Mutex::new(None),
        }
    }

    /// What the uplink is, in words.
    #[must_use]
    pub fn uplink(&self) -> &str {
        &self.uplink
    }

    /// The front end that is connected.
    #[must_use]
    pub fn front_end(&self) -> Option<FrontEnd> {
        self.front_end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes who is connected.
    pub fn set_front_end(&self, front_end: Option<FrontEnd>) {
        *self.front_end.lock().unwrap_or_else(PoisonError::into_inner) = front_end;
    }

    /// Its name, the first part of its queues' names.
    #[must_use]
    pub fn name(&self) -> DeviceName {
        self.name
    }

    /// The features that a driver may choose from (virtio 1.3, 6 and vhost-user).
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Largest ring that is accepted.
    #[must_use]
    pub fn max_queue_size(&self) -> u16 {
        self.max_queue_size
    }

    /// Number of rings: two a pair.
    #[must_use]
    pub fn rings(&self) -> u16 {
        self.pairs.len() as u16 * 2
    }

    /// The counters of all pairs.
    #[must_use]
    pub fn counters(&self) -> &DeviceCounters {
        &self.counters
    }

    /// The worker of pair number `pair`, if it was started.
    #[must_use]
    pub fn worker(&self, pair: u16) -> Option<Arc<Mailbox>> {
        let state = self.pairs.get(usize::from(pair))?.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            PairState::Running(worker) => Some(worker.mailbox().clone()),
            PairState::Idle(..) | PairState::Failed => None,
        }
    }

    /// Starts the worker of pair number `pair`.
    ///
    /// # Errors
    /// When the kernel gives no thread. The pair stays out of order then.
    ///
    /// # Panics
    /// When there is no such pair: callers check ring numbers against [`Nic::rings`].
    pub fn start_worker(&self, pair: u16) -> Result<Arc<Mailbox>, StartError> {
        let at = usize::from(pair);
        let id = QueueId::pair(self.name, pair);
        let mut state = self.pairs[at].lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, PairState::Failed) {
            PairState::Idle(tx, rx) => {
                let setup = PairSetup { id, tx, rx, counters: self.counters[at].clone() };
                let cpu = (!self.cpus.is_empty()).then(|| self.cpus[at % self.cpus.len()]);
                let worker = WorkerHandle::spawn(setup, cpu).map_err(|source| StartError { id, source })?;
                let mailbox = worker.mailbox().clone();
                *state = PairState::Running(worker);
                Ok(mailbox)
            }
            PairState::Running(worker) => {
                let mailbox = worker.mailbox().clone();
                *state = PairState::Running(worker);
                Ok(mailbox)
            }
            PairState::Failed => Err(StartError { id, source: io::Error::other("it failed before") }),
        }
    }
}
