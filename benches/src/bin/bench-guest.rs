//! vnicd and QEMU's own `-netdev tap` in turn, in the same guest: throughput, packet rate, round trip, and what the
//! daemon uses when nothing happens. `make bench-guest` runs it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use benches::iperf::{self, Way};
use benches::machine;
use benches::report::{Better, Report};
use benches::rig::{HOST, Peer, Rig, Shape};
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

    /// Where bench-guest.txt, .json and .svg are written [default: bench-guest in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

const PINGS: u32 = 100;
const DATAGRAM: u32 = 64;
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
    let mut report =
        Report { subjects: ["vnicd".into(), "QEMU tap".into()], conditions: conditions(options)?, ..Report::default() };
    let start = Instant::now();
    for pair in 1..=options.pairs {
        for (subject, peer) in [Peer::Vnicd, Peer::QemuTap].into_iter().enumerate() {
            let name = &report.subjects[subject];
            println!("[{:>4.0} s] pair {pair} of {}: {name}", start.elapsed().as_secs_f64(), options.pairs);
            let rig = Rig::boot(peer, Shape::ONE, &slots)?;
            if report.title.is_empty() {
                let guest = rig.describe()?;
                report.title = format!("vnicd and QEMU's own TAP in the same guest ({guest})");
            }
            rig.explained(measure(&rig, subject, options, &mut report))?;
        }
    }
    report.conditions.push(("load average at the end".into(), machine::load()?));
    report.save(&output, "bench-guest")?;
    println!("\n{}", report.table());
    println!("every value: {}", output.join("bench-guest.json").display());
    println!("drawn:       {}", output.join("bench-guest.svg").display());
    Ok(())
}

fn measure(rig: &Rig, subject: usize, options: &Options, report: &mut Report) -> Result<()> {
    let Options { seconds, .. } = *options;
    let guest = rig.guest();
    let lifetime = Duration::from_secs(4 * seconds + 120);
    let server = iperf::Server::start(rig.ns(), lifetime)?;
    let mut tell = |name: &str, unit: &str, better: Better, value: f64| {
        println!("         {name}: {value:.*} {unit}", if value < 100.0 { 2 } else { 0 });
        report.add(subject, name, unit, better, value);
    };

    let to_host = iperf::tcp_mbits(guest, HOST, Way::GuestToHost, 1, seconds)?;
    tell("TCP guest to host", "Mbit/s", Better::Higher, to_host);
    let to_guest = iperf::tcp_mbits(guest, HOST, Way::HostToGuest, 1, seconds)?;
    tell("TCP host to guest", "Mbit/s", Better::Higher, to_guest);
    let pps = iperf::udp_pps(guest, HOST, DATAGRAM, seconds)?;
    tell("UDP 64 bytes guest to host, received", "packets/s", Better::Higher, pps);
    tell("ping", "ms", Better::Lower, rig.ping_ms(PINGS)?);

    drop(server);
    if let Some(idle) = rig.idle(IDLE)? {
        let mut tell = |name: &str, unit: &str, value: f64| {
            println!("         {name}: {value} {unit}");
            report.add_figure(name, unit, value);
        };
        tell("idle: voluntary switches in 5 s", "switches", idle.switches as f64);
        tell("idle: CPU time in 5 s, to 10 ms", "ms", idle.cpu.as_secs_f64() * 1000.0);
        tell("idle: VmRSS - RssShmem", "KiB", (idle.private_bytes / 1024) as f64);
    }
    Ok(())
}

fn conditions(options: &Options) -> Result<Vec<(String, String)>> {
    let congestion_control = machine::read("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let list = [
        ("guest", "1 vCPU, 512 MiB, one queue pair".into()),
        ("runs", format!("{} in turn on each, {} s a measurement", options.pairs, options.seconds)),
        ("congestion control of the host", congestion_control.trim().into()),
    ];
    let own = list.map(|(name, value): (&str, String)| (name.into(), value));
    Ok(machine::conditions()?.into_iter().chain(own).collect())
}
