//! Whether the host reaches the world over an interface (proc_pid_net(5): `route`, `ipv6_route`).

#![forbid(unsafe_code)]

use std::fs;

/// `RTF_REJECT`: a route that only says that there is none.
const REJECT: u32 = 0x200;

/// Whether a default route of this network namespace goes over the interface.
pub(super) fn has_default_route(interface: &str) -> bool {
    let read = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    has_v4(&read("route"), interface) || has_v6(&read("ipv6_route"), interface)
}

fn has_v4(table: &str, interface: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.len() > 7 && fields[0] == interface && fields[1] == "00000000" && fields[7] == "00000000"
    })
}

fn has_v6(table: &str, interface: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_default = fields.len() == 10 && fields[9] == interface && fields[1] == "00";
        is_default && u32::from_str_radix(fields[8], 16).is_ok_and(|flags| flags & REJECT == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert!(has_v4(v4, "eth0") && !has_v4(v4, "eth1") && !has_v4(v4, "Iface"));
        let zero = "0".repeat(32);
        let line = |len: &str, flags: &str, dev: &str| {
            format!("{zero} {len} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {dev}\n")
        };
        let v6 = line("00", "00000003", "eth0") + &line("40", "00000001", "eth1") + &line("00", "00200200", "lo");
        assert!(has_v6(&v6, "eth0") && !has_v6(&v6, "eth1") && !has_v6(&v6, "lo"));
    }
}
