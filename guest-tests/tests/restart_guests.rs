//! Daemons that are killed and started again under a real guest's TCP streams: it notices lost packets and nothing else.
//!
//! `RESTARTS` says how often in a row.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{self, GUEST, HOST, eventually};
use guest_tests::{Guest, NetNs, Nic, Qemu, Streams, Vnicd};
use tempfile::TempDir;

/// How long QEMU waits before it connects again: 100 ms, or a second with QEMU 7, which knows whole seconds only.
const RECONNECT: Duration = Duration::from_millis(100);

/// Where daemons come and go. The TAP stays, with its address.
struct Rig {
    ns: NetNs,
    dir: TempDir,
    is_client: bool,
    pairs: u16,
}

impl Rig {
    fn new(is_client: bool, pairs: u16) -> Result<Self> {
        let (ns, dir) = (NetNs::new()?, tempfile::tempdir()?);
        ns.add_tap("tap0", pairs)?;
        lab::address_host(&ns, "tap0")?;
        Ok(Self { ns, dir, is_client, pairs })
    }

    fn daemon(&self) -> Result<Vnicd> {
        let vnicd = Vnicd::builder(&self.ns).socket_path(self.dir.path().join("vhost.sock"));
        let vnicd = vnicd.arg("--queue-pairs").arg(self.pairs.to_string());
        let vnicd = vnicd.arg("--state-dir").arg(self.dir.path()).lifetime(Duration::from_secs(3600));
        if self.is_client { vnicd.client() } else { vnicd }.start()
    }

    fn boot(&self, qemu: Qemu, is_packed: bool) -> Result<Guest> {
        let path: &Path = &self.dir.path().join("vhost.sock");
        let nic =
            if self.is_client { Nic::vhost_user_server(path) } else { Nic::vhost_user(path).reconnect(RECONNECT) };
        let nic = nic.queue_pairs(self.pairs).properties(if is_packed { "packed=on" } else { "" });
        let lifetime = Duration::from_secs(3600);
        let guest = Guest::builder().qemu(qemu).cpus(self.pairs.min(2)).nic(nic).lifetime(lifetime).boot()?;
        lab::address_guest(&guest)?;
        if self.pairs > 1 {
            guest.run_ok(&format!("ethtool -L eth0 combined {}", self.pairs))?;
        }
        Ok(guest)
    }
}

/// Its kernel has seen nothing wrong.
fn has_no_complaints(guest: &Guest) -> Result<()> {
    let complaints = guest.complaints()?;
    ensure!(complaints.is_empty(), "the guest's kernel says: {complaints}");
    Ok(())
}

fn survives(qemu: Qemu, is_client: bool, pairs: u16, is_packed: bool) -> Result<()> {
    let restarts = std::env::var("RESTARTS").ok().and_then(|times| times.parse().ok()).unwrap_or(3);
    let rig = Rig::new(is_client, pairs)?;
    let mut vnicd = rig.daemon()?;
    let guest = rig.boot(qemu, is_packed)?;
    let streams = Streams::start(&rig.ns, "tap0", &guest, [HOST, GUEST], None)?;
    let (mut frame, mut both) = (Vec::new(), Vec::new());
    for round in 0..restarts {
        streams.wait_moved(streams.carried()?, 2 << 20).with_context(|| format!("before restart {round}"))?;
        ensure!(!vnicd.log().iter().any(|line| line.contains("ERROR")), "{}", vnicd.log().join("\n"));
        vnicd.kill()?;
        let before = streams.carried()?;
        let begun = Instant::now();
        vnicd = rig.daemon()?;
        eventually("a frame of the guest", || Ok(streams.carried()?.to_host > before.to_host))?;
        frame.push(begun.elapsed());
        streams
            .wait_moved(before, 1 << 20)
            .with_context(|| format!("after restart {round}\n{}\n{}", vnicd.log().join("\n"), guest.qemu().tail()))?;
        both.push(begun.elapsed());
    }
    let carried = streams.finish(&guest)?;
    guest.run_ok(&format!("ping -c 2 -i 0.2 -W 5 {HOST}"))?;
    has_no_complaints(&guest)?;
    for times in [&mut frame, &mut both] {
        times.sort();
    }
    println!(
        "{qemu:?}, client {is_client}, {pairs} pairs, packed {is_packed}: {restarts} restarts; from the start to the first \
         frame {:?} (median), {:?} at most, to a megabyte each way {:?}, {:?}; {} and {} bytes to host and guest",
        frame[frame.len() / 2],
        frame[frame.len() - 1],
        both[both.len() / 2],
        both[both.len() - 1],
        carried[0].bytes,
        carried[1].bytes,
    );
    Ok(())
}

#[test]
fn qemu_7_connects_again() -> Result<()> {
    survives(Qemu::V7, false, 1, false)?;
    survives(Qemu::V7, false, 1, true)
}

#[test]
fn qemu_7_is_connected_to_again() -> Result<()> {
    survives(Qemu::V7, true, 1, false)?;
    survives(Qemu::V7, true, 1, true)
}

#[test]
fn qemu_10_connects_again() -> Result<()> {
    survives(Qemu::V10, false, 1, false)?;
    survives(Qemu::V10, false, 1, true)
}

#[test]
fn qemu_10_is_connected_to_again() -> Result<()> {
    survives(Qemu::V10, true, 1, false)?;
    survives(Qemu::V10, true, 1, true)
}

#[test]
fn qemu_10_connects_again_with_four_pairs() -> Result<()> {
    survives(Qemu::V10, false, 4, false)?;
    survives(Qemu::V10, false, 4, true)
}

#[test]
fn qemu_10_is_connected_to_again_with_four_pairs() -> Result<()> {
    survives(Qemu::V10, true, 4, false)?;
    survives(Qemu::V10, true, 4, true)
}

/// A guest that was booted anew while there was no daemon: its packed rings lie where the old ones lay and begin anew,
/// whatever the record says.
#[test]
fn a_guest_that_boots_without_a_daemon_begins_anew() -> Result<()> {
    let rig = Rig::new(false, 1)?;
    let vnicd = rig.daemon()?;
    let guest = rig.boot(Qemu::V10, true)?;
    let streams = Streams::start(&rig.ns, "tap0", &guest, [HOST, GUEST], None)?;
    streams.finish(&guest)?;
    vnicd.kill()?;
    guest.reset()?;
    lab::address_guest(&guest)?;
    let vnicd = rig.daemon()?;
    eventually("the guest's rings", || {
        Ok(vnicd.log().iter().filter(|line| line.contains("ring started")).count() >= 2)
    })?;
    let streams = Streams::start(&rig.ns, "tap0", &guest, [HOST, GUEST], None)?;
    streams.wait_moved(streams.carried()?, 4 << 20)?;
    streams.finish(&guest)?;
    has_no_complaints(&guest)
}
