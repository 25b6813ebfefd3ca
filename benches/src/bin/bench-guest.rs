//! vnicd and QEMU's own `-netdev tap` in turn, in the same guest: throughput with the device's offloads and without them,
//! packet rate, round trip, and what the daemon uses when nothing happens. `make bench-guest` runs it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use benches::claim::{self, Bound, Claim};
use benches::iperf::{self, Way};
use benches::machine;
use benches::report::{Better, Report};
use benches::rig::{HOST, Peer, Rig, Shape, guest_alone};
use benches::supervise::supervised;
use clap::Parser;
use guest_tests::Slots;
use guest_tests::guest::SLOTS;

/// Compare vnicd with QEMU's own TAP in the same guest.
#[derive(Debug, Parser)]
struct Options {
    /// How many pairs of runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Seconds of each TCP and UDP measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// A further option of the daemon, such as --mode=polling
    #[arg(long = "vnicd-arg", allow_hyphen_values = true)]
    args: Vec<String>,

    /// Where bench-guest.txt, .json and .svg are written [default: bench-guest in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

const TO_HOST: &str = "TCP guest to host";
const TO_GUEST: &str = "TCP host to guest";
const UDP: &str = "UDP 64 bytes guest to host, received";
const PINGS: u32 = 100;
const DATAGRAM: u32 = 64;
/// Payload of a full packet.
const SEGMENT: u32 = 1448;
const IDLE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let options = Options::parse();
    supervised("bench-guest", || bench(&options))
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join("bench-guest"),
    };
    // A guest of this program must not disturb another's measurement.
    let slots = Slots::take(SLOTS);
    let peers = Peer::available();
    let args: Vec<&str> = options.args.iter().map(String::as_str).collect();
    // The daemon beside each of the others.
    let report = |other: &Peer| {
        let subjects = [Peer::Vnicd.name().into(), other.name().into()];
        anyhow::Ok(Report { subjects, conditions: conditions(options)?, ..Report::default() })
    };
    let mut reports: Vec<Report> = peers[1..].iter().map(report).collect::<Result<_>>()?;
    let start = Instant::now();
    let say = |what: &str| println!("[{:>4.0} s] {what}", start.elapsed().as_secs_f64());
    for (pair, offloads) in (1..=options.pairs).flat_map(|pair| [(pair, true), (pair, false)]) {
        for (subject, peer) in peers.iter().enumerate() {
            let with = if offloads { "" } else { ", offloads off" };
            say(&format!("pair {pair} of {}: {}{with}", options.pairs, peer.name()));
            let shape = Shape { offloads, ..Shape::ONE };
            let rig = match peer {
                Peer::Vnicd => Rig::boot_vnicd(&args, shape, &slots)?,
                other => Rig::boot(*other, shape, &slots)?,
            };
            let guest = rig.describe()?;
            let mut findings = Findings { subject, offloads, reports: &mut reports };
            rig.explained(measure(&rig, options, &mut findings))?;
            for (report, other) in reports.iter_mut().zip(&peers[1..]) {
                report.title = format!("vnicd and {} in the same guest ({guest})", other.name());
            }
        }
    }
    for (size, what) in [(DATAGRAM, "64 bytes"), (SEGMENT, "1448 bytes")] {
        let pps = guest_alone(Shape::ONE, &slots, size, options.seconds)?;
        say(&format!("the guest alone, {what}: {pps:.0} packets/s"));
        let (value, unit) =
            if size == SEGMENT { (pps * f64::from(8 * size) / 1e6, "Mbit/s") } else { (pps, "packets/s") };
        reports[0].add_figure(&format!("UDP {what}, the guest's own limit, into `discard`"), unit, value);
    }
    for (report, name) in reports.iter_mut().zip(["bench-guest", "bench-guest-vhost"]) {
        report.conditions.push(("load average at the end".into(), machine::load()?));
        report.save(&output, name)?;
        println!("\n{}", report.table());
    }
    println!("{}", claim::table("what vnicd must show", &claims(&reports[0])));
    println!("every value: {}", output.join("bench-guest.json").display());
    println!("drawn:       {}", output.join("bench-guest.svg").display());
    Ok(())
}

/// Where a measurement's values go.
struct Findings<'a> {
    /// Whose they are, the daemon's 0.
    subject: usize,
    offloads: bool,
    reports: &'a mut [Report],
}

