//! Time that a process spends in user mode, by samples of a clock (perf-record(1)): no counters of the processor are needed.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_tests::Process;

/// A sample is taken each time the process has run so long; those in the kernel are dropped.
const PERIOD: Duration = Duration::from_micros(100);
/// How much longer than its time a recording may take.
const SLACK: Duration = Duration::from_secs(20);

/// Whether there is a perf.
#[must_use]
pub fn is_possible() -> bool {
    Command::new("perf").arg("version").output().is_ok_and(|output| output.status.success())
}

/// A recording that runs.
#[derive(Debug)]
pub struct Recording<'a> {
    perf: Process,
    file: &'a Path,
    time: Duration,
}

impl<'a> Recording<'a> {
    /// Records a process with all its threads for some time, into a file.
    pub fn start(pid: u32, time: Duration, file: &'a Path) -> Result<Self> {
        let mut command = Command::new("perf");
        command.args(["record", "--quiet", "--event", "cpu-clock:u", "--count", &PERIOD.as_nanos().to_string()]);
        command.args(["--pid", &pid.to_string(), "--output"]).arg(file);
        command.args(["--", "sleep", &time.as_secs_f64().to_string()]);
        Ok(Self { perf: Process::spawn_for(command, time + SLACK)?, file, time })
    }

    /// Waits for its end, and says which part of the time the process was in user mode, on one CPU.
    pub fn share(self) -> Result<f64> {
        self.perf.wait_output(self.time + SLACK)?.ok("perf record")?;
        let mut command = Command::new("perf");
        command.args(["report", "--stats", "--input"]).arg(self.file);
        let printed = Process::spawn_for(command, SLACK)?.wait_output(SLACK)?.ok("perf report")?;
        Ok(samples(&printed)? as f64 * PERIOD.as_secs_f64() / self.time.as_secs_f64())
    }
}

/// The number of samples in a recording.
fn samples(printed: &str) -> Result<u64> {
    let count = printed.lines().find_map(|line| line.trim_start().strip_prefix("SAMPLE events:"));
    let count = count.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    count.with_context(|| format!("perf told no number of samples: {printed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found() {
        let printed = "Aggregated stats:\n     TOTAL events:       1135\n    SAMPLE events:       1120  (98.7%)\n";
        assert_eq!(samples(printed).unwrap(), 1120);
        assert!(samples("TOTAL events: 3").is_err());
    }
}
