//! Cells of the matrix of `offload_matrix.rs` with real senders and receivers: kernels in guests, payload compared by
//! hash, and frames counted at the TAP to see what was joined and cut.

use anyhow::{Result, ensure};
use guest_tests::lab::{self, GUEST, GUEST6, HOST, HOST6};
use guest_tests::transfer::{self, Datagrams};
use guest_tests::{Guest, GuestBuilder, Kernel, Lab, Nic, Qemu, Side, Slots, Vnicd};

const MB: u64 = 1_000_000;
const NO_GUEST_OFFLOADS: &str =
    "mrg_rxbuf=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off";
const V4: [&str; 2] = [HOST, GUEST];
const V6: [&str; 2] = [HOST6, GUEST6];

/// How a cell differs from what there is by default.
struct Cell {
    qemu: Qemu,
    kernel: Kernel,
    coalesce: bool,
    /// Whether the guest's kernel leaves work to its device.
    offloads: bool,
    mtu: u64,
    /// Of QEMU's device.
    properties: &'static str,
}

impl Default for Cell {
    fn default() -> Self {
        let (qemu, kernel) = (Qemu::V10, Kernel::Stock);
        Self { qemu, kernel, coalesce: true, offloads: true, mtu: 1500, properties: "" }
    }
}

/// Average bytes of the frames of a transfer at the TAP, its virtio-net header among them, from the guest and to it.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    out: u64,
    back: u64,
}

impl Cell {
    fn boot(&self) -> Result<(Lab, Guest)> {
        self.boot_with(|guest| guest)
    }

    fn boot_with<'a>(&self, with: impl FnOnce(GuestBuilder<'a>) -> GuestBuilder<'a>) -> Result<(Lab, Guest)> {
        let lab = Lab::with(|vnicd| if self.coalesce { vnicd } else { vnicd.arg("--no-coalesce") })?;
        let nic = lab.nic().properties(self.properties);
        let guest = with(Guest::builder().qemu(self.qemu).kernel(self.kernel).nic(nic)).boot()?;
        lab::address_guest(&guest)?;
        if self.mtu != 1500 {
            guest.run_ok(&format!("ip link set eth0 mtu {}", self.mtu))?;
            lab.ns.sh(&format!("ip link set tap0 mtu {}", self.mtu))?;
        }
        if !self.offloads {
            // One by one: a driver that cannot change one of them refuses the line.
            guest.run_ok(
                "for what in tx sg tso gso tx-udp-segmentation; do ethtool -K eth0 $what off; done >&2; true",
            )?;
            let features = guest.run_ok("ethtool -k eth0")?;
            for feature in ["tx-checksumming: off", "tcp-segmentation-offload: off"] {
                ensure!(features.contains(feature), "not \"{feature}\" in the guest:\n{features}");
            }
        }
        lab.ping(&guest)?;
        Ok((lab, guest))
    }

    /// The largest frame that is one packet.
    fn plain(&self) -> u64 {
        self.mtu + 14 + 12
    }

    /// Says whether several packets went in a frame, on average.
    fn are_large(&self, size: u64) -> bool {
        size > self.plain()
    }
}

