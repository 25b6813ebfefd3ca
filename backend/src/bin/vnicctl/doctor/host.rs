//! The machine, as its files tell of it, and the kernel's version.

use std::fs;
use std::path::{Path, PathBuf};

use super::finding::Finding;

/// What versions of Linux bring that vnicd uses.
const BRINGS: [(u32, u32, &str); 3] = [
    (6, 2, "UDP segmentation over a TAP (USO)"),
    (6, 6, "jumbo frames over AF_XDP"),
    (6, 17, "a whole burst in one call over AF_XDP"),
];

/// The oldest Linux that vnicd is made for.
const OLDEST: (u32, u32) = (5, 15);

/// A machine whose files lie under a directory.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
    pub(super) user: u32,
    /// Effective capabilities of whoever asks, a bit each.
    capabilities: u64,
}

/// Capabilities (capabilities(7)) by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    SysAdmin = 21,
    Bpf = 39,
}

impl Host {
    /// This machine, for whoever runs this.
    pub(super) fn here() -> Self {
        let user = rustix::process::geteuid().as_raw();
        let mut host = Self { root: "/".into(), user, capabilities: 0 };
        host.capabilities = host.read_capabilities().unwrap_or(0);
        host
    }

    /// A machine made of files, for tests.
    #[cfg(test)]
    pub(super) fn of_files(root: &Path, user: u32, capabilities: &[Capability]) -> Self {
        let bits = capabilities.iter().fold(0, |bits, capability| bits | 1 << *capability as u32);
        Self { root: root.to_owned(), user, capabilities: bits }
    }

    fn read_capabilities(&self) -> Option<u64> {
        let status = self.read("proc/self/status")?;
        u64::from_str_radix(status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim(), 16).ok()
    }

    pub(super) fn has(&self, capability: Capability) -> bool {
        self.capabilities & 1 << capability as u32 != 0
            || capability == Capability::Bpf && self.has(Capability::SysAdmin)
    }

    /// Where a file lies that is named without the first slash.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        let name = name.as_ref();
        self.root.join(name.strip_prefix("/").unwrap_or(name))
    }

    /// A file's text, without white space around it; none if there is none.
    pub(super) fn read(&self, name: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.path(name)).ok().map(|text| text.trim().to_owned())
    }

    /// What the kernel says about an interface; none if it has no such thing, or there is no such interface.
    pub(super) fn interface(&self, name: &str, attribute: &str) -> Option<String> {
        self.read(format!("sys/class/net/{name}/{attribute}"))
    }

    pub(super) fn has_interface(&self, name: &str) -> bool {
        self.path(format!("sys/class/net/{name}")).exists()
    }

    /// Whether an interface is set up, whatever its carrier.
    pub(super) fn is_up(&self, name: &str) -> bool {
        hexadecimal(self.interface(name, "flags")).is_some_and(|flags| flags & 1 != 0)
    }

    /// Names in a directory.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// A number as the kernel writes flags: `0x1003`.
pub(super) fn hexadecimal(text: Option<String>) -> Option<u32> {
    u32::from_str_radix(text?.trim_start_matches("0x"), 16).ok()
}

/// The kernel, and what it is too old for.
pub(super) fn kernel(host: &Host) -> Finding {
    let release = host.read("proc/sys/kernel/osrelease").unwrap_or_default();
    let Some(version) = version(&release) else {
        return Finding::note(
            "host",
            format!("the kernel's version '{release}' cannot be read"),
            "vnicd wants Linux 5.15",
        );
    };
    if version < OLDEST {
        return Finding::bad("host", format!("Linux {release} is too old"), "take Linux 5.15 or newer");
    }
    let lacks: Vec<_> = BRINGS.iter().filter(|(major, minor, _)| version < (*major, *minor)).collect();
    let lacks: Vec<_> = lacks.iter().map(|(major, minor, what)| format!("{what} (Linux {major}.{minor})")).collect();
    if lacks.is_empty() {
        Finding::good("host", format!("Linux {release} has all that vnicd uses"))
    } else {
        Finding::good("host", format!("Linux {release} works; newer ones bring {}", lacks.join(", ")))
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Files with their texts; a name that ends in a slash is a directory.
    pub(crate) fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            if name.ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
        root
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::*;

    #[test]
    fn the_kernel_is_judged_by_its_version() {
        for (release, grade, part) in [
            ("6.18.44-fc", Grade::Good, "has all"),
            ("6.1.0-57-cloud-amd64\n", Grade::Good, "jumbo frames over AF_XDP (Linux 6.6)"),
            ("5.15.0", Grade::Good, "USO"),
            ("5.10.0", Grade::Bad, "too old"),
            ("unknown", Grade::Note, "'unknown'"),
        ] {
            let root = testing::machine(&[("proc/sys/kernel/osrelease", release)]);
            let finding = kernel(&Host::of_files(root.path(), 0, &[]));
            assert!(finding.grade == grade && finding.what.contains(part), "{release}: {finding}");
        }
    }

    #[test]
    fn capabilities_are_those_of_whoever_asks() {
        let root = testing::machine(&[("proc/self/status", "Name:\tx\nCapEff:\t0000000000203000\n")]);
        let mut host = Host::of_files(root.path(), 0, &[]);
        host.capabilities = host.read_capabilities().unwrap();
        assert!(host.has(Capability::NetAdmin) && host.has(Capability::NetRaw) && !host.has(Capability::IpcLock));
        assert!(host.has(Capability::Bpf), "CAP_SYS_ADMIN stands for it");
    }
}
