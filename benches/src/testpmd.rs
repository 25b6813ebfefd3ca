//! DPDK's testpmd on one side of a vhost-user socket: its work on one CPU, its command line on the other.
//!
//! What it prints of its work is read here, too.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use guest_tests::NetNs;
use guest_tests::testpmd::Console;

/// The CPU of a back end.
pub const BACK_END_CPU: usize = 1;
/// The CPU of the program that drives its rings.
pub const CLIENT_CPU: usize = 0;

/// Memory of each testpmd.
const MEMORY_MIB: u32 = 512;
const HUGE_PAGE_MIB: u32 = 2;
const FREE_HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
/// How long a socket may take to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// What testpmd's memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages of 2 MiB.
    Huge,
    /// Pages of 4 KiB: DPDK's `--no-huge`.
    Small,
}

impl Memory {
    /// Huge pages if two testpmds find enough of them, else small ones.
    #[must_use]
    pub fn available() -> Self {
        let free = fs::read_to_string(FREE_HUGE_PAGES).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if free.unwrap_or(0) >= 2 * MEMORY_MIB / HUGE_PAGE_MIB { Self::Huge } else { Self::Small }
    }

    /// In words, for a report.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Huge => format!("huge pages of {HUGE_PAGE_MIB} MiB, {MEMORY_MIB} MiB a testpmd"),
            Self::Small => format!(
                "pages of 4 KiB, {MEMORY_MIB} MiB a testpmd (not {} free huge pages of {HUGE_PAGE_MIB} MiB)",
                2 * MEMORY_MIB / HUGE_PAGE_MIB
            ),
        }
    }
}

/// How to start one.
#[derive(Clone, Debug)]
pub struct Testpmd<'a> {
    /// Where.
    pub ns: &'a NetNs,
    /// A directory for its runtime files, which must outlive it.
    pub dir: &'a Path,
    /// Its name, which no other in that directory has.
    pub name: &'a str,
    /// The CPU of its work; its command line is read on the other one.
    pub cpu: usize,
    /// What its memory is made of.
    pub memory: Memory,
    /// Its ports, as `--vdev` takes them.
    pub devices: Vec<String>,
    /// Further options of DPDK's environment.
    pub eal: Vec<String>,
    /// Further options of its own.
    pub options: Vec<String>,
    /// It is killed when it is older than this.
    pub lifetime: Duration,
}

impl Testpmd<'_> {
    /// Starts it; its ports are there when the first command has been run, and forward when they are told.
    pub fn start(&self) -> Result<Console> {
        let other = if self.cpu == BACK_END_CPU { CLIENT_CPU } else { BACK_END_CPU };
        let mut command = Console::begin(self.ns.command("stdbuf"));
        command.args(["--lcores", &format!("0@{other},1@{}", self.cpu), "--main-lcore=0", "--no-pci"]);
        command.args(["--no-telemetry", "--file-prefix", self.name, "-m", &MEMORY_MIB.to_string()]);
        // A large ring needs more than a huge page in one piece; by physical addresses there may be none.
        command.arg("--iova-mode=va");
        match self.memory {
            Memory::Huge => command.args(["--in-memory", "--single-file-segments"]),
            Memory::Small => command.args(["--no-huge", "--no-shconf"]),
        };
        for device in &self.devices {
            command.args(["--vdev", device]);
        }
        command.args(&self.eal);
        command.args(["--", "--interactive", "--nb-cores=1"]).args(&self.options);
        let runtime = self.dir.join(self.name);
        fs::create_dir(&runtime).with_context(|| format!("cannot make {}", runtime.display()))?;
        command.env("RUNTIME_DIRECTORY", runtime);
        Console::spawn(command, self.lifetime)
    }
}

/// Waits until a back end that is starting has made its socket.
pub fn wait_for(socket: &Path) -> Result<()> {
    let start = Instant::now();
    while !socket.exists() {
        if start.elapsed() > PATIENCE {
            bail!("no back end makes a socket at {}", socket.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What forwarding has done so far, as `show fwd stats all` prints it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Packets that came.
    pub received: u64,
    /// Packets put into a ring.
    pub sent: u64,
    /// Packets that found no room in a ring.
    pub dropped: u64,
    /// Cycles spent on them, as far as a testpmd with `--record-core-cycles` counts: in rounds that found packets, and
    /// in all rounds of those that it makes itself. None before the first packet.
    pub cycles: Option<u64>,
}

impl Forwarded {
    /// Reads the sums over all ports.
    pub fn parse(printed: &str) -> Result<Self> {
        let (_, sums) = printed
            .split_once("Accumulated forward statistics for all ports")
            .with_context(|| format!("testpmd told no sums of what it forwarded: {printed}"))?;
        let count = |name: &str| {
            let (_, rest) = sums.split_once(name)?;
            let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        let need = |name: &str| count(name).with_context(|| format!("no {name} in: {sums}"));
        Ok(Self {
            received: need("RX-packets:")?,
            sent: need("TX-packets:")?,
            dropped: need("TX-dropped:")?,
            cycles: if sums.contains("CPU cycles/packet=") { Some(need("total cycles=")?) } else { None },
        })
    }

    /// What was done since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            received: self.received - before.received,
            sent: self.sent - before.sent,
            dropped: self.dropped - before.dropped,
            cycles: self.cycles.map(|cycles| cycles - before.cycles.unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 9              RX-dropped: 0             RX-total: 9
  TX-packets: 9              TX-dropped: 9             TX-total: 9
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 1152           RX-dropped: 0             RX-total: 1152
  TX-packets: 6405472        TX-dropped: 58880416      TX-total: 65285888
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++
";
    const CYCLES: &str = "
  CPU cycles/packet=1496.09 (total cycles=9583164462 / total txonly packets=6405472) at 2600 MHz Clock
testpmd> #3.
";

    #[test]
    fn the_sums_of_all_ports_are_read() {
        let sums = Forwarded { received: 1152, sent: 6_405_472, dropped: 58_880_416, cycles: None };
        assert_eq!(Forwarded::parse(PRINTED).unwrap(), sums);
        let with_cycles = Forwarded::parse(&format!("{PRINTED}{CYCLES}")).unwrap();
        assert_eq!(with_cycles, Forwarded { cycles: Some(9_583_164_462), ..sums });
        let later = Forwarded { received: 1152, sent: 6_405_482, dropped: 58_880_417, cycles: Some(9_583_164_562) };
        let done = Forwarded { received: 0, sent: 10, dropped: 1, cycles: Some(100) };
        assert_eq!(later.since(&with_cycles), done);
    }

    #[test]
    fn what_is_no_statistics_is_no_zero() {
        for text in ["", "testpmd> show fwd stats all", &PRINTED.replace("TX-dropped:", "")] {
            assert!(Forwarded::parse(text).is_err(), "{text}");
        }
        assert!(Forwarded::parse(&format!("{PRINTED}CPU cycles/packet=1.0 (total cycles=-1")).is_err());
    }
}
