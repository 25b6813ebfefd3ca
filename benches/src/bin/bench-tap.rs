//! The TAP uplink beside testpmd's net_vhost and net_tap, and beside a program that only writes: packets of 64 bytes
//! towards it, which can be joined or not, and unsegmented frames from it. `make bench-tap` runs it; see `benches::tap`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::instructions::Captured;
use benches::supervise::supervised;
use benches::tap::account::{Account, CELLS, nothing_to_join};
use benches::tap::joined::Lab;
use benches::tap::{Sink, Subject};
use benches::testpmd::Memory;
use benches::uplinks::Stream;
use benches::uplinks::counting::namespace;
use benches::{instructions, machine};
use clap::{Parser, ValueEnum};

/// Compare vnicd's TAP uplink with testpmd's net_vhost and net_tap.
#[derive(Debug, Parser)]
struct Options {
    /// How often all take their turns
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,

    /// Parts to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,

    /// What the client sends [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    streams: Vec<Stream>,

    /// What is behind the TAP [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    sinks: Vec<Sink>,

    /// A further option of the daemon, such as --no-coalesce
    #[arg(long = "vnicd-arg", allow_hyphen_values = true)]
    args: Vec<String>,

    /// Where bench-tap.txt, .json and .svg are written [default: bench-tap in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packets towards the TAP.
    Joined,
    /// Unsegmented frames from it.
    Injected,
    /// Instructions a packet when there is nothing to join.
    Instructions,
}

const NAME: &str = "bench-tap";

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
    let lab = Lab { memory: Memory::available(), time, args: options.args.clone() };
    let mut bench = Bench { account: Account::under(machine::conditions()?), lab, start: Instant::now() };
    bench.condition("testpmd's memory", bench.lab.memory.describe());
    bench.condition("runs", format!("{} in turn on each, {} s a measurement", options.pairs, options.seconds));
    if !options.args.is_empty() {
        bench.condition("options of vnicd", options.args.join(" "));
    }
    let measured = bench.measure(options);
    if let Err(error) = &measured {
        // What was found so far is worth something.
        bench.condition("cut short", format!("{error:#}").lines().next().unwrap_or_default().into());
    }
    bench.condition("load average at the end", machine::load()?);
    bench.account.save(&output, NAME)?;
    println!("\n{}\ntables, values and plot: {}", bench.account.text(), output.display());
    measured
}

struct Bench {
    lab: Lab,
    account: Account,
    start: Instant,
}

impl Bench {
    fn measure(&mut self, options: &Options) -> Result<()> {
        let wanted = |part| options.only.is_empty() || options.only.contains(&part);
        let cells: Vec<_> = CELLS.into_iter().map(|(stream, sink, _)| (stream, sink)).collect();
        let cells: Vec<_> = cells.into_iter().filter(|(stream, sink)| options.measures(*stream, *sink)).collect();
        if wanted(Part::Joined) {
            self.prepare(&cells)?;
        }
        for pair in 1..=options.pairs {
            if wanted(Part::Joined) {
                cells.iter().try_for_each(|(stream, sink)| self.joined(pair, *stream, *sink))?;
            }
            if wanted(Part::Injected) {
                self.injected(pair)?;
            }
        }
        if wanted(Part::Instructions) {
            self.instructions()?;
        }
        Ok(())
    }

    /// Holds what is counted against what was sent, and looks how fast the client is.
    fn prepare(&mut self, cells: &[(Stream, Sink)]) -> Result<()> {
        for sink in [Sink::Stack, Sink::Bridge, Sink::Socket] {
            if cells.iter().any(|(_, wanted)| *wanted == sink) {
                Subject::BOTH.into_iter().try_for_each(|subject| self.lab.check_count(subject, sink))?;
            }
        }
        self.say("what is counted is what was sent, behind each back end");
        for stream in [Stream::OneFlow, Stream::EightFlows, Stream::EachAnother, Stream::Txonly] {
            if cells.iter().any(|(wanted, _)| *wanted == stream) {
                let mpps = self.lab.client_alone(stream)? / 1e6;
                self.condition(&format!("the client alone, {stream}"), format!("{mpps:.1} Mpps into `discard`"));
            }
        }
        Ok(())
    }

    fn joined(&mut self, pair: u32, stream: Stream, sink: Sink) -> Result<()> {
        let [vnicd, net_tap] = Subject::BOTH.map(|subject| self.lab.through(subject, stream, sink));
        let rates = [vnicd?, net_tap?];
        let written = if nothing_to_join(stream) { Some(self.lab.written(stream, sink)?) } else { None };
        self.account.add(stream, sink, rates, written);
        let [vnicd, net_tap] = rates.map(|rate| rate / 1e6);
        let written = written.map_or(String::new(), |rate| format!(", written {:.2}", rate / 1e6));
        self.say(&format!("turn {pair}: {stream} to {sink}: {vnicd:.2} Mpps, net_tap {net_tap:.2}{written}"));
        Ok(())
    }

    fn injected(&mut self, pair: u32) -> Result<()> {
        let [vnicd, net_tap] = Subject::BOTH.map(|subject| self.lab.injected(subject));
        let samples = [vnicd?, net_tap?];
        self.account.add_injected(samples);
        let [vnicd, net_tap] = samples.map(|s| (s.segments_a_cpu_second / 1e6, 100.0 * s.received));
        self.say(&format!(
            "turn {pair}: injected: {:.2} million segments a CPU second ({:.0} % received), net_tap {:.2} ({:.0} %)",
            vnicd.0, vnicd.1, net_tap.0, net_tap.1
        ));
        Ok(())
    }

    fn instructions(&mut self) -> Result<()> {
        if !instructions::is_possible() {
            self.condition("instructions", "not counted: valgrind is missing".into());
            return Ok(());
        }
        let ns = namespace()?;
        let count = |further: &[&str]| {
            let args = [&["--uplink", "tap=tap0", "--mode", "interrupt"], further].concat();
            instructions::per_packet(&ns, &args, &Stream::EachAnother.frames(Sink::Stack.mac()), Captured::No)
        };
        let counts = [count(&[])?, count(&["--no-coalesce"])?];
        self.account.instructions = Some(counts);
        self.say(&format!("instructions a packet: {:.0}, {:.0} with --no-coalesce", counts[0], counts[1]));
        Ok(())
    }

    fn condition(&mut self, name: &str, value: String) {
        self.say(&format!("{name}: {value}"));
        self.account.condition(name, value);
    }

    fn say(&self, what: &str) {
        println!("[{:>4.0} s] {what}", self.start.elapsed().as_secs_f64());
    }
}

impl Options {
    fn measures(&self, stream: Stream, sink: Sink) -> bool {
        (self.streams.is_empty() || self.streams.contains(&stream))
            && (self.sinks.is_empty() || self.sinks.contains(&sink))
    }
}
