//! Unsegmented TCP frames towards a client that takes none: who cuts them, and what that costs.
//!
//! The frames are put into the TAP's queue while the back end is stopped, so that it has work without a pause when it goes
//! on, and nobody else needs its CPU or the client's. testpmd never sleeps; what it needs for the packets is the time of
//! the rounds in which it found some (`--record-core-cycles`), which flatters it. The daemon waits for interrupts; what it
//! needs is all time on a processor of all its threads.

#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::frames::{self, Mac};
use guest_tests::{NetNs, Signal};
use rustix::process::{Pid, kill_process};

use super::device::packet_socket;
use super::joined::Lab;
use super::sink::TAP;
use super::subject::Subject;
use crate::testpmd::Forwarded;
use crate::uplinks::counting::{namespace, settled};
use crate::uplinks::packets::{CLIENT, HOST};
use crate::uplinks::{BackEnd, Client, Place, Work};

/// Segments of a frame.
pub const SEGMENTS: usize = 45;
/// Bytes of payload of a segment.
pub const MSS: usize = 1448;
/// Bytes of the headers of a segment: Ethernet, IPv4, TCP with time stamps.
const HEADERS: usize = 14 + 20 + 32;
/// Frames that wait when the back end goes on.
const FRAMES: usize = 400;
/// Rounds for each second of a measurement that is wished for.
const ROUNDS_A_SECOND: u64 = 10;

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Segments that the client got for each second of the back end's CPU time.
    pub segments_a_cpu_second: f64,
    /// The part of all segments that got there.
    pub received: f64,
}

impl Lab {
    /// Has a back end carry frames from its TAP to a client without offloads.
    pub fn injected(&self, subject: Subject) -> Result<Sample> {
        let (ns, dir) = (namespace()?, tempfile::tempdir()?);
        let socket = dir.path().join("vhost.sock");
        let args: Vec<&str> = self.args.iter().map(String::as_str).chain(["--mode", "interrupt"]).collect();
        let mut back_end = subject.start(Place { ns: &ns, dir: dir.path(), socket: &socket }, self.memory, &args)?;
        // Whoever segments before the queue needs as many places.
        ns.sh(&format!("ip link set {TAP} up txqueuelen {}", FRAMES * SEGMENTS + 1000))?;
        let mut client = Client::start(&ns, dir.path(), &socket, self.memory, Work::Receive)?;
        client.go()?;
        let rounds = (self.time.as_secs_f64() * ROUNDS_A_SECOND as f64).ceil().max(1.0) as u64;
        let measured = self.rounds(&ns, &mut back_end, &mut client, rounds);
        back_end.explained(measured).with_context(|| format!("injected frames, {}", subject.name()))
    }

    fn rounds(&self, ns: &NetNs, back_end: &mut BackEnd, client: &mut Client, rounds: u64) -> Result<Sample> {
        let mut socket = ns.run_in(|| packet_socket(TAP))??;
        let frame = unsegmented(CLIENT.1);
        let (mut received, mut cpu) = (0, Duration::ZERO);
        // The first one warms up.
        for round in 0..=rounds {
            let (before, used) = (client.moved()?, used(back_end)?);
            let stopped = Stopped::stop(back_end.pid())?;
            for _ in 0..FRAMES {
                let sent = socket.write(&frame)?;
                ensure!(sent == frame.len(), "a frame was cut to {sent} bytes");
            }
            drop(stopped);
            settled(before.rx_packets, || Ok(client.moved()?.rx_packets))?;
            let (after, used) = (client.moved()?, self::used(back_end)?.saturating_sub(used));
            let (packets, bytes) = (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes);
            let whole = packets * (HEADERS + MSS) as u64;
            ensure!(bytes == whole, "{packets} segments of {bytes} bytes in all, not {whole}");
            if round > 0 {
                received += packets;
                cpu += used;
            }
        }
        let sent = rounds * (FRAMES * SEGMENTS) as u64;
        ensure!(received <= sent && !cpu.is_zero(), "{received} of {sent} segments in {cpu:?}");
        let segments_a_cpu_second = received as f64 / cpu.as_secs_f64();
        Ok(Sample { segments_a_cpu_second, received: received as f64 / sent as f64 })
    }
}

