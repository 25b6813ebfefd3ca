//! Live migration of a real guest between two QEMUs and two daemons on one machine, under TCP streams each way, while the
//! guest checks memory of its own: nothing is corrupt, no stream breaks.
//!
//! `MIGRATIONS` says how often in a row.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{self, GUEST, HOST};
use guest_tests::{Guest, GuestBuilder, NetNs, Nic, Qemu, Slots, Streams, Vnicd};

const MAC: &str = "52:54:00:77:00:fe";
const LIFETIME: Duration = Duration::from_secs(3600);
/// What the guest checks of its memory, in MiB.
const CHECKED: u32 = 16;

/// Two daemons whose TAPs are ports of a bridge, which has the host's address.
struct Rig {
    ns: NetNs,
    daemons: [Vnicd; 2],
    slots: Slots,
    qemu: Qemu,
    pairs: u16,
    properties: String,
}

impl Rig {
    fn new(qemu: Qemu, pairs: u16, properties: &str) -> Result<Self> {
        let slots = Slots::take(2);
        let ns = NetNs::new()?;
        ns.sh("ip link add br0 type bridge forward_delay 0 && ip link set br0 up")?;
        lab::address_host(&ns, "br0")?;
        let daemon = |tap| {
            let vnicd = Vnicd::builder(&ns).uplink(format!("tap={tap},bridge=br0")).control().lifetime(LIFETIME);
            vnicd.arg("--queue-pairs").arg(pairs.to_string()).start()
        };
        let daemons = [daemon("tap0")?, daemon("tap1")?];
        Ok(Self { daemons, ns, slots, qemu, pairs, properties: properties.into() })
    }

    /// A guest, or where one may go, at one of the daemons.
    fn guest(&self, at: usize) -> GuestBuilder<'_> {
        let nic = Nic::vhost_user(self.daemons[at].socket()).queue_pairs(self.pairs).mac(MAC);
        let builder = Guest::builder().qemu(self.qemu).cpus(self.pairs.min(2)).in_slots(&self.slots).lifetime(LIFETIME);
        builder.memory_mib(192).nic(nic.properties(&*self.properties))
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn migrates(qemu: Qemu, pairs: u16, properties: &str) -> Result<()> {
    let migrations = std::env::var("MIGRATIONS").ok().and_then(|times| times.parse().ok()).unwrap_or(2);
    let rig = Rig::new(qemu, pairs, properties)?;
    let mut guest = rig.guest(0).boot()?;
    lab::address_guest(&guest)?;
    if pairs > 1 {
        guest.run_ok(&format!("ethtool -L eth0 combined {pairs}"))?;
    }
    let streams = Streams::start(&rig.ns, "br0", &guest, [HOST, GUEST], Some(CHECKED))?;
    let (mut downtimes, mut totals) = (Vec::new(), Vec::new());
    for number in 1..=migrations {
        let what = || format!("migration {number}");
        streams.wait_moved(streams.carried()?, 4 << 20).with_context(what)?;
        let (next, migration) = guest.migrate(rig.guest(number % 2)).with_context(what)?;
        guest = next;
        ensure!(migration.syncs > 1, "memory was gone through once: {migration:?}");
        streams.wait_moved(streams.carried()?, 1 << 20).with_context(what)?;
        downtimes.push(migration.downtime);
        totals.push(migration.total);
    }
    let [to_host, to_guest] = streams.finish(&guest)?;
    guest.run_ok(&format!("ping -c 2 -i 0.2 -W 5 {HOST}"))?;
    let complaints = guest.complaints()?;
    ensure!(complaints.is_empty(), "the guest's kernel says: {complaints}");
    for vnicd in &rig.daemons {
        ensure!(!vnicd.log().iter().any(|line| line.contains("ERROR")), "{}", vnicd.log().join("\n"));
    }
    println!(
        "{qemu:?}, {pairs} pairs, {properties}: {migrations} migrations, downtime {:?} (median), {:?} at most, {:?} in all \
         (median); {} and {} bytes to host and guest",
        median(&mut downtimes),
        downtimes[downtimes.len() - 1],
        median(&mut totals),
        to_host.bytes,
        to_guest.bytes,
    );
    Ok(())
}

#[test]
fn qemu_7_split() -> Result<()> {
    migrates(Qemu::V7, 1, "packed=off")
}

#[test]
fn qemu_7_packed() -> Result<()> {
    migrates(Qemu::V7, 1, "packed=on")
}

#[test]
fn qemu_10_split() -> Result<()> {
    migrates(Qemu::V10, 1, "packed=off")
}

#[test]
fn qemu_10_packed() -> Result<()> {
    migrates(Qemu::V10, 1, "packed=on")
}

#[test]
fn qemu_10_split_with_four_pairs() -> Result<()> {
    migrates(Qemu::V10, 4, "packed=off")
}

#[test]
fn qemu_10_packed_with_four_pairs() -> Result<()> {
    migrates(Qemu::V10, 4, "packed=on")
}
