//! What a process uses, read from `/proc`: CPU time and switches by thread, memory of its own, descriptors, threads.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

/// One thread at the moment of the reading.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Name (15 bytes at most, as the kernel keeps it).
    pub name: String,
    /// Time on a CPU, user and system.
    pub cpu: Duration,
    /// How often it slept: switches away that it asked for.
    pub voluntary_switches: u64,
    /// How often it was taken off a CPU.
    pub involuntary_switches: u64,
}

/// What a process did between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Time on a CPU of all threads; the kernel counts in ticks of 10 ms.
    pub cpu: Duration,
    /// How often threads slept.
    pub voluntary_switches: u64,
}

/// A process at the moment of the reading.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Its threads that live.
    pub threads: Vec<Thread>,
    /// Time on a CPU of all threads, those that ended included.
    pub cpu: Duration,
    /// Resident memory less shared memory (a guest's memory is shared): VmRSS - RssShmem, in bytes.
    pub rss_private_bytes: u64,
    /// Open descriptors.
    pub fds: usize,
}

impl Usage {
    /// Reads what a process uses now.
    pub fn of(pid: u32) -> Result<Self> {
        let root = PathBuf::from(format!("/proc/{pid}"));
        let text = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("no /proc/{pid}/{path}"));
        let mut threads = Vec::new();
        for entry in fs::read_dir(root.join("task"))? {
            let tid: u32 = entry?.file_name().to_string_lossy().parse()?;
            let file = |name: &str| text(&format!("task/{tid}/{name}"));
            // A thread may end between the listing and the reading.
            let (Ok(stat), Ok(status)) = (file("stat"), file("status")) else {
                continue;
            };
            threads.push(Thread {
                tid,
                name: field(&status, "Name:").unwrap_or_default().into(),
                cpu: cpu_time(&stat)?,
                voluntary_switches: number(&status, "voluntary_ctxt_switches:")?,
                involuntary_switches: number(&status, "nonvoluntary_ctxt_switches:")?,
            });
        }
        let status = text("status")?;
        let rss_private_kib = number(&status, "VmRSS:")?.saturating_sub(number(&status, "RssShmem:")?);
        Ok(Self {
            threads,
            cpu: cpu_time(&text("stat")?)?,
            rss_private_bytes: rss_private_kib * 1024,
            fds: fs::read_dir(root.join("fd"))?.count(),
        })
    }

    /// How many descriptors a process has open when it closes and opens no more of them.
    pub fn settled_fds(pid: u32) -> Result<usize> {
        let mut last = usize::MAX;
        loop {
            let now = Self::of(pid)?.fds;
            if now == last {
                return Ok(now);
            }
            last = now;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The threads whose names begin with `prefix`.
    pub fn threads_named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Thread> {
        self.threads.iter().filter(move |thread| thread.name.starts_with(prefix))
    }

    /// What was done since `earlier`.
    pub fn since(&self, earlier: &Self) -> Spent {
        Spent {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            voluntary_switches: self.voluntary_switches().saturating_sub(earlier.voluntary_switches()),
        }
    }

    /// Voluntary switches of all threads.
    pub fn voluntary_switches(&self) -> u64 {
        self.threads.iter().map(|thread| thread.voluntary_switches).sum()
    }
}

/// utime + stime of a `stat` file, in which the name may hold blanks and parentheses.
fn cpu_time(stat: &str) -> Result<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name in a stat file")?.1.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11).context("no utime")?.parse::<u64>()? + fields.get(12).context("no stime")?.parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn number(status: &str, name: &str) -> Result<u64> {
    let value = field(status, name).and_then(|value| value.split_whitespace().next());
    value
        .with_context(|| format!("no {name} in a status file"))?
        .parse()
        .with_context(|| format!("{name} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let busy = std::thread::Builder::new().name("busy one".into()).spawn(|| {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(60) {}
            std::thread::sleep(Duration::from_millis(500));
        });
        std::thread::sleep(Duration::from_millis(300));
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.threads_named("busy").any(|thread| thread.voluntary_switches > 0));
        assert!(usage.cpu > Duration::ZERO && usage.rss_private_bytes > 100_000 && usage.fds > 2);
        busy.unwrap().join().unwrap();
    }
}
