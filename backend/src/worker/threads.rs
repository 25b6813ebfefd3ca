//! Which thread serves what.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::{QueueId, WorkerHandle};

/// How a device's packets are shared out among threads.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Threads {
    /// A worker for each queue pair.
    #[default]
    PerPair,
    /// A worker for each CPU; it serves every pair that is mapped to its CPU, of all devices that ask for this.
    PerCpu,
    /// A worker for each direction of a pair, with a mode of its own.
    PerDirection,
    /// Two for each pair, one after the other: a worker that moves packets between rings and a queue, and a processor that
    /// sends and receives them.
    Pipeline,
}

/// The workers that serve pairs of several devices.
#[derive(Debug, Default)]
pub struct Workers {
    by_cpu: Mutex<HashMap<usize, Weak<WorkerHandle>>>,
}

impl Workers {
    /// A worker for what is called `id`, on CPU `cpu` if one is given: a new one, or the one that the CPU has.
    ///
    /// # Errors
    /// When the kernel gives no thread, epoll or eventfd.
    pub fn find(&self, threads: Threads, id: QueueId, cpu: Option<usize>) -> io::Result<Arc<WorkerHandle>> {
        let (Threads::PerCpu, Some(cpu)) = (threads, cpu) else {
            return WorkerHandle::spawn(id.to_string(), cpu).map(Arc::new);
        };
        let mut by_cpu = self.by_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        // One that does not answer is left to those that it has.
        let known = by_cpu.get(&cpu).and_then(Weak::upgrade).filter(|worker| !worker.mailbox().is_stuck());
        if let Some(worker) = known {
            return Ok(worker);
        }
        let worker = Arc::new(WorkerHandle::spawn(format!("cpu{cpu}"), Some(cpu))?);
        by_cpu.insert(cpu, Arc::downgrade(&worker));
        Ok(worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workers_of_a_cpu_are_shared() {
        let id = |pair| QueueId::pair("nic0".parse().unwrap(), pair);
        let workers = Workers::default();
        let find = |threads, pair, cpu| workers.find(threads, id(pair), cpu).unwrap();
        let first = find(Threads::PerCpu, 0, Some(0));
        assert!(Arc::ptr_eq(&first, &find(Threads::PerCpu, 1, Some(0))));
        assert_eq!((first.name(), Arc::strong_count(&first)), ("cpu0", 1));
        let own = find(Threads::PerPair, 1, Some(0));
        assert!(!Arc::ptr_eq(&own, &find(Threads::PerPair, 1, Some(0))));
        assert_eq!(own.name(), "nic0/1");
    }
}
