//! The load generator on the daemon's test uplinks: latency by rate, for a driver that sleeps and one that polls.
//! `make bench-loadgen` runs it.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::curves::{self, Curve, Panel};
use benches::loadgen::{self, DriverConfig, Latency, Mode, Outcome, Rate, RunConfig, SessionConfig, Size, Way};
use benches::machine;
use benches::report::{Better, Report};
use benches::stats::Summary;
use benches::supervise::supervised;
use clap::Parser;
use guest_tests::{NetNs, Vnicd};

/// Measure the daemon's test uplinks at several rates, with a driver that sleeps and one that polls.
#[derive(Debug, Parser)]
struct Options {
    /// How often all is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Seconds of each measurement
    #[arg(long, default_value = "1")]
    seconds: f64,

    /// Rates in packets a second
    #[arg(long, value_delimiter = ',', default_value = "1k,10k,100k,max")]
    rates: Vec<Rate>,

    /// Bytes of a frame, or imix
    #[arg(long, default_value = "60")]
    size: Size,

    /// Two CPUs: the driver's and the worker's [default: 0,1 if there are two]
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,

    /// Where bench-loadgen.txt, .json and .svg are written [default: bench-loadgen in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

const MODES: [(Mode, &str); 2] = [(Mode::Napi, "napi"), (Mode::Busy, "busy")];
const UPLINKS: [(&str, Way); 2] = [("discard", Way::Tx), ("loopback", Way::Both)];

/// One measurement.
struct Run {
    uplink: usize,
    rate: usize,
    mode: usize,
    outcome: Outcome,
}

fn main() -> ExitCode {
    let options = Options::parse();
    supervised("bench-loadgen", || bench(&options))
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join("bench-loadgen"),
    };
    let cpus = match options.cpus[..] {
        [] if std::thread::available_parallelism()?.get() > 1 => vec![0, 1],
        _ => options.cpus.clone(),
    };
    let ns = NetNs::new()?;
    let daemons = UPLINKS.map(|(uplink, _)| {
        let pinned = cpus.get(1).map(|cpu| format!("--cpus={cpu}"));
        Vnicd::builder(&ns).uplink(uplink).args(pinned).args(["--log", "warn"]).start()
    });
    let title = format!("vnicd by rate: frames of {} bytes, driver in user space", options.size);
    let mut report = Report { title, subjects: MODES.map(|(_, name)| name.into()), ..Report::default() };
    report.conditions = machine::conditions()?;
    report.conditions.push(("runs".into(), format!("{} of all, {} s a measurement", options.runs, options.seconds)));
    report.conditions.push(("CPUs of driver and worker".into(), format!("{cpus:?}")));
    let start = Instant::now();
    let mut runs = Vec::new();
    for turn in 1..=options.runs {
        println!("[{:>4.0} s] turn {turn} of {}", start.elapsed().as_secs_f64(), options.runs);
        for (uplink, daemon) in daemons.iter().enumerate() {
            let daemon = daemon.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
            for (rate, pps) in options.rates.iter().enumerate() {
                for (mode, (driver, _)) in MODES.into_iter().enumerate() {
                    let config = run_config(options, daemon, &cpus, UPLINKS[uplink].1, *pps, driver)?;
                    let outcome = loadgen::run(&config).with_context(|| UPLINKS[uplink].0)?;
                    note(&mut report, uplink, *pps, mode, &outcome);
                    runs.push(Run { uplink, rate, mode, outcome });
                }
            }
        }
    }
    report.conditions.push(("load average at the end".into(), machine::load()?));
    report.save_text(&output, "bench-loadgen")?;
    let outcomes: Vec<_> = runs.iter().map(|run| (UPLINKS[run.uplink].0, &run.outcome)).collect();
    fs::write(output.join("bench-loadgen-runs.json"), format!("{:#}\n", serde_json::to_value(outcomes)?))?;
    let panels = [0, 1].map(|uplink| panel(&runs, uplink, options.rates.len()));
    curves::draw(&report.title, &panels, &output.join("bench-loadgen.svg"))?;
    println!("\n{}", report.table());
    println!("every value: {}", output.join("bench-loadgen.json").display());
    println!("every run:   {}", output.join("bench-loadgen-runs.json").display());
    println!("drawn:       {}", output.join("bench-loadgen.svg").display());
    Ok(())
}

fn run_config(
    options: &Options,
    daemon: &Vnicd,
    cpus: &[usize],
    way: Way,
    rate: Rate,
    mode: Mode,
) -> Result<RunConfig> {
    let duration = Duration::try_from_secs_f64(options.seconds).context("--seconds")?;
    let driver = DriverConfig { mode, way, size: options.size, rate, duration, ..DriverConfig::default() };
    let cpus = cpus.first().copied().into_iter().collect();
    Ok(RunConfig { session: SessionConfig::new(daemon.socket()), driver, cpus })
}

/// The latency of the whole way.
fn latency(outcome: &Outcome) -> Option<Latency> {
    outcome.returned.or(outcome.taken)
}

fn note(report: &mut Report, uplink: usize, rate: Rate, mode: usize, outcome: &Outcome) {
    let uplink = UPLINKS[uplink].0;
    let mut add = |name: &str, unit: &str, better, value| {
        report.add(mode, &format!("{uplink} {rate}: {name}"), unit, better, value);
    };
    add("rate", "packets/s", Better::Higher, outcome.pps);
    if let (Some(whole), Some(late)) = (latency(outcome), outcome.lateness) {
        add("p50", "us", Better::Lower, whole.p50_us);
        add("p99", "us", Better::Lower, whole.p99_us);
        if rate != Rate::Max {
            add("p99 of the driver's lateness in it", "us", Better::Lower, late.p99_us);
        }
    }
    add("daemon's CPU time a packet", "ns", Better::Lower, outcome.device_ns_per_packet());
    let packets = outcome.counts.sent.max(1) as f64 / 1000.0;
    add("calls", "per 1000 packets", Better::Lower, outcome.counts.calls as f64 / packets);
    add("kicks", "per 1000 packets", Better::Lower, outcome.counts.kicks as f64 / packets);
    add("lost", "packets", Better::Lower, outcome.lost as f64);
}

/// Medians of all runs at each rate.
fn panel(runs: &[Run], uplink: usize, rates: usize) -> Panel {
    let median = |mode: usize, rate: usize, value: &dyn Fn(&Outcome) -> Option<f64>| {
        let of = |run: &&Run| (run.uplink, run.mode, run.rate) == (uplink, mode, rate);
        let sample: Vec<f64> = runs.iter().filter(of).filter_map(|run| value(&run.outcome)).collect();
        Summary::of(&sample).map_or(0.0, |summary| summary.median)
    };
    let curve = |mode: usize, aside: bool| {
        let value = move |outcome: &Outcome| latency(outcome).map(|l| if aside { l.p99_us } else { l.p50_us });
        let point = |rate| (median(mode, rate, &|outcome| Some(outcome.pps)), median(mode, rate, &value));
        let name = format!("{} {}", MODES[mode].1, if aside { "p99" } else { "p50" });
        Curve { name, subject: mode, aside, points: (0..rates).map(point).collect() }
    };
    let title = match UPLINKS[uplink].1 {
        Way::Tx => "discard: from due until the daemon took the packet",
        Way::Rx | Way::Both => "loopback: from due until the packet came back",
    };
    Panel {
        title: title.into(),
        units: ["packets/s, achieved".into(), "us".into()],
        curves: [(0, false), (0, true), (1, false), (1, true)].map(|(mode, aside)| curve(mode, aside)).into(),
    }
}