/// A process that stands still as long as this value lives.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed()).context("no process")?;
        kill_process(pid, Signal::STOP)?;
        // Until all its threads have seen it.
        thread::sleep(Duration::from_millis(5));
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that has ended needs nothing.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Time that a back end has worked so far.
fn used(back_end: &mut BackEnd) -> Result<Duration> {
    match back_end {
        BackEnd::Vnicd(vnicd) => on_cpu(vnicd.pid()),
        BackEnd::Testpmd(console) => {
            let printed = console.run("show fwd stats all")?;
            // Without a packet so far there is no line of cycles.
            let Some(cycles) = Forwarded::parse(&printed)?.cycles else {
                return Ok(Duration::ZERO);
            };
            Ok(Duration::from_secs_f64(cycles as f64 / clock_hz(&printed)?))
        }
    }
}

/// The clock of testpmd's cycles.
fn clock_hz(printed: &str) -> Result<f64> {
    let mhz = printed.rsplit_once(") at ").and_then(|(_, rest)| rest.split_once(" MHz Clock")?.0.parse::<f64>().ok());
    Ok(1e6 * mhz.with_context(|| format!("testpmd told no clock: {printed}"))?)
}

/// Time on a processor of all threads of a process, to the nanosecond.
fn on_cpu(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let nanoseconds = text.split(' ').next().and_then(|count| count.parse::<u64>().ok());
        sum += nanoseconds.with_context(|| format!("no time in a schedstat file: {text}"))?;
    }
    Ok(Duration::from_nanos(sum))
}

/// A virtio-net header and a TCP frame (RFC 9293, time stamps by RFC 7323) yet to be segmented, its checksum yet to be
/// made (virtio 1.3, 5.1.6).
fn unsegmented(to: Mac) -> Vec<u8> {
    const NEEDS_CSUM: u8 = 1;
    const GSO_TCPV4: u8 = 1;
    let header = [HEADERS, MSS, 34, 16].map(|value| (value as u16).to_ne_bytes()).concat();
    let len = HEADERS + SEGMENTS * MSS;
    let mut ip = [&[0x45, 0][..], &((len - 14) as u16).to_be_bytes(), &[0, 0, 0x40, 0, 64, 6, 0, 0]].concat();
    ip.extend(HOST.0);
    ip.extend(CLIENT.0);
    let sum = frames::checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = [&HOST.0[..], &CLIENT.0, &[0, 6], &((len - 34) as u16).to_be_bytes()].concat();
    let mut tcp = [5001u16, 5002].map(u16::to_be_bytes).concat();
    tcp.extend([1u32, 1].map(u32::to_be_bytes).concat());
    tcp.extend([0x80, 0x10, 0xff, 0xff]);
    tcp.extend((!frames::checksum(&pseudo)).to_be_bytes());
    tcp.extend([0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    let ethernet = [&to[..], &HOST.1, &[0x08, 0x00]].concat();
    let mut frame = [&[NEEDS_CSUM, GSO_TCPV4], &header[..], &ethernet, &ip, &tcp].concat();
    frame.extend((0..SEGMENTS * MSS).map(|at| (at % 251) as u8));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_what_it_holds() {
        let frame = unsegmented(CLIENT.1);
        assert_eq!(frame.len(), 10 + HEADERS + SEGMENTS * MSS);
        assert_eq!(frame[..10], [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0]);
        let packet = &frame[10..];
        assert_eq!(frames::checksum(&packet[14..34]), 0);
        assert_eq!(packet[46] >> 4, 8, "32 bytes of TCP header");
        // Completed, the checksum is right.
        let mut tcp = packet[34..].to_vec();
        let sum = frames::checksum(&tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let pseudo = [&packet[26..34], &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
        assert_eq!(frames::checksum(&[pseudo, tcp].concat()), 0);
    }

    #[test]
    fn the_clock_of_cycles_is_found() {
        let printed = "  CPU cycles/packet=1496.09 (total cycles=95 / total io packets=64) at 2600 MHz Clock\n";
        assert_eq!(clock_hz(printed).unwrap(), 2.6e9);
        assert!(clock_hz("no packet yet").is_err());
    }

    #[test]
    fn time_of_a_busy_process_passes() {
        let mut busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let begun = std::time::Instant::now();
        let grew = || on_cpu(busy.id()).unwrap() > Duration::from_millis(20);
        while !grew() && begun.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(5));
        }
        let grew = grew();
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(grew && on_cpu(u32::MAX).is_err());
    }
}
