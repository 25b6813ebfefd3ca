//! On which CPUs the threads of a NIC run.

use std::sync::Arc;

use crate::worker::{Nodes, Threads};

/// What decides.
#[derive(Clone, Debug)]
pub struct Placement {
    /// CPUs that were named, in turn; none: wherever the kernel likes.
    pub cpus: Vec<usize>,
    /// The host's nodes, if threads are to be near the guest's memory.
    pub nodes: Option<Arc<Nodes>>,
}

/// Where the threads of a lane run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The node of the guest's memory, if that decides.
    pub node: Option<usize>,
    /// The CPU that its worker is pinned to, if it is.
    pub cpu: Option<usize>,
    /// The CPU that its processor is pinned to, if it has one and that is.
    pub processor_cpu: Option<usize>,
}

impl Placement {
    /// The place of lane number `lane`, whose guest's memory is on `node` if that is known. Of the CPUs that were named,
    /// those of the node are taken, and all if none is.
    pub(super) fn place(&self, lane: usize, threads: Threads, node: Option<usize>) -> Place {
        let node = node.filter(|node| !self.near(*node).is_empty());
        let near: Vec<_> = match node {
            Some(node) => self.cpus.iter().copied().filter(|cpu| self.near(node).contains(cpu)).collect(),
            None => Vec::new(),
        };
        let cpus = if near.is_empty() { &self.cpus } else { &near };
        let mut turn = cpus.iter().copied().cycle();
        let (cpu, processor_cpu) = if threads == Threads::Pipeline {
            (turn.clone().nth(2 * lane), turn.nth(2 * lane + 1))
        } else {
            (turn.nth(lane), None)
        };
        Place { node, cpu, processor_cpu }
    }

    /// The CPUs near the memory of a node; none if that does not matter.
    pub(super) fn near(&self, node: usize) -> &[usize] {
        self.nodes.as_ref().map_or(&[], |nodes| nodes.cpus(node))
    }
}

/// Lets a thread run on these CPUs only; on all that the process may use if there are none.
pub(super) fn set_affinity(thread: i32, cpus: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    match cpus {
        [] => set = rustix::thread::sched_getaffinity(None).unwrap_or(set),
        _ => cpus.iter().for_each(|cpu| set.set(*cpu)),
    }
    if let Err(e) = rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(thread), &set) {
        tracing::warn!(thread, ?cpus, "a thread stays where it is: {}", std::io::Error::from(e));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(cpus: &[usize], by_node: bool) -> Placement {
        let nodes = Nodes::from([(0, vec![0, 1, 2, 3]), (1, vec![4, 5, 6, 7])]);
        Placement { cpus: cpus.into(), nodes: by_node.then(|| Arc::new(nodes)) }
    }

    #[test]
    fn lanes_take_turns_on_the_cpus_that_were_named() {
        let cpus = placement(&[2, 5], false);
        let at = |lane, threads| cpus.place(lane, threads, Some(1));
        assert_eq!([0, 1, 2].map(|lane| at(lane, Threads::PerPair).cpu), [Some(2), Some(5), Some(2)]);
        assert_eq!(at(1, Threads::Pipeline), Place { node: None, cpu: Some(2), processor_cpu: Some(5) });
        assert_eq!(placement(&[], false).place(3, Threads::PerPair, Some(1)), Place::default());
    }

    #[test]
    fn memory_chooses_among_them() {
        let cpus = placement(&[2, 5, 6], true);
        let cpu = |lane, node| cpus.place(lane, Threads::PerCpu, node).cpu;
        assert_eq!([0, 1, 2].map(|lane| cpu(lane, Some(1))), [Some(5), Some(6), Some(5)]);
        assert_eq!([0, 1, 2].map(|lane| cpu(lane, Some(0))), [Some(2); 3]);
        // Memory whose place is not known, and a node without any of the CPUs.
        assert_eq!([0, 1, 2].map(|lane| cpu(lane, None)), [Some(2), Some(5), Some(6)]);
        assert_eq!(placement(&[2], true).place(0, Threads::PerPair, Some(1)).cpu, Some(2));
        // With no CPU named, any of the node.
        let any = placement(&[], true);
        assert_eq!(any.place(0, Threads::PerPair, Some(1)), Place { node: Some(1), ..Place::default() });
        assert_eq!(any.place(0, Threads::PerPair, Some(7)), Place::default());
        assert_eq!(any.near(1), [4, 5, 6, 7]);
    }
}