/// Counts the frames of `work` by their direction.
fn sizes(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<Sizes> {
    let before = lab.ns.counters("tap0")?;
    work()?;
    let after = lab.ns.counters("tap0")?;
    let average = |bytes: u64, frames: u64| bytes / frames.max(1);
    Ok(Sizes {
        out: average(after.rx_bytes - before.rx_bytes, after.rx_packets - before.rx_packets),
        back: average(after.tx_bytes - before.tx_bytes, after.tx_packets - before.tx_packets),
    })
}

/// A TCP payload each way: sizes of the frames that carried it.
fn tcp(lab: &Lab, guest: &Guest, [host_address, guest_address]: [&str; 2]) -> Result<Sizes> {
    let (inside, outside) = (Side::Guest(guest), Side::Host(&lab.ns));
    let out = sizes(lab, || transfer::tcp(inside, outside, host_address, 16 * MB + 1).map(drop))?;
    let back = sizes(lab, || transfer::tcp(outside, inside, guest_address, 16 * MB + 1).map(drop))?;
    let sizes = Sizes { out: out.out, back: back.back };
    eprintln!("{sizes:?}");
    Ok(sizes)
}

/// Datagrams each way, which their sender's kernel gets 40 at a time: sizes of the frames that carried them.
fn udp(lab: &Lab, guest: &Guest, [host_address, guest_address]: [&str; 2]) -> Result<Sizes> {
    let (inside, outside) = (Side::Guest(guest), Side::Host(&lab.ns));
    // All of them fit the TAP's queue, so that no guest is too slow for them.
    let datagrams = Datagrams { count: 960, size: 1200, pps: Some(4000) };
    let send = |from, to, address| {
        let came = transfer::udp_in_batches(from, to, address, datagrams, 40)?;
        ensure!(came.count == datagrams.count, "datagrams to {address} were lost: {came:?}");
        Ok(())
    };
    let out = sizes(lab, || send(inside, outside, host_address))?;
    let back = sizes(lab, || send(outside, inside, guest_address))?;
    let sizes = Sizes { out: out.out, back: back.back };
    eprintln!("{sizes:?}");
    Ok(sizes)
}

#[test]
fn tcp4_offloads_on() -> Result<()> {
    let cell = Cell { qemu: Qemu::V7, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = tcp(&lab, &guest, V4)?;
    ensure!(sizes.out > 4 * cell.plain() && sizes.back > 4 * cell.plain(), "{sizes:?}");
    Ok(())
}

#[test]
fn tcp4_offloads_off() -> Result<()> {
    let cell = Cell { offloads: false, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = tcp(&lab, &guest, V4)?;
    ensure!(cell.are_large(sizes.out), "nothing was joined: {sizes:?}");
    Ok(())
}

#[test]
fn tcp4_offloads_off_no_coalesce() -> Result<()> {
    let cell = Cell { qemu: Qemu::V7, offloads: false, coalesce: false, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = tcp(&lab, &guest, V4)?;
    ensure!(!cell.are_large(sizes.out), "packets were joined: {sizes:?}");
    Ok(())
}

#[test]
fn tcp6_offloads_off() -> Result<()> {
    let cell = Cell { qemu: Qemu::V7, offloads: false, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = tcp(&lab, &guest, V6)?;
    ensure!(cell.are_large(sizes.out), "nothing was joined: {sizes:?}");
    Ok(())
}

#[test]
fn tcp6_offloads_on_new_kernel() -> Result<()> {
    let cell = Cell { kernel: Kernel::Backports, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = tcp(&lab, &guest, V6)?;
    ensure!(sizes.out > 4 * cell.plain() && sizes.back > 4 * cell.plain(), "{sizes:?}");
    Ok(())
}

#[test]
fn udp4() -> Result<()> {
    let cell = Cell { qemu: Qemu::V7, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = udp(&lab, &guest, V4)?;
    ensure!(cell.are_large(sizes.out), "nothing was joined: {sizes:?}");
    Ok(())
}

#[test]
fn udp4_no_coalesce() -> Result<()> {
    let cell = Cell { coalesce: false, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = udp(&lab, &guest, V4)?;
    ensure!(!cell.are_large(sizes.out), "datagrams were joined: {sizes:?}");
    Ok(())
}

/// Whether such a guest's bursts are cut by its kernel or by the device, they arrive joined.
#[test]
fn uso4_new_kernel() -> Result<()> {
    let cell = Cell { kernel: Kernel::Backports, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = udp(&lab, &guest, V4)?;
    ensure!(cell.are_large(sizes.out), "nothing was joined: {sizes:?}");
    Ok(())
}

#[test]
fn uso6_offloads_off_new_kernel() -> Result<()> {
    let cell = Cell { kernel: Kernel::Backports, offloads: false, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = udp(&lab, &guest, V6)?;
    ensure!(cell.are_large(sizes.out), "nothing was joined: {sizes:?}");
    Ok(())
}

#[test]
fn mtu_9000_offloads_off() -> Result<()> {
    let cell = Cell { offloads: false, mtu: 9000, properties: "host_mtu=9000", ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = tcp(&lab, &guest, V4)?;
    ensure!(cell.are_large(sizes.out), "nothing was joined: {sizes:?}");
    Ok(())
}

/// From one guest to another over a bridge, for which tagged frames are like any other.
#[test]
fn vlan_in_the_guests_offloads_off() -> Result<()> {
    let cell = Cell { offloads: false, ..Cell::default() };
    let slots = Slots::take(2);
    let (lab, guest) = cell.boot_with(|guest| guest.in_slots(&slots))?;
    let vnicd = Vnicd::builder(&lab.ns).uplink("tap=tap1").start()?;
    let other = Guest::builder().in_slots(&slots).qemu(Qemu::V10).nic(Nic::vhost_user(vnicd.socket())).boot()?;
    lab.ns.sh("ip link add br0 type bridge forward_delay 0 && ip link set br0 up && \
         ip link set tap0 master br0 && ip link set tap1 master br0 up")?;
    for (guest, address) in [(&guest, "10.78.0.1"), (&other, "10.78.0.2")] {
        guest.run_ok("ip link set eth0 up && ip link add link eth0 name eth0.5 type vlan id 5")?;
        guest.run_ok(&format!("ip addr add {address}/24 dev eth0.5 && ip link set eth0.5 up"))?;
    }
    guest.run_ok("ping -c 2 -i 0.2 -W 5 10.78.0.2")?;
    let (one, another) = (Side::Guest(&guest), Side::Guest(&other));
    let sizes = sizes(&lab, || transfer::tcp(one, another, "10.78.0.2", 16 * MB + 1).map(drop))?;
    ensure!(cell.are_large(sizes.out), "nothing was joined: {sizes:?}");
    transfer::tcp(another, one, "10.78.0.1", 16 * MB + 1).map(drop)
}

/// The host's large frames are cut for a guest that takes none, with one buffer for each packet.
#[test]
fn a_guest_that_takes_no_offload() -> Result<()> {
    let cell = Cell { properties: NO_GUEST_OFFLOADS, ..Cell::default() };
    let (lab, guest) = cell.boot()?;
    let sizes = tcp(&lab, &guest, V4)?;
    ensure!(cell.are_large(sizes.back), "the host had to cut by itself: {sizes:?}");
    udp(&lab, &guest, V6)?;
    let log = lab.vnicd.log();
    let features = log.iter().rfind(|line| line.contains("features: ")).map(String::as_str).unwrap_or_default();
    ensure!(!features.contains("GUEST_TSO") && !features.contains("MRG_RXBUF"), "{features}");
    Ok(())
}
