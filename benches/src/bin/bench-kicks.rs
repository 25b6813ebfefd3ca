//! What a device loses when its neighbour's driver kicks without end: packets a second beside a neighbour that floods, and
//! beside one that is as busy and does not, in turn. `make bench-kicks` runs it. It fails when a device keeps too little.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::claim::{self, Bound, Claim};
use benches::kicks::{Kicks, Neighbours};
use benches::machine;
use benches::report::{Better, Report};
use benches::supervise::supervised;
use clap::Parser;
use guest_tests::NetNs;

const NAME: &str = "bench-kicks";
/// What a device keeps of its rate at least.
const LEAST: f64 = 0.9;
/// Whose threads are whose, and what they do with packets.
const CASES: [(&str, &str, bool); 4] = [
    ("one worker, TAPs", "per-cpu", true),
    ("a worker each, TAPs", "per-pair", true),
    ("one worker, discarded", "per-cpu", false),
    ("a worker each, discarded", "per-pair", false),
];

/// Measure a device beside a neighbour whose driver kicks without end.
#[derive(Debug, Parser)]
struct Options {
    /// How many pairs of runs
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Seconds of each run
    #[arg(long, default_value = "0.5")]
    seconds: f64,

    /// Where the table and the JSON file are written [default: bench-kicks in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    supervised(NAME, || bench(&options))
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join(NAME),
    };
    let time = Duration::try_from_secs_f64(options.seconds).context("--seconds")?;
    ensure!(
        std::thread::available_parallelism()?.get() > 1,
        "drivers and workers need a CPU each: this machine has one"
    );
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let daemons = CASES.map(|(_, threads, with_taps)| Neighbours::start(&ns, threads, with_taps));
    let mut report = Report {
        title: "vnicd: packets that a device moves beside another whose driver kicks without end".into(),
        subjects: ["flood of kicks".into(), "as busy, honest".into()],
        conditions: machine::conditions()?,
        ..Report::default()
    };
    report.conditions.push(("runs".into(), format!("{} pairs, {} s each", options.pairs, options.seconds)));
    let start = Instant::now();
    for pair in 1..=options.pairs {
        println!("[{:>4.0} s] pair {pair} of {}", start.elapsed().as_secs_f64(), options.pairs);
        for ((name, ..), daemon) in CASES.iter().zip(&daemons) {
            let daemon = daemon.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
            // Each is first as often as second.
            let mut order = [Kicks::Flood, Kicks::Honest];
            order.rotate_left(pair as usize % 2);
            for kicks in order {
                let found = daemon.run(time, kicks).with_context(|| format!("{name}, {kicks:?}"))?;
                let subject = usize::from(kicks == Kicks::Honest);
                report.add(subject, name, "packets/s", Better::Higher, found.pps);
                report.add(
                    subject,
                    &format!("{name}: the neighbour"),
                    "packets/s",
                    Better::Higher,
                    found.neighbour_pps,
                );
                report.add(subject, &format!("{name}: writes beside"), "1/s", Better::Higher, found.writes_per_s);
            }
        }
    }
    report.conditions.push(("load average at the end".into(), machine::load()?));
    report.save_text(&output, NAME)?;
    println!("\n{}", report.table());
    let claims = CASES.map(|(name, ..)| Claim::new(name, report.ratio(name), Bound::AtLeast(LEAST)));
    println!("{}", claim::table("a device keeps of its rate", &claims));
    let failed = claims.iter().filter(|claim| claim.holds() != Some(true)).count();
    ensure!(failed == 0, "{failed} of {} claims do not hold", claims.len());
    Ok(())
}
