//! AF_XDP uplinks.

use std::process::Command;

use vnicd::config::XdpSpec;

use super::finding::Finding;
use super::host::{Capability, Host};

/// What opening the sockets and the program takes.
const NEEDED: [(Capability, &str); 3] =
    [(Capability::NetRaw, "CAP_NET_RAW"), (Capability::NetAdmin, "CAP_NET_ADMIN"), (Capability::Bpf, "CAP_BPF")];

/// Locked memory of a queue, in KiB.
const LOCKED_KIB: u64 = 6 << 10;

/// Queues of an interface that the device is to have.
pub(super) fn examine(host: &Host, device: &str, spec: &XdpSpec, pairs: u16) -> Vec<Finding> {
    let name = &spec.interface;
    if !host.has_interface(name) {
        let mend = "name one that is there: ip link show; in another network namespace vnicd must run there, too";
        return vec![Finding::bad(device, format!("the interface '{name}' is missing"), mend)];
    }
    let mut findings = vec![];
    let queues = host.names(&format!("sys/class/net/{name}/queues"));
    let queues = queues.iter().filter(|queue| queue.starts_with("rx-")).count();
    if spec.queue as usize >= queues {
        let what = format!(
            "'{name}' has {queues} queues, numbers 0 to {}: there is no queue {}",
            queues.max(1) - 1,
            spec.queue
        );
        let mend = format!("choose another with queue=N, or ethtool -L {name} combined {}", spec.queue + 1);
        findings.push(Finding::bad(device, what, mend));
    } else if spec.queue as usize + usize::from(pairs) < queues {
        let what =
            format!("'{name}' has {queues} queues, and frames on those that are not the guest's do not reach it");
        let mend = "have the NIC sort its frames: docs/af-xdp.md says how";
        findings.push(Finding::note(device, what, mend));
    }
    if spec.fds.is_empty() {
        findings.extend(rights(host, device));
        if !spec.by_mac && !spec.force && is_default_route(host, name) {
            let what = format!("the default route goes over '{name}', and steer=all takes every frame from the host");
            let mend = "use steer=mac with --mac, another interface, or force if this is meant";
            findings.push(Finding::bad(device, what, mend));
        }
    }
    if !host.is_up(name) {
        findings.push(Finding::bad(device, format!("'{name}' is down"), format!("ip link set {name} up")));
    }
    findings.extend(veth(host, device, name));
    if findings.is_empty() {
        findings
            .push(Finding::good(device, format!("queue {} of '{name}' is there, up, and may be opened", spec.queue)));
    }
    findings
}

