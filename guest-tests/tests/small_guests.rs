//! Guests that know little, rings of other sizes, and QEMU set up in every way round.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::guest::netboot;
use guest_tests::lab::{self, GUEST, HOST, Traffic, eventually};
use guest_tests::{Guest, Lab, NetNs, Nic, Process, Qemu, Vnicd};
use tempfile::TempDir;

const MB: u64 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// What a machine without a disk needs on the host's side: an address by DHCP, and over HTTP a script that says a word
/// when all of it has arrived.
struct BootServer {
    word: String,
    _dir: TempDir,
    _servers: [Process; 2],
}

impl BootServer {
    fn start(ns: &NetNs, word: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        fs::write(path("leases"), "")?;
        fs::write(
            path("dhcp"),
            format!(
                "start 10.77.0.50\nend 10.77.0.59\ninterface tap0\nlease_file {}\npidfile {}\n\
                 option subnet 255.255.255.0\noption router {HOST}\nboot_file http://{HOST}/boot.ipxe\n",
                path("leases").display(),
                path("pid").display(),
            ),
        )?;
        // Large enough for many segments, and worth nothing unless it comes whole and in order.
        let rest = "# a line that does nothing but take its time over the wire\n".repeat(2000);
        fs::write(path("boot.ipxe"), format!("#!ipxe\n{rest}echo all lines of {word}\nshell\n"))?;
        let servers = [
            ns.spawn(&format!("exec busybox udhcpd -f {}", path("dhcp").display()))?,
            ns.spawn(&format!("exec busybox httpd -f -p {HOST}:80 -h {}", dir.path().display()))?,
        ];
        Ok(Self { word: word.into(), _dir: dir, _servers: servers })
    }

    /// Waits until a machine has its address and has run its script.
    fn has_booted(&self, machine: &Process) -> Result<()> {
        machine.wait_for_line("net0: 10.77.0.5", PATIENCE)?;
        machine.wait_for_line(&format!("all lines of {}", self.word), PATIENCE).map(drop)
    }
}

/// iPXE's driver knows no offload at all. It boots before and after a guest that knows them all, of whose large and
/// unfinished frames some are still under way when it comes.
fn ipxe_boots_before_and_after_linux(qemu: Qemu) -> Result<()> {
    let lab = Lab::with(|vnicd| vnicd.control())?;
    let server = BootServer::start(&lab.ns, "a small guest's script")?;
    // The same for all, so that frames for one would be taken by the next.
    let nic = lab.nic().mac("52:54:00:77:00:fe");
    let boots_linux = || {
        let guest = Guest::builder().qemu(qemu).nic(nic.clone()).boot()?;
        lab::address_guest(&guest)?;
        anyhow::Ok(guest)
    };
    server.has_booted(&netboot(qemu, &nic)?)?;
    lab.wait_for_lines("front end gone", 1)?;
    let log = lab.vnicd.log();
    let features = log.iter().find(|line| line.contains("features: ")).map(String::as_str).unwrap_or_default();
    ensure!(features.contains("features: ") && !features.contains("CSUM") && !features.contains("TSO"), "{features}");

    let guest = boots_linux()?;
    lab.settle_neighbours(&guest)?;
    let traffic = Traffic::start(&lab, &guest)?;
    // Bursts that only a guest with offloads could take as they are.
    let flood = lab.ns.tool(&format!("udp-send {GUEST} 9 1000000 1400 1 1000 40"))?;
    guest.kill()?;
    lab.wait_for_lines("front end gone", 2)?;
    let machine = netboot(qemu, &nic)?;
    server.has_booted(&machine)?;
    ensure!(flood.try_status()?.is_none(), "the bursts ended early");
    drop((traffic, flood));
    let [delivered, dropped] = ["rx_packets", "rx_dropped_offload"].map(|name| lab.vnicd.counters(name));
    eprintln!("{:?} frames delivered in all, {:?} dropped for want of offloads", delivered?, dropped?);
    drop(machine);
    lab.wait_for_lines("front end gone", 3)?;
    ensure!(lab.lines_with("ERROR") == 0, "errors in the log:\n{}", lab.vnicd.log().join("\n"));
    lab.tcp_both_ways(&boots_linux()?, 4 * MB + 1)
}

#[test]
fn qemu_7_ipxe_boots_before_and_after_linux() -> Result<()> {
    ipxe_boots_before_and_after_linux(Qemu::V7)
}

#[test]
fn qemu_10_ipxe_boots_before_and_after_linux() -> Result<()> {
    ipxe_boots_before_and_after_linux(Qemu::V10)
}

fn with_rings_of(properties: &str, size: u16) -> Result<()> {
    let lab = Lab::new()?;
    let guest = lab.boot_with(Qemu::V10, properties)?;
    ensure!(lab.lines_with(&format!(" size={size} ")) == 2, "not {size} entries:\n{}", lab.vnicd.log().join("\n"));
    lab.ping(&guest)?;
    lab.tcp_both_ways(&guest, 16 * MB + 1)
}

