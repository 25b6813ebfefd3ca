//! NUMA nodes of the host: which CPUs are near which memory (Linux, Documentation/ABI/stable/sysfs-devices-node).

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// The CPUs of each node that has any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(BTreeMap<usize, Vec<usize>>);

impl Nodes {
    /// Those of this host; none where the kernel does not tell.
    #[must_use]
    pub fn of_host() -> Self {
        Self::read(Path::new("/sys/devices/system/node")).unwrap_or_else(|e| {
            tracing::debug!("NUMA nodes are not known: {e}");
            Self::default()
        })
    }

    fn read(dir: &Path) -> io::Result<Self> {
        let mut nodes = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Some(node) = entry.file_name().to_str().and_then(|name| name.strip_prefix("node")?.parse().ok()) else {
                continue;
            };
            let cpus = cpus(&fs::read_to_string(entry.path().join("cpulist"))?);
            if !cpus.is_empty() {
                nodes.insert(node, cpus);
            }
        }
        Ok(Self(nodes))
    }

    /// Those of this process's, which may run on `allowed` CPUs only.
    #[must_use]
    pub fn within(mut self, allowed: impl Fn(usize) -> bool) -> Self {
        self.0.values_mut().for_each(|cpus| cpus.retain(|cpu| allowed(*cpu)));
        self
    }

    /// The CPUs of a node; none if it has none, or is not known.
    #[must_use]
    pub fn cpus(&self, node: usize) -> &[usize] {
        self.0.get(&node).map_or(&[], Vec::as_slice)
    }
}

impl<const N: usize> From<[(usize, Vec<usize>); N]> for Nodes {
    fn from(nodes: [(usize, Vec<usize>); N]) -> Self {
        Self(nodes.into())
    }
}

/// A list as the kernel writes it, such as `0-3,8`.
fn cpus(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse::<usize>().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (node, list) in [("node0", "0-2,8\n"), ("node1", "3\n"), ("node2", "\n")] {
            fs::create_dir(dir.path().join(node)).unwrap();
            fs::write(dir.path().join(node).join("cpulist"), list).unwrap();
        }
        fs::write(dir.path().join("online"), "0-2\n").unwrap();
        let nodes = Nodes::read(dir.path()).unwrap();
        assert_eq!([0, 1, 2, 3].map(|node| nodes.cpus(node)), [&[0, 1, 2, 8][..], &[3], &[], &[]]);
        assert_eq!(nodes.within(|cpu| cpu < 2).cpus(0), [0, 1]);
        assert!(Nodes::read(&dir.path().join("nowhere")).is_err());
    }
}