fn rights(host: &Host, device: &str) -> Option<Finding> {
    let missing: Vec<_> =
        NEEDED.iter().filter(|(capability, _)| !host.has(*capability)).map(|(_, name)| *name).collect();
    if !missing.is_empty() {
        let what = format!("AF_XDP takes {}, which you lack", missing.join(", "));
        return Some(Finding::bad(
            device,
            what,
            "start vnicd as root or with these, or pass open sockets: fds=N[:N...]",
        ));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let is_enough = host.has(Capability::IpcLock) || limit.is_none_or(|bytes| bytes >> 10 >= LOCKED_KIB);
    (!is_enough).then(|| {
        let what = format!("the limit of locked memory is below the {LOCKED_KIB} KiB that a queue takes");
        Finding::bad(device, what, "raise it: ulimit -l, LimitMEMLOCK= of a unit, or CAP_IPC_LOCK")
    })
}

fn is_default_route(host: &Host, name: &str) -> bool {
    let routes = host.read("proc/net/route").unwrap_or_default();
    routes.lines().any(|line| line.split_whitespace().take(2).eq([name, "00000000"]))
}

/// The far end of a veth pair leaves checksums unfinished, which receivers behind AF_XDP take for spoilt frames.
fn veth(host: &Host, device: &str, name: &str) -> Option<Finding> {
    let far = host.interface(name, "iflink").filter(|far| host.interface(name, "ifindex").as_ref() != Some(far))?;
    // Interfaces on top of others say so.
    if host.names(&format!("sys/class/net/{name}")).iter().any(|entry| entry.starts_with("lower_")) {
        return None;
    }
    let peer = host
        .names("sys/class/net")
        .into_iter()
        .find(|other| other != name && host.interface(other, "ifindex").as_ref() == Some(&far));
    let Some(peer) = peer else {
        let what = format!("'{name}' is one end of a veth pair, and the other end is in another network namespace");
        return Some(Finding::note(device, what, "have that end finish its checksums: ethtool -K PEER tx off"));
    };
    let printed = Command::new("ethtool").args(["-k", &peer]).output().ok().filter(|output| output.status.success());
    let Some(printed) = printed else {
        let what = format!("'{name}' is one end of a veth pair, and ethtool cannot be asked about the other, '{peer}'");
        return Some(Finding::note(device, what, format!("have it finish its checksums: ethtool -K {peer} tx off")));
    };
    leaves_checksums(&String::from_utf8_lossy(&printed.stdout)).then(|| {
        let what = format!(
            "the other end of '{name}', '{peer}', leaves its checksums unfinished: the guest drops its TCP and UDP"
        );
        Finding::bad(device, what, format!("ethtool -K {peer} tx off"))
    })
}

/// Whether `ethtool -k` says so.
fn leaves_checksums(printed: &str) -> bool {
    printed.lines().any(|line| line.trim().starts_with("tx-checksumming: on"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::host::testing::machine;
    use super::*;

    const ALL: &[Capability] = &[Capability::NetAdmin, Capability::NetRaw, Capability::Bpf, Capability::IpcLock];

    fn spec(words: &str) -> XdpSpec {
        match words.parse().unwrap() {
            vnicd::config::UplinkSpec::AfXdp(spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_keeps_af_xdp_from_working_is_found() {
        let root = machine(&[
            ("sys/class/net/eth0/queues/rx-0/", ""),
            ("sys/class/net/eth0/queues/tx-0/", ""),
            ("sys/class/net/eth0/flags", "0x1003"),
            ("sys/class/net/eth0/ifindex", "2"),
            ("sys/class/net/eth0/iflink", "2"),
            ("sys/class/net/eth1/queues/rx-0/", ""),
            ("sys/class/net/eth1/queues/rx-1/", ""),
            ("sys/class/net/eth1/flags", "0x1002"),
            ("sys/class/net/ve0/queues/rx-0/", ""),
            ("sys/class/net/ve0/flags", "0x1003"),
            ("sys/class/net/ve0/ifindex", "5"),
            ("sys/class/net/ve0/iflink", "6"),
            ("sys/class/net/vlan0/queues/rx-0/", ""),
            ("sys/class/net/vlan0/flags", "0x1003"),
            ("sys/class/net/vlan0/ifindex", "8"),
            ("sys/class/net/vlan0/iflink", "2"),
            ("sys/class/net/vlan0/lower_eth0/", ""),
            ("proc/net/route", "Iface\tDestination\tGateway\neth0\t00000000\t0100A8C0\n"),
        ]);
        let told = |words, pairs, capabilities| {
            let host = Host::of_files(root.path(), 0, capabilities);
            let findings = examine(&host, "vm1", &spec(words), pairs);
            findings.iter().filter(|finding| finding.grade != Grade::Good).map(ToString::to_string).collect::<String>()
        };
        for (words, pairs, capabilities, part) in [
            ("af-xdp=eth0,force", 1, ALL, ""),
            ("af-xdp=vlan0", 1, ALL, ""),
            ("af-xdp=eth0,fds=3", 1, &[], ""),
            ("af-xdp=eth0", 1, ALL, "default route"),
            ("af-xdp=eth9", 1, ALL, "is missing"),
            ("af-xdp=eth0,queue=1,force", 1, ALL, "there is no queue 1"),
            ("af-xdp=eth1", 1, ALL, "have the NIC sort"),
            ("af-xdp=eth1", 2, ALL, "ip link set eth1 up"),
            ("af-xdp=eth0,force", 1, &[Capability::NetAdmin], "CAP_NET_RAW, CAP_BPF"),
            ("af-xdp=ve0", 1, ALL, "tx off"),
        ] {
            let told = told(words, pairs, capabilities);
            assert!(told.is_empty() == part.is_empty() && told.contains(part), "{words}: {told}");
        }
    }

    #[test]
    fn unfinished_checksums_are_read_from_ethtool() {
        assert!(leaves_checksums("Features for ve1:\nrx-checksumming: on\ntx-checksumming: on\n"));
        assert!(!leaves_checksums("Features for ve1:\nrx-checksumming: on\ntx-checksumming: off\n"));
    }
}
