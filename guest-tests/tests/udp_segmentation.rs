//! UDP in frames of 64 KiB that the device cuts, or leaves whole.

use anyhow::{Result, ensure};
use guest_tests::driver::nic::{MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic, frames};
use guest_tests::lab::{self, GUEST, GUEST6, HOST, HOST6};
use guest_tests::transfer::{self, Datagrams};
use guest_tests::{Guest, Kernel, Lab, NetNs, Qemu, Side, Vnicd};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

const MB: u64 = 1_000_000;

// Virtio features (virtio 1.3, 5.1.3) by bit.
const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
const HOST_USO: u64 = 1 << 56;

// The virtio-net header of a frame that is to be cut.
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;

/// The sum over the pseudo header, as it stands in a datagram whose checksum is yet to be made (RFC 768).
fn pseudo_sum(frame: &[u8]) -> u16 {
    let length = frame[38..40].try_into().map_or(0, u16::from_be_bytes);
    let words = frame[26..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + 17 + u32::from(length);
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// A driver that takes and gives such frames, which no QEMU lets its guests do so far.
#[test]
fn a_driver_that_leaves_segmentation_to_the_device() -> Result<()> {
    const SIZE: usize = 1000;
    const SEGMENTS: usize = 60;
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    let features = VERSION_1 | MRG_RXBUF | CSUM | GUEST_CSUM | HOST_USO | GUEST_USO4 | GUEST_USO6;
    let mut nic = ScriptedNic::start(&ns, &vnicd, features, 256, Posting { count: 128, len: 2048 })?;
    setsockopt(nic.host(), UdpGsoSegment, &(SIZE as i32))?;
    for round in 0..20u8 {
        // The last datagram is a short one.
        let payload: Vec<u8> = (0..SIZE * SEGMENTS - 100).map(|i| (i / 251 + i) as u8 ^ round).collect();
        let mut frame = nic.frame(&payload)?;
        let sum = pseudo_sum(&frame);
        frame[40..42].copy_from_slice(&sum.to_be_bytes());
        let mut header = [0; 12];
        header[..2].copy_from_slice(&[NEEDS_CSUM, GSO_UDP_L4]);
        for (at, value) in [(2, frames::HEADERS as u16), (4, SIZE as u16), (6, 34), (8, 6)] {
            header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        nic.send_raw(&header, &frame, 1 + usize::from(round) % 4)?;
        payload.chunks(SIZE).try_for_each(|datagram| nic.host_receives(datagram))?;

        nic.host_sends(&payload)?;
        let (frame, buffers) = nic.receive()?;
        ensure!(frames::udp_payload(&frame) == Some((9000, &payload[..])), "another frame, of {} bytes", frame.len());
        ensure!(buffers > 1, "{} bytes in {buffers} buffer", frame.len());
        for _ in 0..buffers {
            nic.post_fresh(2048)?;
        }
    }
    Ok(())
}

/// A guest whose kernel could leave segmentation to its device: bursts of almost 64 KiB each way, and TCP.
#[test]
fn a_new_kernel_sends_bursts_both_ways() -> Result<()> {
    const BATCH: u64 = 46;
    let lab = Lab::new()?;
    let guest = Guest::builder().qemu(Qemu::V10).kernel(Kernel::Backports).nic(lab.nic()).boot()?;
    lab::address_guest(&guest)?;
    lab.wait_for_lines("ring started", 2)?;
    lab.ping(&guest)?;
    // QEMU 10.0 keeps these features to itself with any vhost-user device; one that passes them on is held to them.
    let segments = lab.lines_with("HOST_USO GUEST") == 1;
    ensure!(segments == (lab.lines_with("GUEST_USO4 GUEST_USO6") == 1), "half of USO:\n{}", lab.vnicd.log().join("\n"));
    let kernel = guest.run_ok("uname -r")?;
    eprintln!("Linux {}, USO: {segments}", kernel.trim());

    let (inside, outside) = (Side::Guest(&guest), Side::Host(&lab.ns));
    let datagrams = Datagrams { count: 100 * BATCH, size: 1400, pps: Some(8000) };
    for (from, to, address) in
        [(inside, outside, HOST), (outside, inside, GUEST), (inside, outside, HOST6), (outside, inside, GUEST6)]
    {
        let before = lab.ns.counters("tap0")?;
        let came = transfer::udp_in_batches(from, to, address, datagrams, BATCH as usize)?;
        ensure!(came.count == datagrams.count, "datagrams to {address} were lost: {came:?}");
        let after = lab.ns.counters("tap0")?;
        let frames = (after.rx_packets - before.rx_packets) + (after.tx_packets - before.tx_packets);
        ensure!(!segments || frames < datagrams.count / 4, "{frames} frames for {} datagrams", datagrams.count);
    }
    for addresses in [[HOST, GUEST], [HOST6, GUEST6]] {
        transfer::tcp(inside, outside, addresses[0], 16 * MB + 1)?;
        transfer::tcp(outside, inside, addresses[1], 16 * MB + 1)?;
    }
    Ok(())
}
