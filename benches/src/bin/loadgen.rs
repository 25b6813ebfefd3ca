//! A vhost-user front end that sends packets by the clock; see `benches::loadgen`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use benches::loadgen::{self, DriverConfig, Mode, Pattern, Rate, RunConfig, SessionConfig, Size, Way};
use clap::Parser;

/// Drive a vhost-user-net device at a given rate, and clock every packet from the time at which it was due.
#[derive(Debug, Parser)]
struct Options {
    /// The device's socket
    #[arg(long)]
    socket: PathBuf,

    /// Listen there and wait for the device
    #[arg(long)]
    server: bool,

    /// Packets a second of all queues together, such as 500, 10k, 1.5M; or max: one whenever there is room
    #[arg(long, default_value = "10k")]
    rate: Rate,

    /// How packets lie in time: constant, poisson, trains:PACKETS (due at once), burst:ON_MS:OFF_MS
    #[arg(long, default_value = "constant")]
    pattern: Pattern,

    /// How the driver learns of what came
    #[arg(long, value_enum, default_value = "napi")]
    driver: Mode,

    /// tx: clocked until the device took them; rx, both: until they came back (from the uplink loopback)
    #[arg(long, value_enum, default_value = "both")]
    direction: Way,

    /// Bytes of a frame, or imix
    #[arg(long, default_value = "60")]
    size: Size,

    /// Queue pairs, each with a thread
    #[arg(long, default_value_t = 1)]
    queues: usize,

    /// Entries of each ring
    #[arg(long, default_value_t = 256)]
    queue_size: u16,

    /// For how long packets are due
    #[arg(long, default_value = "5")]
    seconds: f64,

    /// CPUs for the drivers, in turn
    #[arg(long, value_delimiter = ',')]
    cpu: Vec<usize>,

    /// Do without EVENT_IDX: flags tell who wants to be told
    #[arg(long)]
    flags: bool,

    /// Send by indirect tables
    #[arg(long)]
    indirect: bool,

    /// Bytes of a receive buffer; longer frames fill several
    #[arg(long, default_value_t = 2048)]
    rx_buffer: u32,

    /// Put the memory on huge pages of 2 MiB
    #[arg(long)]
    huge_pages: bool,

    /// Share the memory in so many regions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    regions: u16,

    /// Write what was found here, too
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match generate(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn generate(options: &Options) -> Result<()> {
    let config = RunConfig {
        session: SessionConfig {
            socket: options.socket.clone(),
            server: options.server,
            queues: options.queues,
            queue_size: options.queue_size,
            event_idx: !options.flags,
            indirect: options.indirect,
            rx_buffer: options.rx_buffer,
            huge_pages: options.huge_pages,
            regions: options.regions.into(),
        },
        driver: DriverConfig {
            mode: options.driver,
            way: options.direction,
            size: options.size,
            rate: options.rate,
            pattern: options.pattern,
            duration: Duration::try_from_secs_f64(options.seconds).context("--seconds")?,
            ..DriverConfig::default()
        },
        cpus: options.cpu.clone(),
    };
    let outcome = loadgen::run(&config)?;
    print!("{}", outcome.table());
    if let Some(path) = &options.json {
        let json = format!("{:#}\n", serde_json::to_value(&outcome)?);
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
