//! The first program of a guest: mounts, loads the network driver, then runs shell lines that come over the second
//! serial port, or the one that the kernel's command line names (`agent=ttyS0`). It configures no interface but the loopback. As `tool` it makes traffic, in the guest and on the host.
//!
//! Orphans are not reaped: a guest lives for minutes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use guest_tests::process::exit_code;
use guest_tests::protocol::{Event, Request};
use guest_tests::tools;
use rustix::process::{Pid, Signal, kill_process_group};

const PORT: &str = "ttyS1";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let called_tool = Path::new(&args[0]).file_name().map(OsStr::as_bytes) == Some(b"tool");
    let result = match args.get(1).map(String::as_str) {
        _ if called_tool => tools::run(&args[1..]),
        Some("tool") => tools::run(&args[2..]),
        _ if std::process::id() == 1 => init(),
        _ => Err(anyhow::anyhow!("usage: guest-agent tool NAME ARG... (see guest_tests::tools)")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The first program's end is the kernel's panic, which shows this line on the console.
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn init() -> Result<()> {
    mount_all()?;
    // The kernel found no /dev/console to open in the initramfs.
    let console = File::options().read(true).write(true).open("/dev/console")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    load_modules()?;
    Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?;
    fs::write("/etc/hosts", "127.0.0.1 localhost guest\n")?;
    serve()
}

fn mount_all() -> Result<()> {
    use rustix::mount::{MountFlags, mount};
    for (kind, target) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"), ("tmpfs", "/run")]
    {
        mount(kind, target, kind, MountFlags::empty(), None).with_context(|| format!("cannot mount {target}"))?;
    }
    Ok(())
}

fn load_modules() -> Result<()> {
    for name in fs::read_to_string("/modules/order")?.lines() {
        let file = File::open(format!("/modules/{name}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => eprintln!("cannot load {name}: {error}"),
        }
    }
    Ok(())
}

type Port = Arc<Mutex<File>>;
/// Process groups of the commands that run.
type Groups = Arc<Mutex<HashMap<u64, Pid>>>;

fn serve() -> Result<()> {
    let words = fs::read_to_string("/proc/cmdline")?;
    let name = words.split_whitespace().find_map(|word| word.strip_prefix("agent=")).unwrap_or(PORT);
    let path = Path::new("/dev").join(name);
    let port = File::options().read(true).write(true).open(&path).with_context(|| format!("cannot open {path:?}"))?;
    let mut settings = rustix::termios::tcgetattr(&port)?;
    settings.make_raw();
    settings.set_speed(115_200)?;
    rustix::termios::tcsetattr(&port, rustix::termios::OptionalActions::Now, &settings)?;
    let reader = BufReader::new(port.try_clone()?);
    let (port, groups): (Port, Groups) = (Arc::new(Mutex::new(port)), Groups::default());
    // Ends a line that a reset cut off.
    lock(&port).write_all(b"\n")?;
    tell(&port, &Event::Ready);
    for line in reader.lines() {
        match serde_json::from_str(&line?) {
            Ok(Request::Run { id, cmd }) => {
                let (port, groups) = (port.clone(), groups.clone());
                thread::spawn(move || {
                    let status = run(id, &cmd, &port, &groups).unwrap_or_else(|error| {
                        tell(&port, &Event::Stderr { id, line: format!("the agent cannot run it: {error}") });
                        127
                    });
                    tell(&port, &Event::Exit { id, status });
                });
            }
            Ok(Request::Kill { id, signal }) => {
                if let (Some(group), Some(signal)) = (lock(&groups).get(&id), Signal::from_named_raw(signal)) {
                    let _ = kill_process_group(*group, signal);
                }
            }
            Err(error) => eprintln!("agent: a request that cannot be read: {error}"),
        }
    }
    anyhow::bail!("{path:?} was closed")
}

fn run(id: u64, line: &str, port: &Port, groups: &Groups) -> io::Result<i32> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).env_clear().envs([("PATH", "/bin:/sbin:/usr/bin:/usr/sbin"), ("HOME", "/root")]);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = {
        // Held until the group is known: a request to kill it waits here.
        let mut groups = lock(groups);
        let child = command.spawn()?;
        groups.insert(id, Pid::from_child(&child));
        child
    };
    let readers = [
        child.stdout.take().map(|pipe| forward(pipe, port.clone(), move |line| Event::Stdout { id, line })),
        child.stderr.take().map(|pipe| forward(pipe, port.clone(), move |line| Event::Stderr { id, line })),
    ];
    let status = child.wait()?;
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    lock(groups).remove(&id);
    Ok(exit_code(status))
}

fn forward(
    pipe: impl Read + Send + 'static,
    port: Port,
    event: impl Fn(String) -> Event + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
            tell(&port, &event(text));
            line.clear();
        }
    })
}

fn tell(port: &Port, event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else {
        return;
    };
    line.push(b'\n');
    if let Err(error) = lock(port).write_all(&line) {
        eprintln!("agent: cannot write to the harness: {error}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
