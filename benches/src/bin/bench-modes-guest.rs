//! The daemon's modes in a guest whose processor shares its core with the worker, in turn: a worker that polls takes the
//! time of the guest that it waits for. TCP both ways. `make bench-modes-guest` runs it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::iperf;
use benches::machine;
use benches::modes::Subject;
use benches::modes::guest::{Account, WAYS};
use benches::rig::{HOST, Rig, Shape};
use benches::supervise::supervised;
use benches::testpmd::{BACK_END_CPU, CLIENT_CPU};
use clap::Parser;
use guest_tests::Slots;
use guest_tests::guest::SLOTS;

/// Compare the daemon's modes in a guest whose processor shares its core with the worker.
#[derive(Debug, Parser)]
struct Options {
    /// How many turns, each of all modes
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,

    /// The CPU of guest and worker
    #[arg(long, default_value_t = BACK_END_CPU)]
    cpu: usize,

    /// The CPU of the host's end of a connection
    #[arg(long, default_value_t = CLIENT_CPU)]
    host_cpu: usize,

    /// Where bench-modes-guest.txt and .json are written [default: bench-modes-guest in the target directory]
    #[arg(long)]
    output: Option<PathBuf>,
}

const NAME: &str = "bench-modes-guest";

fn main() -> ExitCode {
    let options = Options::parse();
    supervised(NAME, || bench(&options))
}

fn bench(options: &Options) -> Result<()> {
    let output = match &options.output {
        Some(path) => path.clone(),
        None => machine::target_dir()?.join(NAME),
    };
    // A guest of this program must not disturb another's measurement.
    let slots = Slots::take(SLOTS);
    let mut account = Account::under(machine::conditions()?);
    let Options { turns, seconds, cpu, host_cpu, .. } = *options;
    account.condition("runs", format!("{turns} turns of all modes, {seconds} s a measurement"));
    account.condition("CPUs", format!("{cpu} of guest and worker, {host_cpu} of the host's end of the connection"));
    let start = Instant::now();
    for turn in 0..turns {
        let mut modes = Subject::DAEMONS;
        modes.rotate_left(turn as usize % Subject::DAEMONS.len());
        for mode in modes {
            println!("[{:>4.0} s] turn {} of {turns}: {mode}", start.elapsed().as_secs_f64(), turn + 1);
            let rig = Rig::boot_vnicd(&["--mode", mode.name(), "--cpus", &cpu.to_string()], Shape::ONE, &slots)?;
            machine::pin_process(rig.guest().qemu().pid(), cpu)?;
            if account.guest.is_empty() {
                account.guest = rig.describe()?;
            }
            rig.explained(measure(&rig, mode, options, &mut account)).with_context(|| mode.to_string())?;
        }
    }
    account.condition("load average at the end", machine::load()?);
    account.save(&output, NAME)?;
    println!("\n{}", account.text());
    println!("every value: {}", output.join(format!("{NAME}.json")).display());
    Ok(())
}

fn measure(rig: &Rig, mode: Subject, options: &Options, account: &mut Account) -> Result<()> {
    let Options { seconds, host_cpu, .. } = *options;
    let server = iperf::Server::start(rig.ns(), Duration::from_secs(4 * seconds + 120))?;
    machine::pin_process(server.process().pid(), host_cpu)?;
    for (at, (name, way)) in WAYS.into_iter().enumerate() {
        let mbits = iperf::tcp_mbits(rig.guest(), HOST, way, 1, seconds)?;
        println!("         {name}: {mbits:.0} Mbit/s");
        account.add(at, mode, mbits);
    }
    Ok(())
}
