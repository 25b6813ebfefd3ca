//! Packets of every kind over a TAP, both ways, with and without offloads, mergeable buffers and coalescing, at three
//! MTUs: byte for byte what was sent, in the order of each flow, whatever was joined or cut on the way.
//!
//! The one exception is what RFC 6864 allows: the identification of an IPv4 packet that is not to be fragmented.

use std::collections::VecDeque;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{MRG_RXBUF, VERSION_1};
use guest_tests::driver::{BurstNic, Posting};
use guest_tests::packets::{Flow, Frame, Kind, Tap, expect};
use guest_tests::{NetNs, Vnicd};

const MTUS: [usize; 3] = [1280, 1500, 9000];

/// Bursts that are not looked at after some with nothing to join.
const FRUITLESS: usize = 7;

// Virtio features (virtio 1.3, 5.1.3) by bit.
/// CSUM, HOST_TSO4, HOST_TSO6, HOST_USO.
const HOST_OFFLOADS: u64 = 1 | 1 << 11 | 1 << 12 | 1 << 56;
/// GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6.
const GUEST_OFFLOADS: u64 = 1 << 1 | 1 << 7 | 1 << 8 | 1 << 54 | 1 << 55;

/// A corner of the matrix.
struct Corner {
    nic: BurstNic,
    tap: Tap,
    offloads: bool,
    coalesce: bool,
    mtu: usize,
}

/// Visits all corners of a daemon that joins packets, or does not.
fn in_every_corner(coalesce: bool, visit: impl Fn(&mut Corner, &[Kind]) -> Result<()>) -> Result<()> {
    let ns = NetNs::new()?;
    // So that nobody else sends anything.
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let no_coalesce = if coalesce { None } else { Some("--no-coalesce") };
    let vnicd = Vnicd::builder(&ns).args(["--queue-pairs=1", "--mode=interrupt"]).args(no_coalesce).start()?;
    ns.sh("ip link set tap0 up")?;
    for (offloads, mergeable) in [(false, false), (false, true), (true, false), (true, true)] {
        let features = if offloads { HOST_OFFLOADS | GUEST_OFFLOADS } else { 0 };
        let (buffers, posting) = match (mergeable, offloads) {
            (true, _) => (MRG_RXBUF, Posting { count: 200, len: 2048 }),
            (false, true) => (0, Posting { count: 60, len: 68 << 10 }),
            (false, false) => (0, Posting { count: 120, len: 10 << 10 }),
        };
        let nic = BurstNic::start(vnicd.socket(), VERSION_1 | features | buffers, posting)?;
        let mut corner = Corner { nic, tap: Tap::open(&ns, "tap0")?, offloads, coalesce, mtu: 0 };
        for mtu in MTUS {
            ns.sh(&format!("ip link set tap0 mtu {mtu}"))?;
            corner.mtu = mtu;
            for kinds in Kind::ALL.chunks(1).chain([&Kind::ALL[..]]) {
                visit(&mut corner, kinds).with_context(|| {
                    format!("{kinds:?}, offloads {offloads}, mergeable {mergeable}, coalesce {coalesce}, MTU {mtu}")
                })?;
            }
        }
    }
    Ok(())
}

/// Frames of several flows in turns, some of which leave work to their receiver if they may.
fn burst(kinds: &[Kind], mtu: usize, offloads: bool) -> Vec<Frame> {
    let numbers = if kinds.len() == 1 { 3 } else { 1 };
    let flows = kinds.iter().zip(0..).flat_map(|(kind, n)| (0..numbers).map(move |number| (*kind, n + number)));
    let mut flows: Vec<VecDeque<Frame>> = flows
        .map(|(kind, number)| {
            let mut flow = Flow::new(kind, number);
            let full = flow.payload_of(mtu);
            let bytes = |len: usize, seed: u8| -> Vec<u8> { (0..len).map(|at| (at / 3) as u8 ^ seed).collect() };
            // Fragments are of one length.
            let short = if kind == Kind::Fragments { full } else { full / 2 };
            if offloads && kind.has_offloads() {
                let large = bytes((60_000 / full).min(40) * full - 100, 1);
                let first = flow.segmented(&large, full, false);
                let next = (2..6).map(|seed| flow.unfinished(&bytes(full, seed), false));
                let mut frames: VecDeque<_> = [first].into_iter().chain(next).collect();
                frames.push_back(flow.unfinished(&bytes(short, 7), true));
                return frames;
            }
            let run = if kinds.len() == 1 { 8 } else { 3 };
            (0..run + 4)
                .map(|n| if n == run { (short, true) } else { (full, false) })
                .zip(0..)
                .map(|((len, is_last), seed)| flow.packet(&bytes(len, seed), is_last))
                .collect()
        })
        .collect();
    let mut frames = Vec::new();
    while flows.iter().any(|flow| !flow.is_empty()) {
        for (n, flow) in flows.iter_mut().enumerate() {
            let run = flow.len().min(1 + n % 3);
            frames.extend(flow.drain(..run));
        }
    }
    frames
}

