//! TAP and macvtap uplinks.

use std::fs::File;

use super::finding::Finding;
use super::host::{Capability, Host, hexadecimal};

/// Flags of a TAP (`linux/if_tun.h`).
const IFF_TAP: u32 = 0x0002;
const IFF_MULTI_QUEUE: u32 = 0x0100;
const IFF_VNET_HDR: u32 = 0x4000;

const DEVICE: &str = "dev/net/tun";

/// A TAP that the device is to have.
pub(super) fn tap(host: &Host, device: &str, name: &str, bridge: Option<&str>, pairs: u16) -> Vec<Finding> {
    let mut findings = vec![];
    let opened = File::options().read(true).write(true).open(host.path(DEVICE));
    if let Err(e) = opened {
        let mend = match e.kind() {
            std::io::ErrorKind::NotFound => "load its module: modprobe tun",
            _ => "give your user the right to it: it mostly is for everybody (mode 666)",
        };
        findings.push(Finding::bad(device, format!("/{DEVICE} cannot be opened: {e}"), mend));
    }
    let may_make = host.has(Capability::NetAdmin);
    if name.contains("%d") || !host.has_interface(name) {
        findings.push(if may_make {
            Finding::good(device, format!("the TAP '{name}' is made when vnicd starts"))
        } else {
            let made = name.replace("%d", "0");
            Finding::bad(
                device,
                format!("the TAP '{name}' is missing, and you have no CAP_NET_ADMIN to make it"),
                format!(
                    "as root: ip tuntap add dev {made} mode tap multi_queue vnet_hdr user $USER; ip link set {made} up"
                ),
            )
        });
    } else {
        findings.extend(there_is(host, device, name, pairs));
    }
    findings.extend(bridge.map(|bridge| port(host, device, bridge, may_make)));
    findings
}

