//! The AF_XDP uplink on a veth pair: packets of 64 bytes both ways beside testpmd's net_vhost and net_af_xdp, and a guest's
//! TCP beside the same guest on a TAP. `make bench-af-xdp` runs it; see `benches::af_xdp`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::af_xdp::account::TCP;
use benches::af_xdp::{Account, Lab, Subject, Way};
use benches::iperf::{self, Server};
use benches::machine;
use benches::rig::{HOST, Peer, Rig, Shape};
use benches::supervise::supervised;
use benches::testpmd::Memory;
use clap::{Parser, ValueEnum};
use guest_tests::Slots;
use guest_tests::guest::SLOTS;

/// Compare vnicd's AF_XDP uplink with testpmd's net_vhost and net_af_xdp, and with its TAP under a guest.
#[derive(Debug, Parser)]
struct Options {
    /// How often all take their turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// Parts to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,

    /// Ways that packets go [default: both]
    #[arg(long, value_enum, value_delimiter = ',')]
    ways: Vec<Way>,

    /// A further option of the daemon, such as --mode=polling
    #[arg(long = "vnicd-arg", allow_hyphen_values = true)]
    args: Vec<String>,

    /// Where the tables, values and plots are written [default: bench-af-xdp in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packets of 64 bytes, without a VM.
    Packets,
    /// A guest's TCP, and what the daemon does while it is quiet.
    Guest,
}

const NAME: &str = "bench-af-xdp";
const IDLE: Duration = Duration::from_secs(5);
/// How much longer than its traffic a guest's server may be needed.
const SLACK: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let options = Options::parse();
    supervised(NAME, || bench(&options))
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join(NAME),
    };
    let mut bench = Bench { account: Account::under(machine::conditions()?), options, start: Instant::now() };
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    bench.condition("runs", format!("{} in turn on each, {} s a measurement", options.pairs, options.seconds));
    if !options.args.is_empty() {
        bench.condition("options of vnicd", options.args.join(" "));
    }
    let mut measured = Ok(());
    if wanted(Part::Packets) {
        measured = bench.packets();
    }
    if wanted(Part::Guest) {
        measured = measured.and_then(|()| bench.guests());
    }
    if let Err(error) = &measured {
        // What was found so far is worth something.
        bench.condition("cut short", format!("{error:#}").lines().next().unwrap_or_default().into());
    }
    bench.condition("load average at the end", machine::load()?);
    bench.account.save(&output, NAME)?;
    println!("\n{}\ntables, values and plots: {}", bench.account.text(), output.display());
    measured
}

struct Bench<'a> {
    account: Account,
    options: &'a Options,
    start: Instant,
}

impl Bench<'_> {
    fn packets(&mut self) -> Result<()> {
        let time = Duration::from_secs(self.options.seconds);
        let lab = Lab { memory: Memory::available(), time, args: self.options.args.clone() };
        self.condition("testpmd's memory", lab.memory.describe());
        Subject::BOTH.into_iter().try_for_each(|subject| lab.check_count(subject))?;
        self.say("what is counted is what was sent, behind each back end");
        for pair in 1..=self.options.pairs {
            for way in Way::BOTH.into_iter().filter(|way| self.options.goes(*way)) {
                let [vnicd, net_af_xdp] = Subject::BOTH.map(|subject| lab.through(subject, way));
                let samples = [vnicd?, net_af_xdp?];
                self.account.add(way, samples);
                let told = samples.map(|sample| {
                    let user = sample.user_seconds.map_or("-".into(), |seconds| format!("{:.0}", seconds * 1e9));
                    format!("{:.2} Mpps, {user} ns in user mode", sample.pps / 1e6)
                });
                self.say(&format!("turn {pair}: {way}: {}; net_af_xdp {}", told[0], told[1]));
            }
        }
        Ok(())
    }

    fn guests(&mut self) -> Result<()> {
        // A guest of this program must not disturb another's measurement.
        let slots = Slots::take(SLOTS);
        for pair in 1..=self.options.pairs {
            let (over_af_xdp, idle) = self.guest(Peer::VnicdAfXdp, &slots)?;
            let (over_tap, _) = self.guest(Peer::Vnicd, &slots)?;
            for (at, name) in TCP.into_iter().enumerate() {
                self.account.add_tcp(name, [over_af_xdp[at], over_tap[at]]);
                self.say(&format!("turn {pair}: {name}: {:.0} Mbit/s, TAP {:.0}", over_af_xdp[at], over_tap[at]));
            }
            self.say(&format!("turn {pair}: idle: {idle} switches in {} s", IDLE.as_secs()));
            self.account.add_idle(idle);
        }
        Ok(())
    }

    /// Throughput of a guest each way, and how often the daemon woke while it was quiet.
    fn guest(&self, peer: Peer, slots: &Slots) -> Result<([f64; 2], u64)> {
        let seconds = self.options.seconds;
        let args: Vec<&str> = self.options.args.iter().map(String::as_str).collect();
        let rig = Rig::boot_on(peer, &args, Shape::ONE, slots)?;
        let measure = || {
            let server = Server::start(rig.ns(), Duration::from_secs(2 * seconds) + SLACK)?;
            let tcp = |way| iperf::tcp_mbits(rig.guest(), HOST, way, 1, seconds);
            let mbits = [tcp(iperf::Way::GuestToHost)?, tcp(iperf::Way::HostToGuest)?];
            drop(server);
            let idle = rig.idle(IDLE)?.context("no daemon")?;
            Ok((mbits, idle.switches))
        };
        rig.explained(measure())
    }

    fn condition(&mut self, name: &str, value: String) {
        self.say(&format!("{name}: {value}"));
        self.account.packets.conditions.push((name.into(), value));
    }

    fn say(&self, what: &str) {
        println!("[{:>4.0} s] {what}", self.start.elapsed().as_secs_f64());
    }
}

impl Options {
    fn goes(&self, way: Way) -> bool {
        self.ways.is_empty() || self.ways.contains(&way)
    }
}
