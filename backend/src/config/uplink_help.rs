//! What `--help`, the manual and the reference say about uplinks.

/// The option in short.
pub(super) const SHORT: &str = "Where packets go: tap=NAME, tap-fd=N[:N...], macvtap=IFNAME, af-xdp=IFNAME, or for \
                                tests discard, generate and loopback";

/// Each uplink, and each of its options, which begins with the comma that stands before it; and what it means.
pub const UPLINKS: &[(&str, &str)] = &[
    ("tap=NAME", "a TAP, made or opened; the kernel replaces %d in the name by a free number"),
    (",bridge=BR", "makes it a port of this bridge"),
    (
        ",sndbuf=BYTES",
        "bounds what it keeps for a slow receiver, from 1, so that the guest is held up instead of packets lost",
    ),
    (",persist", "leaves it behind at the end"),
    ("tap-fd=N[:N...]", "open queues of a TAP, each with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; needs no rights"),
    (
        "macvtap=IFNAME",
        "a macvtap interface; the guest must have its MAC address, and a log line says so when it has not",
    ),
    ("af-xdp=IFNAME", "queues of a network interface, without the kernel's stack"),
    (",queue=N", "the first of them [default: 0]"),
    (",mode=auto|zerocopy|copy|skb", "how frames come and go [default: auto]"),
    (",steer=all|mac", "takes all frames, or those for --mac [default: all]"),
    (",force", "even if the default route goes over the interface"),
    (",fds=N[:N...]", "sockets that somebody else opened, one a queue, and sends frames to"),
    ("discard", "for tests: every packet is read, added up and dropped"),
    (",unread", "dropped without being read"),
    ("generate", "for tests: the same frame as often as the guest has room for it; what it sends is dropped"),
    (",len=BYTES", "the frame's length, 42 to 9018 [default: 64]"),
    ("loopback", "for tests: every packet returns to its guest with its MAC addresses swapped"),
];

/// The option with all uplinks.
pub(super) fn long() -> String {
    let line = |(spec, means): &(&str, &str)| {
        let indent = if spec.starts_with(',') { "  " } else { "" };
        format!("\n\n{indent}{spec}: {means}")
    };
    let lines: String = UPLINKS.iter().map(line).collect();
    format!("Where packets go: one of these, with its options after it{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UplinkSpec;

    /// An example of a specification as it is written here.
    fn example(spec: &str) -> String {
        let spec = spec.replace("[:N...]", "").replace("IFNAME", "eth1").replace("NAME", "t").replace("BR", "br0");
        let spec = spec.replace("BYTES", "64").replace("=N", "=3");
        spec.split('|').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_is_told_is_possible() {
        let mut uplink = "";
        for (spec, _) in UPLINKS {
            let whole = if spec.starts_with(',') { format!("{uplink}{spec}") } else { (*spec).to_owned() };
            example(&whole).parse::<UplinkSpec>().unwrap();
            if !spec.starts_with(',') {
                uplink = spec;
            }
        }
    }

    /// Each name of an uplink that an error tells, and each option, is explained.
    #[test]
    fn what_is_possible_is_told() {
        let told = |name: &str| UPLINKS.iter().any(|(spec, _)| spec.trim_start_matches(',').starts_with(name));
        for wrong in ["moon", "tap=t,moon", "af-xdp=e,moon", "generate,moon"] {
            let error = wrong.parse::<UplinkSpec>().unwrap_err();
            let (_, possible) = error.split_once("use ").unwrap();
            for name in possible.replace(" or ", ", ").split(", ") {
                let name = name.split(['=', ' ']).next().unwrap_or_default();
                assert!(name.is_empty() || name == "each" || name == "42" || told(name), "{name} of \"{error}\"");
            }
        }
    }
}
