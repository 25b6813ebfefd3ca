//! Instructions a packet: the daemon under callgrind takes two numbers of packets, and the difference counts.
//!
//! What a start, a connection and an end cost is the same in both runs. The daemon sleeps between the bursts, each a
//! full ring, so that no instruction is one of waiting; what waking up takes is shared by the packets of a burst.

use std::ffi::OsStr;
use std::fs;
use std::path::Path as FilePath;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::vnicd::binary;
use guest_tests::{NetNs, Process};

use crate::loadgen::frame::NET_HEADER;
use crate::loadgen::{Session, SessionConfig};
use crate::testpmd::wait_for;

const FEW: u32 = 20_480;
const MANY: u32 = 10 * FEW;
const RING_SIZE: u16 = 256;
/// No daemon lives longer.
const LIFETIME: Duration = Duration::from_secs(180);
/// Nothing is fast under callgrind.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether callgrind is there.
#[must_use]
pub fn is_possible() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Who captures what the guest sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captured {
    /// Nobody.
    No,
    /// `vnicctl capture`, whole frames.
    Yes,
}

/// Instructions a packet of a daemon with such options, whose guest sends these frames again and again, split ring. The
/// options name an uplink, and a mode that sleeps.
pub fn per_packet(ns: &NetNs, args: &[&str], frames: &[Vec<u8>], captured: Captured) -> Result<f64> {
    let count = |packets| instructions(ns, args, frames, packets, captured);
    let (few, many) = (count(FEW)?, count(MANY)?);
    let more = many.checked_sub(few).with_context(|| format!("{few} for {FEW} packets, {many} for {MANY}"))?;
    Ok(more as f64 / f64::from(MANY - FEW))
}

/// Instructions of a daemon's life with so many packets.
fn instructions(ns: &NetNs, args: &[&str], frames: &[Vec<u8>], packets: u32, captured: Captured) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let [socket, control, profile] = ["vhost.sock", "control", "profile"].map(|name| dir.path().join(name));
    let mut command = ns.command("valgrind");
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", profile.display()));
    command.arg(binary()?).args([OsStr::new("--socket-path"), socket.as_os_str()]);
    command.args(["--queue-pairs", "1", "--log", "warn", "--sandbox", "off"]).args(args).arg("--control").arg(&control);
    let daemon = Process::spawn_for(command, LIFETIME)?;
    wait_for(&socket)?;
    let capture = match captured {
        Captured::No => None,
        Captured::Yes => {
            let mut command = Command::new(binary()?.with_file_name("vnicctl"));
            command.arg("--control").arg(&control).args(["capture", "-w", "/dev/null"]);
            let capture = Process::spawn_for(command, LIFETIME)?;
            capture.wait_for_line("capturing ", PATIENCE)?;
            Some(capture)
        }
    };
    send(&socket, frames, packets).with_context(|| format!("under callgrind\n{}", daemon.tail()))?;
    if let Some(capture) = capture {
        capture.signal(guest_tests::Signal::TERM)?;
        let output = capture.wait_output(PATIENCE)?;
        let told = format!("{packets} frames captured, 0 dropped");
        ensure!(output.stderr.contains(&told), "{told}, but {output:?}");
    }
    daemon.signal(guest_tests::Signal::TERM)?;
    let status = daemon.wait(PATIENCE)?;
    ensure!(status.success(), "vnicd ended under callgrind with {status}\n{}", daemon.tail());
    total(&fs::read_to_string(&profile).with_context(|| format!("no profile\n{}", daemon.tail()))?)
}

/// Sends so many packets, as many at a time as a ring holds, and waits until all were taken.
fn send(socket: &FilePath, frames: &[Vec<u8>], packets: u32) -> Result<()> {
    let mut session = Session::start(&SessionConfig { queue_size: RING_SIZE, ..SessionConfig::new(socket) })?;
    let mut pair = session.pairs.pop().context("no queue pair")?;
    pair.tx.ring.suppress_calls();
    let ring = &pair.tx.ring;
    let lens: Vec<_> = (0..RING_SIZE)
        .zip(frames.iter().cycle())
        .map(|(slot, frame)| {
            ring.buffers().write(ring.at(slot) + NET_HEADER, frame);
            (NET_HEADER + frame.len()) as u32
        })
        .collect();
    ensure!(!lens.is_empty(), "no frames");
    let mut left = packets;
    while left > 0 {
        let burst = left.min(RING_SIZE.into());
        for _ in 0..burst {
            let slot = pair.tx.ring.next_slot();
            pair.tx.ring.offer(lens[usize::from(slot)]);
        }
        if pair.tx.ring.publish() == Some(true) {
            pair.tx.kick()?;
        }
        let start = Instant::now();
        while pair.tx.ring.in_flight() > 0 {
            pair.tx.ring.look()?;
            while pair.tx.ring.take()?.is_some() {}
            ensure!(start.elapsed() < PATIENCE && !pair.tx.is_broken(), "{} packets are not taken", burst);
            thread::sleep(Duration::from_micros(100));
        }
        left -= burst;
    }
    Ok(())
}

/// The sum in a profile (Callgrind Format Specification, "totals").
fn total(profile: &str) -> Result<u64> {
    let line = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    line.and_then(|count| count.trim().parse().ok()).context("the profile tells no total")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_profile_is_found() {
        let profile = "# callgrind format\nevents: Ir\nsummary: 7\n\nfn=(1) main\n16 400\ntotals: 1234567\n";
        assert_eq!(total(profile).unwrap(), 1_234_567);
        assert!(total("# callgrind format\nevents: Ir\n").is_err());
        assert!(total("totals: many\n").is_err());
    }
}