/// What the guest sends.
fn to_uplink(corner: &mut Corner, kinds: &[Kind]) -> Result<()> {
    let joined = corner.coalesce && kinds.iter().all(|kind| kind.is_joined());
    let mut counts = Vec::new();
    // Where bursts had nothing to join, most of those that follow are not looked at.
    for _ in 0..if joined { FRUITLESS + 2 } else { 1 } {
        let sent = burst(kinds, corner.mtu, corner.offloads);
        corner.nic.send(&sent)?;
        let came = expect(&sent, |patience| corner.tap.receive(patience))?;
        if joined && came.len() * 2 <= sent.len() {
            return Ok(());
        }
        if !corner.coalesce || kinds.len() == 1 {
            counts.push((sent.len(), came.len()));
        }
    }
    ensure!(!joined, "almost nothing is joined, frames sent and received: {counts:?}");
    ensure!(counts.iter().all(|(sent, came)| sent == came), "something was joined or cut: {counts:?}");
    Ok(())
}

/// What the host's network sends, with and without offloads of its own.
fn to_guest(corner: &mut Corner, kinds: &[Kind]) -> Result<()> {
    for large in [true, false] {
        let sent = burst(kinds, corner.mtu, large);
        sent.iter().try_for_each(|frame| corner.tap.send(frame))?;
        let came = expect(&sent, |patience| corner.nic.receive(patience))?;
        if corner.offloads {
            ensure!(came.len() <= sent.len(), "{} frames of {}: some were cut", came.len(), sent.len());
            continue;
        }
        for (header, frame) in came {
            // virtio 1.3, 5.1.6.4.1: nothing is said of checksums and segments to who did not ask for it.
            ensure!(header.flags == 0 && !header.is_segmented(), "{header:?}");
            ensure!(frame.len() <= corner.mtu + 18, "{} bytes", frame.len());
        }
    }
    Ok(())
}

#[test]
fn to_the_uplink() -> Result<()> {
    in_every_corner(true, to_uplink)
}

#[test]
fn to_the_uplink_each_packet_by_itself() -> Result<()> {
    in_every_corner(false, to_uplink)
}

#[test]
fn to_the_guest() -> Result<()> {
    in_every_corner(true, to_guest)
}

#[test]
fn to_the_guest_each_packet_by_itself() -> Result<()> {
    in_every_corner(false, to_guest)
}

/// What is cut for a guest is as long as a frame of Ethernet is at least, be it from the middle of a frame.
#[test]
fn short_packets_are_filled_up() -> Result<()> {
    const SIZE: usize = 5;
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(["--queue-pairs=1", "--mode=interrupt"]).start()?;
    ns.sh("ip link set tap0 up")?;
    // Without GUEST_CSUM, and with it.
    for features in [0, 1 << 1] {
        let posting = Posting { count: 200, len: 2048 };
        let mut nic = BurstNic::start(vnicd.socket(), VERSION_1 | MRG_RXBUF | features, posting)?;
        let tap = Tap::open(&ns, "tap0")?;
        for kind in [Kind::Tcp4, Kind::Udp4] {
            let sent = [Flow::new(kind, 0).segmented(&std::array::from_fn::<u8, 33, _>(|at| at as u8), SIZE, false)];
            tap.send(&sent[0])?;
            let came = expect(&sent, |patience| {
                let Some((header, mut frame)) = nic.receive(patience)? else { return Ok(None) };
                ensure!(frame.len() >= 60, "a packet of {kind:?} has {} bytes", frame.len());
                let ip_len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
                frame.truncate(14 + ip_len);
                Ok(Some((header, frame)))
            })?;
            ensure!(came.len() == 7, "{} packets of {kind:?}", came.len());
        }
    }
    Ok(())
}
