//! The launch lines of `configs/` for QEMU: each script is run as it stands, boots a guest, carries its traffic, and leaves
//! nothing behind.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::lab::{self, GUEST, HOST, ended_with};
use guest_tests::{Guest, NetNs, Script, Side, transfer};

const BYTES: u64 = 8_000_001;
const END: Duration = Duration::from_secs(20);
/// The virtio feature of packed rings.
const RING_PACKED: usize = 34;

/// Boots a guest by a script of `configs/`, checks what moves over the TAP, then what `more` says; shuts it down.
fn carries_traffic(name: &str, more: impl FnOnce(&Guest) -> Result<()>) -> Result<()> {
    let ns = NetNs::new()?;
    let script = Script::new(&ns, name)?;
    let guest = script.boot(Guest::builder())?;
    lab::address_host(&ns, "vm1")?;
    lab::address_guest(&guest)?;
    guest.run_ok(&format!("ping -c 2 -i 0.2 -W 5 {HOST}"))?;
    ns.sh(&format!("ping -c 2 -i 0.2 -W 5 {GUEST}"))?;
    transfer::tcp(Side::Guest(&guest), Side::Host(&ns), HOST, BYTES)?;
    transfer::tcp(Side::Host(&ns), Side::Guest(&guest), GUEST, BYTES)?;
    more(&guest)?;
    // vnicd ends with its guest.
    guest.quit()?;
    ended_with(guest.qemu().wait(END)?, 0)?;
    ensure!(!script.socket().exists(), "the socket is left behind");
    ensure!(ns.sh("ls /sys/class/net")? == "lo\n", "the TAP is left behind");
    Ok(())
}

#[test]
fn qemu_connects() -> Result<()> {
    carries_traffic("qemu.sh", |_| Ok(()))
}

#[test]
fn qemu_listens() -> Result<()> {
    carries_traffic("qemu-server.sh", |_| Ok(()))
}

/// A vnicd that cannot do what it is told is the end of it.
#[test]
fn no_guest_without_vnicd() -> Result<()> {
    for name in ["qemu.sh", "qemu-4-queues.sh", "qemu-packed.sh", "qemu-huge-pages.sh", "cloud-hypervisor.sh"] {
        let script = Script::new(&NetNs::new()?, name)?.set("UPLINK", "moon=1");
        for program in ["qemu-system-x86_64", "cloud-hypervisor"] {
            script.stand_in(program, "echo a guest without vnicd")?;
        }
        let output = script.spawn(&[])?.wait_output(END)?;
        ensure!(output.status != 0 && output.stderr.contains("moon=1"), "{name}: {output:?}");
        ensure!(!output.stdout.contains("a guest"), "{name}: {output:?}");
    }
    Ok(())
}

#[test]
fn four_queue_pairs() -> Result<()> {
    carries_traffic("qemu-4-queues.sh", |guest| {
        // Linux gives each processor a pair of its own.
        for cpu in 0..4 {
            guest.run_ok(&format!("taskset -c {cpu} ping -c 1 -W 5 {HOST}"))?;
            let sent = guest.run_ok(&format!("ethtool -S eth0 | grep 'tx_queue_{cpu}_packets'"))?;
            ensure!(!sent.trim().ends_with(": 0"), "nothing was sent on the pair: {sent}");
        }
        Ok(())
    })
}

#[test]
fn packed_rings() -> Result<()> {
    carries_traffic("qemu-packed.sh", |guest| {
        let features = guest.run_ok("cat /sys/class/net/eth0/device/features")?;
        ensure!(features.as_bytes().get(RING_PACKED) == Some(&b'1'), "the rings are not packed: {features}");
        Ok(())
    })
}

/// How often the kernel is asked for huge pages.
const TRIES: usize = 10;

/// Huge pages that the kernel keeps ready, given back at the end.
struct HugePages {
    before: u64,
}

impl HugePages {
    const COUNT: &str = "/proc/sys/vm/nr_hugepages";

    /// Has the kernel keep so many KiB ready, as far as it can. Says how many KiB are.
    fn reserve(kib: u64) -> Result<(Self, u64)> {
        let field = |name: &str| -> Result<u64> {
            let table = fs::read_to_string("/proc/meminfo")?;
            let line = table.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(": 0");
            line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).with_context(|| format!("no {name}"))
        };
        let size = field("Hugepagesize")?.max(1);
        let pages = Self { before: fs::read_to_string(Self::COUNT)?.trim().parse()? };
        let missing = kib.div_ceil(size).saturating_sub(field("HugePages_Free")?);
        // Where memory is in pieces, it takes several tries to put some together.
        for _ in 0..TRIES {
            fs::write(Self::COUNT, (pages.before + missing).to_string())?;
            if field("HugePages_Free")? * size >= kib {
                break;
            }
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        }
        Ok((pages, field("HugePages_Free")? * size))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::COUNT, self.before.to_string());
    }
}

#[test]
fn huge_pages() -> Result<()> {
    const NEEDED_KIB: u64 = 256 << 10;
    let (_pages, free) = HugePages::reserve(NEEDED_KIB)?;
    if free < NEEDED_KIB {
        lab::left_out(&format!("a guest in huge pages needs {NEEDED_KIB} KiB of them, and the kernel has {free} KiB"));
        return Ok(());
    }
    carries_traffic("qemu-huge-pages.sh", |_| Ok(()))
}
