//! Where a bench runs, told with its result; and who runs on which CPU.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::SystemTime;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Processors, kernel, time and load: names and values.
pub fn conditions() -> Result<Vec<(String, String)>> {
    let cpuinfo = read("/proc/cpuinfo")?;
    let field = |name: &str| cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.split_once(": "));
    let model = field("model name").map_or("unknown processor", |(_, model)| model);
    let cpus = std::thread::available_parallelism()?;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let list = [
        ("machine", format!("{cpus} x {model}, Linux {kernel}")),
        ("unix time", now.to_string()),
        ("load average at the start", load()?),
    ];
    Ok(list.map(|(name, value): (&str, String)| (name.into(), value)).into())
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load() -> Result<String> {
    Ok(read("/proc/loadavg")?.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// Keeps a thread on a CPU; this one if none is named.
pub fn pin(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    ensure!(cpu < CpuSet::MAX_CPU, "there is no CPU {cpu}");
    set.set(cpu);
    sched_setaffinity(thread, &set).with_context(|| format!("cannot run on CPU {cpu}"))
}

/// Keeps all threads of a process on a CPU, and those that they will start.
pub fn pin_process(pid: u32, cpu: usize) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("no process {pid}"))? {
        let thread = entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        pin(Some(thread.context("a thread without a number")?), cpu)?;
    }
    Ok(())
}

/// The target directory: two above this program.
pub fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe()?;
    exe.ancestors().nth(2).map(Into::into).context("this program lies nowhere")
}

/// A file of the kernel's.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("no {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{gettid, sched_getaffinity};

    #[test]
    fn a_process_stays_where_it_is_put() {
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let put = pin_process(sleeper.id(), 0);
        let pid = Pid::from_raw(sleeper.id().cast_signed());
        let set = sched_getaffinity(pid).unwrap();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        put.unwrap();
        assert!(set.count() == 1 && set.is_set(0), "{set:?}");
        assert!(pin(Some(gettid()), CpuSet::MAX_CPU).is_err());
    }
}
