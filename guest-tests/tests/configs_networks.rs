//! The networks of `configs/`: each script is run as it stands and boots a guest, whose traffic is checked where it comes
//! out: behind a bridge, a switch, an interface of the host's, on another host.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{self, GUEST, HOST};
use guest_tests::openvswitch::OpenVswitch;
use guest_tests::{Guest, NetNs, Script, Side, Slots, transfer};

const BYTES: u64 = 8_000_001;

/// A host and what its interface `eth1` is wired to, which has the address [`HOST`].
struct Wired {
    host: NetNs,
    beyond: NetNs,
}

impl Wired {
    fn new() -> Result<Self> {
        let (host, beyond) = (NetNs::new()?, NetNs::new()?);
        host.sh(&format!("ip link add eth1 type veth peer name far0 netns {} && ip link set eth1 up", beyond.path()))?;
        // Nobody finishes checksums on this wire.
        beyond.sh("ethtool -K far0 tx off")?;
        lab::address_host(&beyond, "far0")?;
        Ok(Self { host, beyond })
    }

    /// Boots a guest by a script, with traffic both ways between it and what is beyond.
    fn joins(&self, script: &Script) -> Result<()> {
        let guest = script.boot(Guest::builder())?;
        lab::address_guest(&guest)?;
        guest.run_ok(&format!("ping -c 2 -i 0.2 -W 5 {HOST}"))?;
        self.beyond.sh(&format!("ping -c 2 -i 0.2 -W 5 {GUEST}"))?;
        transfer::tcp(Side::Guest(&guest), Side::Host(&self.beyond), HOST, BYTES)?;
        transfer::tcp(Side::Host(&self.beyond), Side::Guest(&guest), GUEST, BYTES).map(drop)
    }
}

#[test]
fn a_bridge() -> Result<()> {
    let wired = Wired::new()?;
    wired.joins(&Script::new(&wired.host, "bridge.sh")?.set("PORT", "eth1"))
}

#[test]
fn a_macvtap() -> Result<()> {
    let wired = Wired::new()?;
    wired.joins(&Script::new(&wired.host, "macvtap.sh")?.set("IFNAME", "eth1"))
}

#[test]
fn af_xdp() -> Result<()> {
    let wired = Wired::new()?;
    wired.joins(&Script::new(&wired.host, "af-xdp.sh")?.set("IFNAME", "eth1"))
}

#[test]
fn open_vswitch() -> Result<()> {
    let wired = Wired::new()?;
    let switch = OpenVswitch::start(&wired.host)?;
    let in_kernel = Path::new("/sys/module/openvswitch").exists();
    if !in_kernel {
        lab::left_out("Open vSwitch's kernel module is not loaded: it moves the packets itself");
    }
    let script = switch.known_to(Script::new(&wired.host, "openvswitch.sh")?.set("PORT", "eth1"));
    wired.joins(&if in_kernel { script } else { script.set("DATAPATH", "netdev") })
}

/// Two hosts with a network between them, and a guest on each.
#[test]
fn two_hosts_joined_by_vxlan() -> Result<()> {
    const HOSTS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
    const GUESTS: [&str; 2] = [GUEST, "10.77.0.3"];
    let slots = Slots::take(2);
    let hosts = [NetNs::new()?, NetNs::new()?];
    hosts[0].sh(&format!("ip link add eth1 type veth peer name eth1 netns {}", hosts[1].path()))?;
    for (ns, address) in hosts.iter().zip(HOSTS) {
        ns.sh(&format!("ip addr add {address}/24 dev eth1 && ip link set eth1 up"))?;
    }
    let script = |n: usize| -> Result<Script> {
        let script = Script::new(&hosts[n], "vxlan.sh")?.set("LOCAL", HOSTS[n]).set("REMOTE", HOSTS[1 - n]);
        Ok(script.set("MAC", format!("52:54:00:12:34:{n:02x}")))
    };
    let scripts = [script(0)?, script(1)?];
    let boot = |n: usize| -> Result<Guest> {
        let guest = scripts[n].boot(Guest::builder().in_slots(&slots))?;
        guest.run_ok(&format!("ip addr add {}/24 dev eth0 && ip link set eth0 up", GUESTS[n]))?;
        ensure!(guest.run_ok("cat /sys/class/net/eth0/mtu")? == "1450\n", "the guest was not told the MTU");
        Ok(guest)
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| boot(0));
        let other = boot(1);
        (one.join().expect("a boot does not panic"), other)
    });
    let (one, other) = (one?, other?);

    // The largest packets there are.
    one.run_ok(&format!("ping -c 3 -i 0.2 -W 5 -s 1422 {}", GUESTS[1]))?;
    transfer::tcp(Side::Guest(&one), Side::Guest(&other), GUESTS[1], BYTES)?;
    transfer::tcp(Side::Guest(&other), Side::Guest(&one), GUESTS[0], BYTES)?;
    let server = other.spawn("exec iperf3 -s --forceflush")?;
    server.wait_for_line("listening", Duration::from_secs(10))?;
    for direction in ["", "-R"] {
        let printed = one.run_ok(&format!("iperf3 -c {} -t 2 -f m {direction}", GUESTS[1]))?;
        let line = printed.lines().find(|line| line.contains("receiver")).unwrap_or_default();
        println!("{line}");
        ensure!(line.contains("Mbits/sec"), "{printed}");
    }
    for ns in &hosts {
        // All of it went over the wire, and nothing had to be fragmented on it.
        let table = ns.run_in(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let ip: Vec<Vec<&str>> =
            table.lines().filter(|l| l.starts_with("Ip: ")).map(|l| l.split(' ').collect()).collect();
        let place = ip[0].iter().position(|name| *name == "FragCreates").context("no counter of fragments")?;
        ensure!(ip[1][place] == "0", "packets were fragmented: {table}");
        ensure!(ns.counters("eth1")?.tx_bytes > BYTES, "the traffic went another way");
    }
    Ok(())
}
