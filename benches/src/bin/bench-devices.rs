//! Rate and memory of a daemon by the number of its devices, all of them busy on one CPU: with one worker for all, and with
//! one each. `make bench-devices` runs it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::claim::{self, Bound, Claim};
use benches::curves::{self, Curve, Panel};
use benches::devices::{self, Found};
use benches::machine;
use benches::report::{Better, Report};
use benches::stats::Summary;
use benches::supervise::supervised;
use clap::Parser;
use guest_tests::NetNs;

const NAME: &str = "bench-devices";
/// Who serves the devices, and what that is called.
const THREADS: [(&str, &str); 2] = [("per-cpu", "one worker for all"), ("per-pair", "a worker each")];
/// Memory of a device beyond that of its guest, in KiB.
const MEMORY: f64 = 512.0;
/// So many share what the daemon takes for itself.
const MANY: u16 = 32;
/// What a device has at least of its even share of a worker.
const SHARE: f64 = 0.8;

/// Measure a daemon by the number of its busy devices.
#[derive(Debug, Parser)]
struct Options {
    /// How many devices, one number after another
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64, 128, 256])]
    devices: Vec<u16>,

    /// How often each number is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Seconds of each measurement
    #[arg(long, default_value = "2")]
    seconds: f64,

    /// Where table, JSON file and plot are written [default: bench-devices in the target directory]
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
    ensure!(options.devices.iter().all(|devices| *devices > 0), "--devices: 0 devices move nothing");
    ensure!(
        std::thread::available_parallelism()?.get() > 1,
        "driver and workers need a CPU each: this machine has one"
    );
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    ns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    let mut report = Report {
        title: "vnicd: busy devices on one CPU".into(),
        subjects: THREADS.map(|(_, name)| name.into()),
        conditions: machine::conditions()?,
        ..Report::default()
    };
    report.conditions.push(("runs".into(), format!("{} of all, {} s each", options.runs, options.seconds)));
    let start = Instant::now();
    let mut points: Vec<(u16, usize, Found)> = Vec::new();
    for run in 1..=options.runs {
        for &count in &options.devices {
            println!("[{:>4.0} s] run {run} of {}: {count} devices", start.elapsed().as_secs_f64(), options.runs);
            // Each is first as often as second.
            let mut order = [0, 1];
            order.rotate_left(run as usize % 2);
            for subject in order {
                let (threads, name) = THREADS[subject];
                let found =
                    devices::run(&ns, count.into(), threads, time).with_context(|| format!("{count}, {name}"))?;
                let mut add = |what: &str, unit: &str, better, value| {
                    report.add(subject, &what_of(count, what), unit, better, value);
                };
                add("rate", "packets/s", Better::Higher, found.pps);
                add("least", "of an even share", Better::Higher, found.least);
                add("most", "of an even share", Better::Lower, found.most);
                add("memory a device", "KiB", Better::Lower, kib_each(&found, count));
                points.push((count, subject, found));
            }
        }
    }
    report.conditions.push(("load average at the end".into(), machine::load()?));
    report.save_text(&output, NAME)?;
    curves::draw(&report.title, &panels(&points, &options.devices), &output.join(format!("{NAME}.svg")))?;
    println!("\n{}", report.table());
    let mut claims = Vec::new();
    for &count in options.devices.iter().filter(|count| **count > 1) {
        let value = |of: &dyn Fn(&Found) -> f64| median(&points, count, 0, of);
        let least = value(&|found| found.least);
        claims.push(Claim::new(what_of(count, "least of an even share"), least, Bound::AtLeast(SHARE)));
        // A few have to bear what the daemon takes for itself.
        if count >= MANY {
            let memory = value(&|found| kib_each(found, count));
            claims.push(Claim::new(what_of(count, "memory a device, KiB"), memory, Bound::Below(MEMORY)));
        }
    }
    println!("{}", claim::table("one worker for all", &claims));
    println!("drawn: {}", output.join(format!("{NAME}.svg")).display());
    Ok(())
}

fn what_of(count: u16, what: &str) -> String {
    format!("{count} devices: {what}")
}

fn kib_each(found: &Found, count: u16) -> f64 {
    found.memory as f64 / 1024.0 / f64::from(count)
}

fn median(points: &[(u16, usize, Found)], count: u16, subject: usize, of: &dyn Fn(&Found) -> f64) -> Option<f64> {
    let sample: Vec<_> = points.iter().filter(|p| (p.0, p.1) == (count, subject)).map(|p| of(&p.2)).collect();
    Summary::of(&sample).map(|summary| summary.median)
}

fn panels(points: &[(u16, usize, Found)], counts: &[u16]) -> Vec<Panel> {
    let panel = |title: &str, unit: &str, of: &dyn Fn(&Found, u16) -> f64| {
        let curve = |subject: usize| Curve {
            name: THREADS[subject].1.into(),
            subject,
            aside: false,
            points: counts
                .iter()
                .filter_map(|&count| Some((count.into(), median(points, count, subject, &|found| of(found, count))?)))
                .collect(),
        };
        Panel { title: title.into(), units: ["devices".into(), unit.into()], curves: vec![curve(0), curve(1)] }
    };
    vec![
        panel("all together", "packets/s", &|found, _| found.pps),
        panel("the one that moves least", "of an even share", &|found, _| found.least),
        panel("private memory", "KiB a device", &kib_each),
    ]
}