/// A TAP that is there already.
fn there_is(host: &Host, device: &str, name: &str, pairs: u16) -> Vec<Finding> {
    let Some(flags) = hexadecimal(host.interface(name, "tun_flags")).filter(|flags| flags & IFF_TAP != 0) else {
        let mend = format!("name another: ip link show {name} tells what it is");
        return vec![Finding::bad(device, format!("the interface '{name}' is no TAP"), mend)];
    };
    let mut findings = vec![];
    let owner = host.interface(name, "owner").and_then(|owner| owner.parse::<i64>().ok()).unwrap_or(-1);
    if owner != i64::from(host.user) && !host.has(Capability::NetAdmin) {
        findings.push(Finding::bad(
            device,
            format!("the TAP '{name}' is not yours, and you have no CAP_NET_ADMIN"),
            format!("as root: ip tuntap del dev {name} mode tap; ip tuntap add dev {name} mode tap multi_queue vnet_hdr user $USER"),
        ));
    }
    if flags & IFF_MULTI_QUEUE == 0 && pairs > 1 {
        findings.push(Finding::note(
            device,
            format!("the TAP '{name}' has a single queue: the guest gets one queue pair, not {pairs}"),
            "make it with multi_queue, if the guest is to have more",
        ));
    }
    if flags & IFF_VNET_HDR == 0 && !host.has(Capability::NetAdmin) {
        findings.push(Finding::note(
            device,
            format!("the TAP '{name}' was made without vnet_hdr"),
            "make it with vnet_hdr: without it there are no offloads",
        ));
    }
    if !host.is_up(name) {
        findings.push(Finding::bad(
            device,
            format!("the TAP '{name}' is down: frames of the guest are dropped"),
            format!("ip link set {name} up"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good(device, format!("the TAP '{name}' is there, up, and may be opened")));
    }
    findings
}

/// The bridge that a TAP is to be a port of.
fn port(host: &Host, device: &str, bridge: &str, may_change: bool) -> Finding {
    if !host.has_interface(bridge) {
        let mend = format!("ip link add {bridge} type bridge; ip link set {bridge} up");
        return Finding::bad(device, format!("the bridge '{bridge}' is missing"), mend);
    }
    if !host.path(format!("sys/class/net/{bridge}/bridge")).exists() {
        return Finding::bad(
            device,
            format!("the interface '{bridge}' is no bridge"),
            "name one: ip link show type bridge",
        );
    }
    if !may_change {
        let mend = format!("start vnicd with it, or leave bridge= away and as root: ip link set TAP master {bridge}");
        return Finding::bad(device, format!("to make a port of '{bridge}' takes CAP_NET_ADMIN"), mend);
    }
    if !host.is_up(bridge) {
        return Finding::bad(device, format!("the bridge '{bridge}' is down"), format!("ip link set {bridge} up"));
    }
    Finding::good(device, format!("the bridge '{bridge}' is there and up"))
}

/// A macvtap interface.
pub(super) fn macvtap(host: &Host, device: &str, name: &str) -> Vec<Finding> {
    if !host.has_interface(name) {
        let mend =
            format!("as root: ip link add link eth0 name {name} type macvtap mode bridge; ip link set {name} up");
        return vec![Finding::bad(device, format!("the macvtap '{name}' is missing"), mend)];
    }
    let index = host.interface(name, "ifindex");
    let Some(index) = index.filter(|index| host.path(format!("sys/class/net/{name}/tap{index}")).exists()) else {
        let mend = "name one: ip link show type macvtap";
        return vec![Finding::bad(device, format!("the interface '{name}' is no macvtap"), mend)];
    };
    let node = format!("dev/tap{index}");
    match File::options().read(true).write(true).open(host.path(&node)) {
        Err(e) => {
            let mend = format!("it is made by udev, and belongs to root: chown YOU /{node}, or start vnicd as root");
            vec![Finding::bad(device, format!("/{node}, the device of '{name}', cannot be opened: {e}"), mend)]
        }
        Ok(_) if !host.is_up(name) => {
            vec![Finding::bad(device, format!("the macvtap '{name}' is down"), format!("ip link set {name} up"))]
        }
        Ok(_) => {
            let address = host.interface(name, "address").unwrap_or_default();
            let what =
                format!("the macvtap '{name}' is there and up; the guest's NIC must have its address, {address}");
            vec![Finding::good(device, what)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::host::testing::machine;
    use super::*;

    const NET_ADMIN: &[Capability] = &[Capability::NetAdmin];

    /// What is wrong, in one text.
    fn faults(findings: &[Finding]) -> String {
        findings.iter().filter(|finding| finding.grade != Grade::Good).map(ToString::to_string).collect()
    }

    #[test]
    fn a_tap_is_made_or_must_be_there() {
        let root = machine(&[("dev/net/tun", "")]);
        let admin = Host::of_files(root.path(), 0, NET_ADMIN);
        assert_eq!(faults(&tap(&admin, "vm1", "vnic%d", None, 4)), "");
        assert_eq!(faults(&tap(&admin, "vm1", "tap7", None, 4)), "");
        let user = Host::of_files(root.path(), 1000, &[]);
        let told = faults(&tap(&user, "vm1", "tap7", None, 4));
        assert!(told.contains("CAP_NET_ADMIN") && told.contains("ip tuntap add dev tap7"), "{told}");
        let bare = machine(&[("proc/", "")]);
        let told = faults(&tap(&Host::of_files(bare.path(), 0, NET_ADMIN), "vm1", "tap7", None, 4));
        assert!(told.contains("modprobe tun"), "{told}");
    }

    #[test]
    fn a_tap_that_is_there_is_looked_at() {
        let tap_with = |flags: &str, owner: &str, up: &str| {
            machine(&[
                ("dev/net/tun", ""),
                ("sys/class/net/tap0/tun_flags", flags),
                ("sys/class/net/tap0/owner", owner),
                ("sys/class/net/tap0/flags", up),
            ])
        };
        for (flags, owner, up, pairs, part) in [
            ("0x5102\n", "1000\n", "0x1003\n", 4, ""),
            ("0x5102\n", "-1\n", "0x1003\n", 4, "is not yours"),
            ("0x5102\n", "1001\n", "0x1003\n", 4, "is not yours"),
            ("0x5002\n", "1000\n", "0x1003\n", 4, "single queue"),
            ("0x5002\n", "1000\n", "0x1003\n", 1, ""),
            ("0x1102\n", "1000\n", "0x1003\n", 1, "vnet_hdr"),
            ("0x5102\n", "1000\n", "0x1002\n", 1, "ip link set tap0 up"),
            ("0x5001\n", "1000\n", "0x1003\n", 1, "is no TAP"),
        ] {
            let root = tap_with(flags, owner, up);
            let told = faults(&tap(&Host::of_files(root.path(), 1000, &[]), "vm1", "tap0", None, pairs));
            assert!(told.is_empty() == part.is_empty() && told.contains(part), "{flags} {owner} {up}: {told}");
        }
    }

    #[test]
    fn a_bridge_must_be_one_and_up() {
        let root = machine(&[
            ("dev/net/tun", ""),
            ("sys/class/net/br0/bridge/", ""),
            ("sys/class/net/br0/flags", "0x1003"),
            ("sys/class/net/br1/bridge/", ""),
            ("sys/class/net/br1/flags", "0x1002"),
            ("sys/class/net/eth0/flags", "0x1003"),
        ]);
        let told = |bridge, capabilities| {
            faults(&tap(&Host::of_files(root.path(), 0, capabilities), "vm1", "vnic%d", Some(bridge), 1))
        };
        assert_eq!(told("br0", NET_ADMIN), "");
        assert!(told("br1", NET_ADMIN).contains("is down"));
        assert!(told("br2", NET_ADMIN).contains("is missing"));
        assert!(told("eth0", NET_ADMIN).contains("is no bridge"));
        assert!(told("br0", &[]).contains("takes CAP_NET_ADMIN"));
    }

    #[test]
    fn a_macvtap_has_a_device_of_its_own() {
        let root = machine(&[
            ("sys/class/net/mv0/ifindex", "7\n"),
            ("sys/class/net/mv0/flags", "0x1003"),
            ("sys/class/net/mv0/tap7/", ""),
            ("dev/tap7", ""),
            ("sys/class/net/mv1/ifindex", "8"),
            ("sys/class/net/mv1/tap8/", ""),
            ("sys/class/net/eth0/ifindex", "2"),
        ]);
        let told = |name| faults(&macvtap(&Host::of_files(root.path(), 0, &[]), "vm1", name));
        assert_eq!(told("mv0"), "");
        assert!(told("mv1").contains("/dev/tap8"));
        assert!(told("mv2").contains("is missing"));
        assert!(told("eth0").contains("is no macvtap"));
    }
}
