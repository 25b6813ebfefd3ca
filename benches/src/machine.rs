//! Where a bench runs, told with its result.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::SystemTime;
use std::{env, fs};

use anyhow::{Context, Result};

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

/// The target directory: two above this program.
pub fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe()?;
    exe.ancestors().nth(2).map(Into::into).context("this program lies nowhere")
}

/// A file of the kernel's.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("no {path}"))
}
