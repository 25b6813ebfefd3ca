//! What is behind the TAP, and how many packets have got there.
//!
//! Counters of interfaces count bytes of payload, and headers once for each frame, whether or not the frame is yet to be
//! segmented; with packets of one size this tells packets. A socket counts datagrams after segmentation. Nobody reads from
//! it: nearly all that come find its buffer full, after everything else was done for them.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use guest_tests::NetNs;
use guest_tests::driver::frames::{HEADERS, Mac};

use crate::uplinks::packets::{HOST, PAYLOAD, PORT, STRANGER};

/// The TAP.
pub const TAP: &str = "tap0";
/// The far end of the pair behind a bridge.
const FAR: &str = "veth1";

/// Who gets the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sink {
    /// The host's network stack, which drops them: they are for another host.
    Stack,
    /// A bridge with a veth pair, at whose far end they are dropped.
    Bridge,
    /// A bound UDP socket.
    Socket,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stack => "host stack that drops",
            Self::Bridge => "bridge and veth",
            Self::Socket => "bound UDP socket",
        })
    }
}

impl Sink {
    /// Where the packets must be sent to.
    #[must_use]
    pub fn mac(self) -> Mac {
        match self {
            Self::Stack | Self::Bridge => STRANGER,
            Self::Socket => HOST.1,
        }
    }
}

/// A sink behind a TAP.
#[derive(Debug)]
pub struct Behind {
    sink: Sink,
    ns: NetNs,
    socket: Option<UdpSocket>,
}

impl Behind {
    /// Puts it behind the TAP of a namespace.
    pub fn tap(ns: &NetNs, sink: Sink) -> Result<Self> {
        let mut socket = None;
        match sink {
            Sink::Stack => {}
            Sink::Bridge => {
                let lines = [
                    "ip link add br0 type bridge",
                    &format!("ip link add veth0 type veth peer name {FAR}"),
                    &format!("ip link set {TAP} master br0"),
                    "ip link set veth0 master br0",
                    &format!("ip link set veth0 up && ip link set {FAR} up && ip link set br0 up"),
                ];
                lines.iter().try_for_each(|line| ns.sh(line).map(drop))?;
            }
            Sink::Socket => {
                let (address, mac) = HOST;
                let (address, mac) = (Ipv4Addr::from(address), mac.map(|byte| format!("{byte:02x}")).join(":"));
                ns.sh(&format!("ip link set {TAP} address {mac} && ip addr add {address}/24 dev {TAP}"))?;
                socket = Some(ns.run_in(|| UdpSocket::bind((address, PORT)))??);
            }
        }
        ns.sh(&format!("ip link set {TAP} up"))?;
        Ok(Self { sink, ns: ns.clone(), socket })
    }

    /// Reads what a socket holds, which counts only then.
    pub fn read_all(&self) -> Result<()> {
        if let Some(socket) = &self.socket {
            socket.set_nonblocking(true)?;
            while socket.recv(&mut [0; PAYLOAD]).is_ok() {}
        }
        Ok(())
    }

    /// Packets that have got there so far.
    pub fn packets(&self) -> Result<u64> {
        let interface = match self.sink {
            Sink::Stack => TAP,
            Sink::Bridge => FAR,
            Sink::Socket => {
                let snmp = self.ns.run_in(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
                return datagrams(&snmp);
            }
        };
        let counters = self.ns.counters(interface)?;
        segments(counters.rx_packets, counters.rx_bytes)
    }
}

/// Packets in so many frames of so many bytes in all.
fn segments(frames: u64, bytes: u64) -> Result<u64> {
    let payload = bytes.checked_sub(frames * HEADERS as u64);
    let payload = payload.with_context(|| format!("{frames} frames in {bytes} bytes"))?;
    let segments = payload / PAYLOAD as u64;
    // A stray frame now and then changes nothing.
    ensure!(segments >= frames / 2, "{frames} frames in {bytes} bytes are not of {PAYLOAD} bytes of payload each");
    Ok(segments)
}

/// Datagrams that came to a socket, whether they found room there or not (`/proc/net/snmp`, RFC 4113 and further).
fn datagrams(snmp: &str) -> Result<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, counts) = lines.next().zip(lines.next()).context("no UDP in /proc/net/snmp")?;
    let count = |wanted: &str| {
        let at = names.split(' ').position(|name| name == wanted)?;
        counts.split(' ').nth(at)?.parse::<u64>().ok()
    };
    // Those that no room was found for are errors, like those that were wrong.
    let sums = ["InDatagrams", "RcvbufErrors", "MemErrors"].map(|name| count(name).unwrap_or(0));
    ensure!(count("InCsumErrors") == Some(0), "datagrams with a wrong checksum: {snmp}");
    Ok(sums.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_for_what_it_holds() {
        assert_eq!(segments(0, 0).unwrap(), 0);
        assert_eq!(segments(10, 10 * 64).unwrap(), 10);
        // One of 64 packets, one of three, one of one.
        assert_eq!(segments(3, 3 * 42 + 68 * 22).unwrap(), 68);
        assert!(segments(3, 100).is_err(), "less than headers");
        assert!(segments(100, 100 * 44).is_err(), "hardly more");
    }

    #[test]
    fn datagrams_count_whether_or_not_there_was_room() {
        let head = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors \
                    InCsumErrors IgnoredMulti MemErrors\n";
        let counted = |line: &str| datagrams(&format!("{head}{line}\nUdpLite: InDatagrams\nUdpLite: 0\n"));
        assert_eq!(counted("Udp: 7 1 30 0 28 0 0 0 2").unwrap(), 37);
        assert!(counted("Udp: 7 1 30 0 28 0 1 0 0").is_err());
        assert!(datagrams("Ip: 1\n").is_err());
    }
}
