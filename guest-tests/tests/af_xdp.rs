//! A scripted driver over AF_XDP on one end of a veth pair; the host's socket is at the other.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic, frames};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};
use vnicd_lib::opener::{OpenedXdp, XdpMode, XdpRequest, open_xdp};
use vnicd_lib::uplink::XdpSteering;

const POSTING: Posting = Posting { count: 64, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;

// Virtio features (virtio 1.3, 5.1.3) by bit.
const CSUM: u64 = 1;
const HOST_TSO4: u64 = 1 << 11;
const HOST_USO: u64 = 1 << 56;

// The virtio-net header of a frame that is to be finished or cut.
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;

/// A namespace with a pair of so many queues: `up0`, whose frames the daemon takes, and `tap0`, where the scripted NIC has
/// its host.
fn namespace(queues: u16) -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let many = format!("numtxqueues {queues} numrxqueues {queues}");
    ns.sh(&format!("ip link add up0 {many} type veth peer name tap0 {many}"))?;
    ns.sh("ethtool -K tap0 tx off; ip link set tap0 up")?;
    Ok(ns)
}

fn program_of(ns: &NetNs, interface: &str) -> Result<bool> {
    Ok(ns.sh(&format!("ip -d link show {interface}"))?.contains("prog/xdp"))
}

#[test]
fn frames_cross_unchanged_and_the_program_goes_with_the_daemon() -> Result<()> {
    let ns = namespace(1)?;
    for (name, format) in FORMATS {
        for mode in ["auto", "copy", "skb"] {
            let vnicd = Vnicd::builder(&ns).uplink(format!("af-xdp=up0,mode={mode}")).start()?;
            ensure!(program_of(&ns, "up0")?, "no program");
            let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, 256, POSTING)?;
            for n in 0..300usize {
                let payload: Vec<u8> = (0..1 + n * 1471 / 299).map(|i| (i + n) as u8).collect();
                nic.send(&payload, 1 + n % 3).with_context(|| format!("{name}, {mode}, frame {n} out"))?;
                nic.host_sends(&payload)?;
                nic.expect_and_post(&payload, |_| false).with_context(|| format!("{name}, {mode}, frame {n} in"))?;
            }
            vnicd.kill()?;
            eventually("the program goes", || Ok(!program_of(&ns, "up0")?))?;
        }
    }
    Ok(())
}

/// The sum over the pseudo header, as it stands in a datagram whose checksum is yet to be made (RFC 768).
fn pseudo_sum(frame: &[u8]) -> u16 {
    let length = frame[38..40].try_into().map_or(0, u16::from_be_bytes);
    let words = frame[26..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + 17 + u32::from(length);
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

fn header(kind: u8, size: u16) -> [u8; 12] {
    let mut header = [0; 12];
    header[..2].copy_from_slice(&[NEEDS_CSUM, kind]);
    for (at, value) in [(2, frames::HEADERS as u16), (4, size), (6, 34), (8, 6)] {
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    header
}

/// The host checks checksums, and would drop what was left unfinished.
#[test]
fn what_a_driver_leaves_unfinished_is_finished() -> Result<()> {
    const SIZE: usize = 1000;
    let ns = namespace(1)?;
    let vnicd = Vnicd::builder(&ns).uplink("af-xdp=up0").control().start()?;
    let features = FEATURES | CSUM | HOST_TSO4 | HOST_USO;
    let mut nic = ScriptedNic::start(&ns, &vnicd, features, 256, POSTING)?;
    for round in 0..20u8 {
        let payload: Vec<u8> = (0..SIZE * 60 - 100).map(|i| (i / 251 + i) as u8 ^ round).collect();
        for (kind, len) in [(0, SIZE), (0, 1), (GSO_UDP_L4, payload.len())] {
            let payload = &payload[..len];
            let mut frame = nic.frame(payload)?;
            let sum = pseudo_sum(&frame);
            frame[40..42].copy_from_slice(&sum.to_be_bytes());
            nic.send_raw(&header(kind, SIZE as u16), &frame, 1 + usize::from(round) % 4)?;
            payload.chunks(SIZE).try_for_each(|datagram| nic.host_receives(datagram))?;
        }
    }
    let wrong = ns.sh("cat /proc/net/snmp | grep '^Udp:' | tail -1")?;
    ensure!(wrong.split_whitespace().nth(7) == Some("0"), "the host found wrong checksums: {wrong}");
    // More segments than there is room for: refused, and the next frame goes.
    let mut frame = nic.frame(&[7; 60_000])?;
    frame[40..42].fill(0);
    nic.send_raw(&header(GSO_UDP_L4, 1), &frame, 1)?;
    nic.send(b"goes on", 1)?;
    ensure!(vnicd.counters("tx_dropped_refused")? == [1]);
    Ok(())
}

#[test]
fn jumbo_frames_lie_in_several_chunks() -> Result<()> {
    let ns = namespace(1)?;
    ns.sh("ip link set up0 mtu 9000 && ip link set tap0 mtu 9000")?;
    let vnicd = Vnicd::builder(&ns).uplink("af-xdp=up0").start()?;
    ensure!(vnicd.log().iter().any(|line| line.contains("multi-buffer")), "{:?}", vnicd.log());
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    for len in [1, 1000, 1472, 1473, 3800, 4000, 4055, 4096, 8000, 8972] {
        let payload: Vec<u8> = (0..len).map(|i| (i / 251 + i) as u8).collect();
        nic.send(&payload, 3).with_context(|| format!("{len} bytes out"))?;
        nic.host_sends(&payload)?;
        nic.expect_and_post(&payload, |_| false).with_context(|| format!("{len} bytes in"))?;
    }
    Ok(())
}

/// The daemon has no rights; whoever has them opened the socket and sends it frames.
#[test]
fn a_passed_socket_needs_no_rights() -> Result<()> {
    const FD: i32 = 900;
    let ns = namespace(1)?;
    let request = XdpRequest {
        interface: "up0".into(),
        queue: 0,
        queues: 1,
        mode: XdpMode::Copy,
        mac: None,
        force: false,
        sockets: vec![],
    };
    let OpenedXdp { mut sockets, program, packets, .. } = ns.run_in(|| open_xdp(&request))??;
    let (socket, program) = (sockets.remove(0), program.context("no program")?);
    let (link, sockets, rules) = (program.link, program.sockets, program.rules);
    XdpSteering { link: link.try_clone()?, packets, sockets, rules, mac: None }.admit(0, socket.as_fd())?;
    let vnicd = Vnicd::builder(&ns).uplink(format!("af-xdp=up0,fds={FD}")).pass_fd(socket, FD).user(65_534).start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    for n in 0..50u8 {
        nic.send(&[n; 300], 1)?;
        nic.host_sends(&[n; 300])?;
        nic.expect_and_post(&[n; 300], |_| false)?;
    }
    Ok(())
}
