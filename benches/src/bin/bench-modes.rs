//! The daemon's modes `interrupt`, `polling` and `auto` and testpmd's vhost PMD side by side by load: latency, CPU time,
//! kicks and calls, and whether `auto` shows what it must. `make bench-modes` runs it; see `benches::modes`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::distance::Distance;
use benches::loadgen::{DriverConfig, Mode, Outcome, Pattern, Rate};
use benches::modes::account::Account;
use benches::modes::quiet::PAUSES_MS;
use benches::modes::subject::Cpus;
use benches::modes::{Lab, Load, Point, Sample, Subject};
use benches::supervise::supervised;
use benches::testpmd::Memory;
use benches::{curves, machine};
use clap::{Parser, ValueEnum};

/// Compare the daemon's modes with each other and with testpmd's vhost PMD, an endless poller.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each measurement, all turns together
    #[arg(long, default_value = "10")]
    seconds: f64,

    /// Turns into which they are divided, all subjects one after another in each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,

    /// Loads: packets a second while packets are sent, or quarter, half, full: parts of the highest rate
    #[arg(long, value_delimiter = ',', default_value = "1k,10k,100k,quarter,half,full")]
    rates: Vec<Load>,

    /// How packets lie in time: constant, poisson, trains:PACKETS (due at once), burst:ON_MS:OFF_MS
    #[arg(long, value_delimiter = ',', default_value = "poisson,trains:16")]
    patterns: Vec<Pattern>,

    /// How the client learns of what came, where loads are measured
    #[arg(long, value_enum, default_value = "napi")]
    driver: Mode,

    /// Two CPUs: the client's and the back end's
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cpus: Vec<usize>,

    /// Parts to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,

    /// Where bench-modes.txt, .json and .svg are written [default: bench-modes in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every subject at every load.
    Loads,
    /// Silence and the first packet after it.
    Quiet,
    /// Kicks and calls of auto at full load.
    Full,
}

const NAME: &str = "bench-modes";
/// Before each turn: the time in which `auto` sees what the load is, three times its rate window. Its packets are not clocked.
const SETTLING: Duration = Duration::from_millis(150);
/// How long the CPUs' distance is looked at: what is measured later counts as it is, so that a run ends in time.
const STEADY: Duration = Duration::from_secs(20 * 60);
/// Single packets after idle times, for each second of a measurement.
const SINGLE_PACKETS_A_SECOND: f64 = 21.0;
/// The highest rate is the best of as many turns at least.
const MAX_TURNS: u32 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    supervised(NAME, || bench(&options))
}

/// The subjects, and how they are driven.
struct Subjects {
    lab: Lab,
    /// The time of a turn.
    turn: Duration,
    driver: Mode,
}

impl Subjects {
    fn run(&mut self, subject: Subject, rate: Rate, pattern: Pattern) -> Result<Outcome> {
        let duration = SETTLING + self.turn;
        let (mode, settling) = (self.driver, SETTLING);
        let driver = DriverConfig { mode, rate, pattern, duration, settling, ..DriverConfig::default() };
        self.lab.run(subject, driver)
    }
}

/// A bench on its way.
struct Bench {
    subjects: Subjects,
    distance: Distance,
    account: Account,
    start: Instant,
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join(NAME),
    };
    let mut bench = Bench::new(options)?;
    let measured = bench.measure(options);
    if let Err(error) = &measured {
        // What was found in ten minutes is worth something.
        bench.condition("cut short", in_a_line(error));
    }
    bench.save(&output)?;
    measured
}

/// An error without what programs printed.
fn in_a_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().into()
}

impl Bench {
    fn new(options: &Options) -> Result<Self> {
        let [client, back_end] = options.cpus[..] else { anyhow::bail!("--cpus: two CPUs are needed") };
        ensure!(client != back_end, "--cpus: two CPUs are needed, one for each side");
        let turn = Duration::try_from_secs_f64(options.seconds / f64::from(options.turns)).context("--seconds")?;
        let memory = Memory::available();
        let mut account = Account { conditions: machine::conditions()?, ..Account::default() };
        let driver = options.driver.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        let conditions = [
            ("runs", format!("{} turns, {} s a measurement in all", options.turns, options.seconds)),
            ("settling", format!("{} ms of the load before each turn, not clocked", SETTLING.as_millis())),
            ("CPUs of client and back end", format!("{client}, {back_end}")),
            ("client", format!("{driver}, frames of 60 bytes, one queue pair of 256 entries")),
            ("full", "a packet whenever there is room for one, whatever the pattern but for its silence".into()),
            ("testpmd's memory", memory.describe()),
        ];
        account.conditions.extend(conditions.map(|(name, value): (&str, String)| (name.into(), value)));
        // Before anybody polls.
        let distance = Distance::between([client, back_end])?;
        let lab = Lab::start(Cpus { client, back_end }, memory)?;
        let subjects = Subjects { lab, turn, driver: options.driver };
        Ok(Self { subjects, distance, account, start: Instant::now() })
    }

