//! Asks a running vnicd over its control socket.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::Value;

use vnicd::control::{self, DEFAULT_PATH, DeviceStatus, Status};

/// Asks a running vnicd what it is doing.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH, global = true)]
    control: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show devices, their front ends, queue pairs and what they counted
    Status {
        /// Print the daemon's answer as it came
        #[arg(long)]
        json: bool,
    },
}

/// A daemon that does not answer within this time is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Command::Status { json } = cli.command;
    match ask(&cli.control, "status").and_then(|answer| show(&answer, json)) {
        Ok(text) => {
            // Whoever stopped reading has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("vnicctl: {e}");
            ExitCode::FAILURE
        }
    }
}

fn ask(path: &Path, method: &str) -> Result<Value, String> {
    let no_daemon = |e| format!("no vnicd answers at '{}': {e}; is it started with --control?", path.display());
    let mut stream = UnixStream::connect(path).map_err(no_daemon)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(no_daemon)?;
    stream.write_all(control::call(method, Value::Null).as_bytes()).map_err(no_daemon)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(no_daemon)?;
    control::parse_answer(&line).map_err(|e| e.to_string())
}

fn show(answer: &Value, json: bool) -> Result<String, String> {
    if json {
        return serde_json::to_string_pretty(answer).map(|text| text + "\n").map_err(|e| e.to_string());
    }
    let status: Status = serde_json::from_value(answer.clone())
        .map_err(|e| format!("the daemon's answer is of another version: {e}; try --json"))?;
    let mut text = format!("vnicd {}, process {}\n", status.version, status.pid);
    for device in &status.devices {
        show_device(&mut text, device);
    }
    Ok(text)
}

fn show_device(text: &mut String, device: &DeviceStatus) {
    let front_end = match device.front_end_pid {
        Some(pid) => format!("front end: process {pid}"),
        None => "no front end".into(),
    };
    *text += &format!("\n{}: uplink {}, {} queue pairs, {front_end}\n", device.name, device.uplink, device.queue_pairs);
    if let Some(features) = &device.features {
        *text += &format!("  features: {features}\n");
    }
    for pair in &device.pairs {
        let ring = |started| if started { "started" } else { "stopped" };
        *text += &format!("  {}: rx {}, tx {}\n", pair.id, ring(pair.rx_started), ring(pair.tx_started));
        let counters = pair.counters.as_object().into_iter().flatten();
        // Counts of nothing are left out; --json has them.
        for (name, count) in counters.filter(|(_, count)| count.as_u64() != Some(0)) {
            *text += &format!("    {name:<22} {:>16}\n", count.to_string());
        }
    }
}