impl Findings<'_> {
    fn tell(&mut self, name: &str, unit: &str, better: Better, value: f64) {
        let name = if self.offloads { name.into() } else { without(name) };
        println!("         {name}: {value:.*} {unit}", if value < 100.0 { 2 } else { 0 });
        match self.subject {
            0 => self.reports.iter_mut().for_each(|report| report.add(0, &name, unit, better, value)),
            other => self.reports[other - 1].add(1, &name, unit, better, value),
        }
    }

    fn tell_figure(&mut self, name: &str, unit: &str, value: f64) {
        println!("         {name}: {value} {unit}");
        self.reports[0].add_figure(name, unit, value);
    }
}

/// A quantity's name when the device does nothing for its driver.
fn without(name: &str) -> String {
    format!("{name}, offloads off")
}

fn measure(rig: &Rig, options: &Options, findings: &mut Findings<'_>) -> Result<()> {
    let Options { seconds, .. } = *options;
    let guest = rig.guest();
    let lifetime = Duration::from_secs(4 * seconds + 120);
    let server = iperf::Server::start(rig.ns(), lifetime)?;
    for (name, way) in [(TO_HOST, Way::GuestToHost), (TO_GUEST, Way::HostToGuest)] {
        findings.tell(name, "Mbit/s", Better::Higher, iperf::tcp_mbits(guest, HOST, way, 1, seconds)?);
    }
    if !findings.offloads {
        return Ok(());
    }
    findings.tell(UDP, "packets/s", Better::Higher, iperf::udp_pps(guest, HOST, DATAGRAM, seconds)?);
    findings.tell("ping", "ms", Better::Lower, rig.ping_ms(PINGS)?);

    drop(server);
    if let Some(idle) = rig.idle(IDLE)? {
        findings.tell_figure("idle: voluntary switches in 5 s", "switches", idle.switches as f64);
        findings.tell_figure("idle: CPU time in 5 s, to 10 ms", "ms", idle.cpu.as_secs_f64() * 1000.0);
        findings.tell_figure("idle: VmRSS - RssShmem", "KiB", (idle.private_bytes / 1024) as f64);
    }
    Ok(())
}

/// What the daemon must show beside QEMU's own TAP.
fn claims(report: &Report) -> Vec<Claim> {
    let tcp = [TO_HOST.into(), TO_GUEST.into(), without(TO_HOST), without(TO_GUEST)];
    let at_least = |name: &str, bound| Claim::new(name, report.ratio(name), Bound::AtLeast(bound));
    // The second best of four reaches what two of them must.
    let mut ratios: Vec<f64> = tcp.iter().filter_map(|name| report.ratio(name)).collect();
    ratios.sort_by(f64::total_cmp);
    let second = if ratios.len() == tcp.len() { ratios.get(2).copied() } else { None };
    let two = Claim::new("two of these four", second, Bound::AtLeast(1.15));
    tcp.iter().map(|name| at_least(name, 1.0)).chain([two, at_least(UDP, 1.3)]).collect()
}

fn conditions(options: &Options) -> Result<Vec<(String, String)>> {
    let congestion_control = machine::read("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let list = [
        ("guest", "1 vCPU, 512 MiB, one queue pair".into()),
        ("runs", format!("{} in turn on each, {} s a measurement", options.pairs, options.seconds)),
        ("congestion control of the host", congestion_control.trim().into()),
    ];
    let own = list.map(|(name, value): (&str, String)| (name.into(), value));
    let args = (!options.args.is_empty()).then(|| ("options of vnicd".into(), options.args.join(" ")));
    Ok(machine::conditions()?.into_iter().chain(own).chain(args).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_four_must_be_better() {
        let holds = |ratios: [f64; 4], udp: f64| {
            let mut report = Report::default();
            let names = [TO_HOST.into(), TO_GUEST.into(), without(TO_HOST), without(TO_GUEST), UDP.into()];
            for (name, ratio) in names.iter().zip(ratios.into_iter().chain([udp])) {
                report.add_pair(name, "Mbit/s", Better::Higher, [Some(100.0 * ratio), Some(100.0)]);
            }
            claims(&report).iter().map(|claim| claim.holds() == Some(true)).collect::<Vec<_>>()
        };
        assert_eq!(holds([1.2, 1.0, 1.0, 1.2], 1.3), [true; 6]);
        assert_eq!(holds([0.9, 1.3, 1.1, 1.1], 1.2), [false, true, true, true, false, false]);
        assert!(claims(&Report::default()).iter().all(|claim| claim.holds().is_none()));
    }
}