    fn measure(&mut self, options: &Options) -> Result<()> {
        let wanted = |part| options.only.is_empty() || options.only.contains(&part);
        if wanted(Part::Loads) {
            self.measure_max(options.turns.max(MAX_TURNS))?;
            self.measure_loads(options)?;
        }
        if wanted(Part::Full) {
            for turn in 1..=options.turns {
                self.say(&format!("full load, turn {turn} of {}", options.turns));
                let Subjects { lab, turn, .. } = &mut self.subjects;
                self.account.full.measure(lab, *turn)?;
            }
        }
        if wanted(Part::Quiet) {
            self.measure_quiet(options)?;
        }
        Ok(())
    }

    /// The highest rate: the best of polling mode when a packet is due whenever there is room.
    fn measure_max(&mut self, turns: u32) -> Result<()> {
        for _ in 0..turns {
            let outcome = self.steady(|subjects| subjects.run(Subject::Polling, Rate::Max, Pattern::Constant))?;
            self.account.max_pps = self.account.max_pps.max(outcome.pps);
        }
        let max_pps = self.account.max_pps;
        ensure!(max_pps > 0.0, "no packet came back");
        self.condition("highest rate", format!("{max_pps:.0} packets/s, polling mode's best of {turns} turns"));
        Ok(())
    }

    fn measure_loads(&mut self, options: &Options) -> Result<()> {
        for turn in 0..options.turns {
            for pattern in &options.patterns {
                for load in &options.rates {
                    self.measure_point(Point { pattern: *pattern, load: *load }, turn)?;
                }
            }
            self.say(&format!("loads, turn {} of {} done", turn + 1, options.turns));
        }
        Ok(())
    }

    /// A turn of all subjects; another one begins each time.
    fn measure_point(&mut self, point: Point, turn: u32) -> Result<()> {
        let mut subjects = Subject::ALL;
        subjects.rotate_left(turn as usize % Subject::ALL.len());
        let max_pps = self.account.max_pps;
        let all = |lab: &mut Subjects| -> Result<Vec<Sample>> {
            let sample = |subject| {
                let outcome = lab.run(subject, point.load.rate(max_pps), point.pattern)?;
                Sample::of(&outcome, point.load.has_tail(max_pps))
                    .with_context(|| format!("{subject}: no packet came back"))
            };
            subjects.into_iter().map(sample).collect()
        };
        // Once more what failed, which a busy machine makes happen in an hour.
        let samples = self.steady(all).or_else(|error| {
            self.condition("failed and measured again", in_a_line(&error));
            self.steady(all)
        });
        let samples = samples.with_context(|| point.to_string())?;
        for (subject, sample) in subjects.into_iter().zip(&samples) {
            self.account.points.add(point, subject, *sample);
        }
        let told = |(subject, s): (Subject, &Sample)| format!("{subject} {:.0} us {:.0} %", s.p99_us, 100.0 * s.cpu);
        let told: Vec<_> = subjects.into_iter().zip(&samples).map(told).collect();
        self.say(&format!("{point}: p99 and CPU: {}", told.join(", ")));
        Ok(())
    }

    fn measure_quiet(&mut self, options: &Options) -> Result<()> {
        self.say("idle");
        self.account.quiet.watch(&self.subjects.lab, Duration::try_from_secs_f64(options.seconds)?)?;
        let turns = f64::from(options.turns) * PAUSES_MS.len() as f64;
        let packets = (SINGLE_PACKETS_A_SECOND * options.seconds / turns).ceil().max(3.0) as u32;
        for turn in 1..=options.turns {
            self.say(&format!("first packets, turn {turn} of {}", options.turns));
            self.account.quiet.send_first_packets(&mut self.subjects.lab, packets)?;
        }
        let pauses = format!("{PAUSES_MS:?} ms, {packets} packets in each of {} turns, spinning client", options.turns);
        self.condition("pauses before single packets", pauses);
        Ok(())
    }

    /// Measures while the two CPUs are near each other, as long as there is time for that.
    fn steady<T>(&mut self, measure: impl Fn(&mut Subjects) -> Result<T>) -> Result<T> {
        if self.start.elapsed() > STEADY {
            return measure(&mut self.subjects);
        }
        self.distance.near(|| measure(&mut self.subjects))
    }

    fn condition(&mut self, name: &str, value: String) {
        self.say(&format!("{name}: {value}"));
        self.account.conditions.push((name.into(), value));
    }

    fn say(&self, what: &str) {
        println!("[{:>4.0} s] {what}", self.start.elapsed().as_secs_f64());
    }

    /// Writes what there is.
    fn save(mut self, output: &Path) -> Result<()> {
        self.account.conditions.push(("from CPU to CPU".into(), self.distance.describe()));
        self.account.conditions.push(("load average at the end".into(), machine::load()?));
        let text = self.account.text();
        let write = || {
            fs::create_dir_all(output)?;
            fs::write(output.join(format!("{NAME}.txt")), &text)?;
            fs::write(output.join(format!("{NAME}.json")), format!("{:#}\n", self.account.json()))
        };
        write().with_context(|| format!("cannot write into {}", output.display()))?;
        let panels = self.account.panels();
        if !panels.is_empty() {
            curves::draw(Account::TITLE, &panels, &output.join(format!("{NAME}.svg")))?;
        }
        println!("\n{text}\ntables, values and plot: {}", output.display());
        Ok(())
    }
}