#[test]
fn large_rings() -> Result<()> {
    with_rings_of("rx_queue_size=1024,tx_queue_size=1024", 1024)
}

#[test]
fn small_rings_and_one_interrupt_for_all() -> Result<()> {
    with_rings_of("rx_queue_size=256,tx_queue_size=256,vectors=0", 256)
}

fn daemon(ns: &NetNs, socket: &Path, client: bool) -> Result<Vnicd> {
    let builder = Vnicd::builder(ns).socket_path(socket);
    let vnicd = if client { builder.client() } else { builder }.start()?;
    vnicd.wait_for_line("uplink made", PATIENCE)?;
    lab::address_host(ns, "tap0")?;
    Ok(vnicd)
}

/// The daemon is killed and another takes its place; the guest goes on.
fn a_guest_survives_its_daemon(qemu: Qemu, client: bool) -> Result<()> {
    let ns = NetNs::new()?;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("socket");
    let nic = if client {
        Nic::vhost_user_server(&socket)
    } else {
        Nic::vhost_user(&socket).reconnect(Duration::from_millis(100))
    };
    let mut lab = Lab { vnicd: daemon(&ns, &socket, client)?, ns };
    let guest = Guest::builder().qemu(qemu).nic(nic).boot()?;
    lab::address_guest(&guest)?;
    lab.tcp_both_ways(&guest, 4 * MB + 1)?;
    for round in 1..=3 {
        let traffic = Traffic::start(&lab, &guest)?;
        // The last time in order.
        if round == 3 {
            ensure!(lab.vnicd.terminate()?.success());
        } else {
            lab.vnicd.kill()?;
        }
        lab.vnicd = daemon(&lab.ns, &socket, client)?;
        lab.wait_for_lines("ring started", 2)?;
        drop(traffic);
        let up = "test $(cat /sys/class/net/eth0/carrier) = 1";
        eventually("the guest's link is up", || Ok(guest.run(up)?.status == 0))?;
        lab.ping(&guest)?;
        lab.tcp_both_ways(&guest, 4 * MB + round)?;
    }
    ensure!(guest.boots() == 1, "the guest was booted anew");
    Ok(())
}

#[test]
fn qemu_7_as_server_survives_its_daemon() -> Result<()> {
    a_guest_survives_its_daemon(Qemu::V7, true)
}

#[test]
fn qemu_10_as_server_survives_its_daemon() -> Result<()> {
    a_guest_survives_its_daemon(Qemu::V10, true)
}

#[test]
fn qemu_7_as_client_survives_its_daemon() -> Result<()> {
    a_guest_survives_its_daemon(Qemu::V7, false)
}

#[test]
fn qemu_10_as_client_survives_its_daemon() -> Result<()> {
    a_guest_survives_its_daemon(Qemu::V10, false)
}

/// A guest whose memory only QEMU sees: the line says what is missing, and the next front end is served.
fn memory_that_is_not_shared(qemu: Qemu) -> Result<()> {
    let lab = Lab::new()?;
    let guest = Guest::builder().qemu(qemu).private_memory().nic(lab.nic()).boot()?;
    let line = lab.vnicd.wait_for_line("front end gone, its connection ended", PATIENCE)?;
    ensure!(line.contains("share=on"), "what is missing is not named: {line}");
    drop(guest);
    lab.tcp_both_ways(&lab.boot(qemu)?, MB)
}

#[test]
fn qemu_7_memory_that_is_not_shared() -> Result<()> {
    memory_that_is_not_shared(Qemu::V7)
}

#[test]
fn qemu_10_memory_that_is_not_shared() -> Result<()> {
    memory_that_is_not_shared(Qemu::V10)
}

/// Memory of a file that QEMU maps for itself alone: the daemon sees rings that stay empty, and lives.
#[test]
fn memory_of_a_file_that_is_not_shared() -> Result<()> {
    let lab = Lab::with(|vnicd| vnicd.control())?;
    let memory = ["-object", "memory-backend-memfd,id=own,size=256M,share=off", "-numa", "node,memdev=own"];
    let guest = Guest::builder().qemu(Qemu::V10).private_memory().qemu_args(memory).nic(lab.nic()).boot()?;
    lab::address_guest(&guest)?;
    lab.wait_for_lines("ring started", 2)?;
    ensure!(guest.run(&format!("ping -c 1 -W 1 {HOST}"))?.status != 0, "the guest's memory is shared after all");
    ensure!(lab.vnicd.counters("tx_packets")? == [0], "packets out of nowhere");
    drop(guest);
    lab.tcp_both_ways(&lab.boot(Qemu::V10)?, MB)
}
