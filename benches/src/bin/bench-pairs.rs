//! Four queue pairs and one in turn, in guests that are the same otherwise, four TCP streams each: `make bench-pairs`.

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

/// Compare vnicd with four queue pairs and with one, or QEMU's own TAP: what the guest itself makes of more pairs.
#[derive(Debug, Parser)]
struct Options {
    /// How many pairs of runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// Measure QEMU's own TAP instead of vnicd
    #[arg(long)]
    qemu_tap: bool,

    /// Where the table, the JSON file and the plot are written [default: bench-pairs in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

const NAME: &str = "bench-pairs";
const CPUS: u16 = 4;
const STREAMS: u16 = 4;

fn main() -> ExitCode {
    let options = Options::parse();
    supervised(NAME, || bench(&options))
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join(NAME),
    };
    let slots = Slots::take(SLOTS);
    let (peer, peer_name) = if options.qemu_tap { (Peer::QemuTap, "QEMU tap") } else { (Peer::Vnicd, "vnicd") };
    let mut report = Report {
        subjects: ["4 queue pairs".into(), "1 queue pair".into()],
        conditions: machine::conditions()?,
        ..Report::default()
    };
    let start = Instant::now();
    for pair in 1..=options.pairs {
        for (subject, pairs) in [4, 1].into_iter().enumerate() {
            let name = &report.subjects[subject];
            println!("[{:>4.0} s] pair {pair} of {}: {name}", start.elapsed().as_secs_f64(), options.pairs);
            let rig = Rig::boot(peer, Shape { cpus: CPUS, pairs, ..Shape::ONE }, &slots)?;
            if report.title.is_empty() {
                let guest = rig.describe()?;
                report.title = format!("{peer_name}, {CPUS} vCPUs, {STREAMS} streams ({guest})");
            }
            rig.explained(measure(&rig, subject, options.seconds, &mut report))?;
        }
    }
    report.conditions.push(("load average at the end".into(), machine::load()?));
    report.save(&output, NAME)?;
    println!("\n{}", report.table());
    Ok(())
}

fn measure(rig: &Rig, subject: usize, seconds: u64, report: &mut Report) -> Result<()> {
    let _server = iperf::Server::start(rig.ns(), Duration::from_secs(4 * seconds + 120))?;
    for (name, way) in [("TCP guest to host", Way::GuestToHost), ("TCP host to guest", Way::HostToGuest)] {
        let mbits = iperf::tcp_mbits(rig.guest(), HOST, way, STREAMS, seconds)?;
        println!("         {name}: {mbits:.0} Mbit/s");
        report.add(subject, name, "Mbit/s", Better::Higher, mbits);
    }
    Ok(())
}
