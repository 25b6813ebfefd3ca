//! AF_XDP beside others: the host on the same interface, another daemon on another queue, programs that are in the way.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::vnicd::{binary, unprivileged};
use guest_tests::{NetNs, Process, Vnicd};

const POSTING: Posting = Posting { count: 128, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;
/// The scripted NIC's address.
const GUEST_MAC: &str = "--mac=02:00:00:00:00:77";
/// The address that the host has on the interface whose frames a daemon takes.
const OWN: &str = "10.88.0.1";

/// The two ends of a pair in namespaces of their own: `up0`, with an address of the host's, and `tap0`, where the scripted
/// NIC has its peer. What CPU number N sends from `tap0` comes to queue N of `up0`, as far as there are queues.
fn namespaces(queues: u16) -> Result<(NetNs, NetNs)> {
    let (near, far) = (NetNs::new()?, NetNs::new()?);
    let many = format!("numtxqueues {queues} numrxqueues {queues}");
    for ns in [&near, &far] {
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    }
    near.sh(&format!("ip link add up0 {many} type veth peer name tap0 {many} netns {}", far.path()))?;
    near.sh(&format!("ip addr add {OWN}/24 dev up0 && ip link set up0 up"))?;
    far.sh("ethtool -K tap0 tx off; ip link set tap0 up && ip addr add 10.88.0.2/24 dev tap0")?;
    for queue in 0..queues {
        far.sh(&format!(
            "test {queues} = 1 || echo {:x} > /sys/class/net/tap0/queues/tx-{queue}/xps_cpus",
            1 << queue
        ))?;
    }
    Ok((near, far))
}

fn ping_own(far: &NetNs) -> Result<()> {
    far.sh(&format!("taskset 1 ping -c 3 -i 0.2 -W 5 {OWN}")).map(drop)
}

/// From one CPU, and so over one queue.
fn pin_to(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[test]
fn a_guest_with_an_address_of_its_own_shares_the_interface_with_the_host() -> Result<()> {
    let (near, far) = namespaces(1)?;
    // Nobody asks for an address before the test wants it.
    let mac = near.sh("cat /sys/class/net/up0/address")?;
    far.sh(&format!("ip neigh replace {OWN} lladdr {} dev tap0 nud permanent", mac.trim()))?;
    let vnicd = Vnicd::builder(&near).uplink("af-xdp=up0,steer=mac").arg(GUEST_MAC).start()?;
    let mut nic = ScriptedNic::start(&far, &vnicd, FEATURES, 256, POSTING)?;
    ping_own(&far)?;
    for n in 0..100usize {
        let payload = vec![n as u8; 1 + n * 14];
        nic.send(&payload, 1)?;
        nic.exchange(&payload)?;
        nic.post_fresh(2048)?;
    }
    // ARP for the host's address is a broadcast: the guest gets it, and the host answers.
    far.sh(&format!("ip neigh del {OWN} dev tap0; ping -c 1 -W 5 {OWN}"))?;
    let (frame, _) = nic.receive()?;
    ensure!(frame[..6] == [0xff; 6] && frame[12..14] == [8, 6], "not the host's request: {frame:02x?}");
    nic.post_fresh(2048)?;
    // Datagrams to all: with a tag and without, checksum left to the device or not.
    nic.host().set_broadcast(true)?;
    for checksums in ["off", "on"] {
        far.sh(&format!("ethtool -K tap0 tx {checksums}"))?;
        nic.host().send_to(b"to all", (Ipv4Addr::new(10, 77, 0, 255), 9000))?;
        nic.expect(b"to all")?;
        nic.post_fresh(2048)?;
    }
    let tagged = "ff".repeat(6) + "020000000001" + "81000005" + "88b5" + &"ab".repeat(60);
    let send = "import socket; s = socket.socket(17, 3); s.bind(('tap0', 0)); s.send(bytes.fromhex(";
    far.sh(&format!("python3 -c \"{send}'{tagged}'))\""))?;
    let (frame, _) = nic.receive()?;
    ensure!(frame[12..20] == [0x81, 0, 0, 5, 0x88, 0xb5, 0xab, 0xab], "no tag: {:02x?}", &frame[..20]);
    ping_own(&far)?;
    // The host hears the same broadcasts, and the guest nothing that is for the host.
    nic.exchange(b"the next frame is this one").map(drop)
}

#[test]
fn a_guest_that_takes_a_whole_queue_leaves_the_others_to_the_host() -> Result<()> {
    let (near, far) = namespaces(2)?;
    let vnicd = Vnicd::builder(&near).uplink("af-xdp=up0,queue=1").start()?;
    let mut nic = ScriptedNic::start(&far, &vnicd, FEATURES, 256, POSTING)?;
    pin_to(1)?;
    for n in 0..50usize {
        nic.send(&[n as u8; 500], 1)?;
        nic.exchange(&[n as u8; 500])?;
        nic.post_fresh(2048)?;
    }
    ping_own(&far)?;
    // Without a guest its queue is the host's too.
    drop(nic);
    vnicd.wait_for_line("front end gone", PATIENCE)?;
    eventually("the queue is the host's", || Ok(far.sh(&format!("taskset 2 ping -c 1 -W 1 {OWN}")).is_ok()))
}

#[test]
fn two_daemons_share_the_program_and_either_may_end() -> Result<()> {
    let (near, far) = namespaces(2)?;
    let start = |queue: usize| -> Result<Vnicd> {
        let mac = format!("--mac=02:00:00:00:00:{:02x}", 0x70 + queue);
        let builder = Vnicd::builder(&near).uplink(format!("af-xdp=up0,queue={queue},steer=mac"));
        builder.arg("--queue-pairs=1").arg(mac).start()
    };
    let reach = |vnicd: &Vnicd, queue: usize| -> Result<()> {
        pin_to(queue)?;
        far.sh("ip addr flush dev tap0")?;
        let mut nic = ScriptedNic::start(&far, vnicd, FEATURES, 256, POSTING)?;
        far.sh(&format!("ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:{:02x} dev tap0", 0x70 + queue))?;
        for n in 0..20u8 {
            nic.exchange(&[n; 100])?;
        }
        drop(nic);
        vnicd.wait_for_line("front end gone", PATIENCE).map(drop)
    };
    let first = start(0)?;
    let second = start(1)?;
    ensure!(second.log().iter().any(|line| line.contains("shared")), "{:?}", second.log());
    reach(&first, 0)?;
    reach(&second, 1)?;
    refused(near.command(binary()?), "af-xdp=up0,queue=1", &["queue 1 is in use"])?;
    first.kill()?;
    reach(&second, 1)?;
    let third = start(0)?;
    reach(&third, 0)?;
    ensure!(second.terminate()?.success());
    reach(&third, 0)?;
    ensure!(third.terminate()?.success());
    eventually("the program goes", || Ok(!near.sh("ip -d link show up0")?.contains("prog/xdp")))
}

/// Runs a daemon that cannot open its uplink: exit code 2 and one line with the words.
fn refused(mut command: Command, uplink: &str, words: &[&str]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
    command.arg("--socket-path").arg(dir.path().join("vnicd.sock")).args(["--uplink", uplink]);
    let output = Process::spawn(command)?.wait_output(PATIENCE)?;
    ensure!(output.status == 2 && output.stderr.lines().count() == 1, "{uplink}: {output:?}");
    for word in words {
        ensure!(output.stderr.contains(word), "no \"{word}\" in \"{}\"", output.stderr.trim());
    }
    Ok(())
}

/// The daemon with these capabilities and no others.
fn with_only(ns: &NetNs, capabilities: &str) -> Result<Command> {
    let mut command = ns.command("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set", &format!("-all,{capabilities}"), "--pdeathsig=KILL"]);
    command.arg(binary()?);
    Ok(command)
}

#[test]
fn what_cannot_be_opened_says_why() -> Result<()> {
    let (near, _far) = namespaces(1)?;
    let refused_here = |uplink: &str, words: &[&str]| refused(near.command(binary()?), uplink, words);
    refused_here("af-xdp=nowhere", &["'nowhere' does not exist"])?;
    refused_here("af-xdp=sixteen-letters-", &["1 to 15 letters"])?;
    refused_here("af-xdp=up0,queue=1", &["no queue 1", "0 to 0", "ethtool -l up0"])?;
    refused_here("af-xdp=up0,mode=zerocopy", &["no zero copy", "mode=copy"])?;
    refused_here("af-xdp=up0,steer=mac", &["--mac"])?;
    refused_here("af-xdp=up0,fds=77", &["file descriptor 77 is no AF_XDP socket"])?;
    refused(unprivileged(&near, NOBODY)?, "af-xdp=up0", &["CAP_NET_RAW"])?;
    refused(with_only(&near, "+net_raw")?, "af-xdp=up0", &["CAP_NET_ADMIN", "CAP_BPF"])?;
    near.sh("ip route add default via 10.88.0.2 dev up0")?;
    refused_here("af-xdp=up0", &["default route", "steer=mac", "force"])?;
    Vnicd::builder(&near).uplink("af-xdp=up0,steer=mac").arg(GUEST_MAC).start()?;
    let first = Vnicd::builder(&near).uplink("af-xdp=up0,force").start()?;
    refused_here("af-xdp=up0,force", &["queue 0 is in use"])?;
    drop(first);
    ensure!(!near.sh("ip -d link show up0")?.contains("promiscuity 1"), "the interface takes everything in still");
    Ok(())
}

/// What is needed, and no more; where little memory may be locked, the right to lock more.
#[test]
fn few_capabilities_do() -> Result<()> {
    let (near, _far) = namespaces(1)?;
    let mut command = with_only(&near, "+net_raw,+net_admin,+bpf,+ipc_lock")?;
    let dir = tempfile::tempdir()?;
    command.arg("--socket-path").arg(dir.path().join("vnicd.sock")).args(["--uplink", "af-xdp=up0"]);
    Process::spawn(command)?.wait_for_line("listening on", PATIENCE).map(drop)
}
