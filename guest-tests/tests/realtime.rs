//! Workers with a real-time priority: who has it, and what is said where it cannot be had.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Client;
use guest_tests::driver::nic::VERSION_1;
use guest_tests::lab::eventually;
use guest_tests::vnicd::{binary, unprivileged};
use guest_tests::{NetNs, Process};

const PATIENCE: Duration = Duration::from_secs(20);
/// A control group of the kernel's older kind may have no real-time, but the first one has (cgroups(7)).
const FIRST_GROUP: &str = "/sys/fs/cgroup/cpu/cgroup.procs";
const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;

/// The daemon, where there is real-time. It has nothing to do with the network.
fn start(dir: &tempfile::TempDir, file: &str) -> Result<Process> {
    let path = dir.path().join("vnicd.toml");
    fs::write(&path, file.replace("DIR", &dir.path().to_string_lossy()))?;
    let mut command = Command::new("sh");
    let join = format!("[ ! -w {FIRST_GROUP} ] || echo $$ >{FIRST_GROUP}; exec \"$@\"");
    command.args(["-c", &join, "sh"]).arg(binary()?).arg("--config").arg(path);
    let vnicd = Process::spawn(command)?;
    vnicd.wait_for_line("listening on", PATIENCE)?;
    Ok(vnicd)
}

/// Policy and real-time priority of all threads, by name (proc(5), fields 41 and 40).
fn priorities(pid: u32) -> Result<BTreeMap<String, (u32, u32)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(entry?.path().join("stat"))?;
        let (head, fields) = stat.rsplit_once(") ").context("no stat")?;
        let name = head.split_once('(').context("no name")?.1;
        // The first one behind the name is the third.
        let field = |n: usize| -> Result<u32> { Ok(fields.split(' ').nth(n - 3).context("too short")?.parse()?) };
        found.insert(name.into(), (field(41)?, field(40)?));
    }
    Ok(found)
}

fn device(name: &str, more: &str) -> String {
    format!("[[device]]\nname = '{name}'\nsocket-path = 'DIR/{name}'\nuplink = 'loopback'\nqueue-pairs = 1\n{more}\n")
}

/// A front end whose rings run.
fn front_end(dir: &tempfile::TempDir, name: &str) -> Result<Client> {
    let mut client = Client::start(&dir.path().join(name), VERSION_1)?;
    client.running_queue(0, 256)?;
    client.running_queue(1, 256)?;
    Ok(client)
}

fn workers_alone(global: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let global = format!("control = 'DIR/control'\n{global}\n");
    let devices = [
        device("a", "realtime-priority = 7"),
        device("b", ""),
        device("c", "realtime-priority = 3\nthreads = 'pipeline'"),
    ];
    let vnicd = start(&dir, &format!("{global}{}", devices.concat()))?;
    let _front_ends = [front_end(&dir, "a")?, front_end(&dir, "b")?, front_end(&dir, "c")?];
    let expected = [
        ("a/0", (SCHED_FIFO, 7)),
        ("b/0", (SCHED_OTHER, 0)),
        ("c/0", (SCHED_FIFO, 3)),
        ("c/0/uplink", (SCHED_FIFO, 3)),
    ];
    eventually("all workers have their priorities", || {
        let found = priorities(vnicd.pid())?;
        Ok(expected.iter().all(|(name, priority)| found.get(*name) == Some(priority)))
    })?;
    let others = priorities(vnicd.pid())?;
    let others = others.iter().filter(|(name, _)| !expected.iter().any(|(worker, _)| worker == name));
    for (name, priority) in others {
        ensure!(*priority == (SCHED_OTHER, 0), "{name} has {priority:?}");
    }

    // Another priority, and none, by a reload.
    let devices = [device("a", ""), device("b", "realtime-priority = 9")];
    let text = format!("{global}{}", devices.concat()).replace("DIR", &dir.path().to_string_lossy());
    fs::write(dir.path().join("vnicd.toml"), text)?;
    let mut command = Command::new(binary()?.with_file_name("vnicctl"));
    command.arg("--control").arg(dir.path().join("control")).arg("reload");
    Process::spawn(command)?.wait_output(PATIENCE)?.ok("reload")?;
    let _front_ends = [front_end(&dir, "a")?, front_end(&dir, "b")?];
    let expected = [("a/0", (SCHED_OTHER, 0)), ("b/0", (SCHED_FIFO, 9))];
    eventually("the workers have the new priorities", || {
        let found = priorities(vnicd.pid())?;
        Ok(expected.iter().all(|(name, priority)| found.get(*name) == Some(priority)))
    })
}

#[test]
fn workers_have_the_priority_and_nobody_else() -> Result<()> {
    workers_alone("")
}

#[test]
fn they_have_it_without_a_sandbox() -> Result<()> {
    workers_alone("sandbox = 'off'")
}

#[test]
fn a_worker_of_several_devices_has_the_highest() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let shared =
        |name, priority| device(name, &format!("threads = 'per-cpu'\ncpus = '0'\nrealtime-priority = {priority}"));
    let vnicd = start(&dir, &[shared("a", 4), shared("b", 6), shared("c", 5)].concat())?;
    let _front_ends = [front_end(&dir, "a")?, front_end(&dir, "b")?, front_end(&dir, "c")?];
    eventually("the highest", || Ok(priorities(vnicd.pid())?.get("cpu0") == Some(&(SCHED_FIFO, 6))))
}

#[test]
fn a_right_that_is_missing_is_named() -> Result<()> {
    let (ns, dir) = (NetNs::new()?, tempfile::tempdir()?);
    let mut command = unprivileged(&ns, 65534)?;
    std::os::unix::fs::chown(dir.path(), Some(65534), None)?;
    command.arg("--socket-path").arg(dir.path().join("s"));
    command.args(["--uplink", "discard", "--realtime-priority", "7"]);
    let output = Process::spawn(command)?.wait_output(PATIENCE)?;
    let line =
        "vnicd: no right to the real-time priority 7: start vnicd with CAP_SYS_NICE, or with a limit that allows it";
    ensure!(output.status == 2 && output.stderr.contains(line), "{output:?}");
    Ok(())
}
