//! `vnicctl top`: what it shows of a running daemon, and how it leaves a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::{beside, eventually};
use guest_tests::process::exit_code;
use guest_tests::spawn::die_with_parent;
use guest_tests::{NetNs, Process, Vnicd, vnicd};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

const PATIENCE: Duration = Duration::from_secs(10);
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const LINES: NonZero<u16> = NonZero::new(24).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(80).unwrap();

fn rig(mode: &str) -> Result<(NetNs, Vnicd, ScriptedNic)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(["--queue-pairs=2", "--mode", mode]).control().start()?;
    let nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, Posting { count: 32, len: 2048 })?;
    Ok((ns, vnicd, nic))
}

fn top(vnicd: &Vnicd) -> Result<Command> {
    let mut command = Command::new(vnicd::binary()?.with_file_name("vnicctl"));
    command.arg("--control").arg(vnicd.dir().join("control")).arg("top");
    Ok(command)
}

#[test]
fn once_shows_what_happens_in_an_interval() -> Result<()> {
    for mode in ["interrupt", "polling"] {
        let (_ns, vnicd, mut nic) = rig(mode)?;
        let mut command = top(&vnicd)?;
        command.args(["--once", "--interval=0.5"]);
        let traffic = |stop: &std::sync::atomic::AtomicBool| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                nic.send(&[7; 500], 1)?;
                nic.host_sends(&[8; 500])?;
                nic.expect_and_post(&[8; 500], |_| false)?;
            }
            Ok(())
        };
        let mut text = String::new();
        beside(traffic, || {
            text = Process::spawn(command)?.wait_output(PATIENCE)?.ok("vnicctl top --once")?;
            Ok(())
        })?;
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        ensure!(lines.len() == 4 && text.starts_with(&format!("vnicd {}", env!("CARGO_PKG_VERSION"))), "{text}");
        let [_, heads, lane, all] = &lines[..] else { unreachable!() };
        ensure!(heads[..4] == ["LANE", "MODE", "REASON", "FOR"], "{text}");
        ensure!(lane[..3] == ["nic0/0", mode, "initial"] && all[0] == "all", "{text}");
        // From the right: they are all single words. Packets moved both ways and were measured, and the time is known.
        let cell = |n: usize| lane[lane.len() - n];
        ensure!([10, 8].iter().all(|n| !["0", "-"].contains(&cell(*n))), "no packets: {text}");
        ensure!(cell(2).ends_with('s') && cell(1).ends_with('s'), "no latency: {text}");
        let shares: Vec<f64> = lane[4..7].iter().map(|share| share.parse()).collect::<Result<_, _>>()?;
        ensure!((99.0..101.0).contains(&shares.iter().sum()), "{text}");
        ensure!((shares[2] > 50.0) == (mode == "polling"), "{text}");
        ensure!(cell(11) == "0", "drops: {text}");
    }
    Ok(())
}

/// A terminal of our own, and a program on it.
struct OnTerminal {
    terminal: File,
    program: OwnedFd,
    before: Termios,
    child: std::process::Child,
    screen: vt100::Parser,
}

impl OnTerminal {
    fn start(mut command: Command) -> Result<Self> {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let program = rustix::fs::open(ptsname(&terminal, Vec::new())?, flags, Mode::empty())?;
        tcsetwinsize(&program, Winsize { ws_row: LINES.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 })?;
        let before = tcgetattr(&program)?;
        die_with_parent(&mut command);
        command.env_remove("NO_COLOR").env("TERM", "xterm");
        command.stdin(program.try_clone()?).stdout(program.try_clone()?).stderr(program.try_clone()?);
        let child = command.spawn()?;
        let terminal = File::from(terminal);
        rustix::fs::fcntl_setfl(&terminal, OFlags::RDWR | OFlags::NONBLOCK)?;
        Ok(Self { terminal, program, before, child, screen: vt100::Parser::new(LINES, COLUMNS, 0) })
    }

    /// Waits until the screen is as `probe` wants it.
    fn wait_until(&mut self, what: &str, probe: impl Fn(&vt100::Screen) -> bool) -> Result<()> {
        let waited = eventually(what, || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = self.terminal.read(&mut bytes) {
                self.screen.process(&bytes[..n]);
            }
            Ok(probe(self.screen.screen()))
        });
        waited.with_context(|| self.screen.screen().contents())
    }

    fn wait_for(&mut self, text: &str) -> Result<()> {
        self.wait_until(&format!("{text:?} on the terminal"), |screen| screen.contents().contains(text))
    }

    /// Waits until the program has ended, and fails unless the terminal is as it was.
    fn ends(&mut self) -> Result<()> {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        self.wait_until("the old screen and its cursor", |screen| !screen.alternate_screen() && !screen.hide_cursor())?;
        ensure!(status.map(exit_code) == Some(0), "{status:?}");
        let after = tcgetattr(&self.program)?;
        let modes = |t: &Termios| (t.input_modes, t.output_modes, t.local_modes, t.control_modes);
        ensure!(modes(&after) == modes(&self.before), "the terminal is left in another mode");
        Ok(())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_terminal_is_as_it_was_after_a_key_and_after_a_signal() -> Result<()> {
    let (_ns, vnicd, _nic) = rig("auto")?;
    for end in ["q", "\x03", "SIGTERM", "SIGHUP"] {
        let mut top = OnTerminal::start(top(&vnicd)?)?;
        for text in ["nic0/0", "interrupt", "[n name]"] {
            top.wait_for(text)?;
        }
        ensure!(top.screen.screen().alternate_screen(), "what was on the terminal is overwritten");
        top.terminal.write_all(b"p")?;
        top.wait_for("[p packets]")?;
        let raw = tcgetattr(&top.program)?;
        ensure!(raw.local_modes != top.before.local_modes, "the terminal is not raw");
        match end {
            "SIGTERM" | "SIGHUP" => {
                let signal = if end == "SIGHUP" { rustix::process::Signal::HUP } else { rustix::process::Signal::TERM };
                rustix::process::kill_process(rustix::process::Pid::from_child(&top.child), signal)?;
            }
            key => top.terminal.write_all(key.as_bytes())?,
        }
        top.ends().context(end)?;
    }
    Ok(())
}

/// Without a signal: who started it may be in another session.
#[test]
fn a_terminal_that_goes_ends_it() -> Result<()> {
    let (_ns, vnicd, _nic) = rig("auto")?;
    let mut top = OnTerminal::start(top(&vnicd)?)?;
    top.wait_for("nic0/0")?;
    top.terminal = File::open("/dev/null")?;
    eventually("the program ends", || Ok(top.child.try_wait()?.is_some()))
}

#[test]
fn a_daemon_that_ends_is_said_so_and_the_next_one_is_shown() -> Result<()> {
    let ns = NetNs::new()?;
    let dir = tempfile::tempdir()?;
    let control = dir.path().join("control");
    let start = || Vnicd::builder(&ns).uplink("discard").arg("--control").arg(&control).start();
    let first = start()?;
    let mut command = Command::new(vnicd::binary()?.with_file_name("vnicctl"));
    command.arg("--control").arg(&control).args(["top", "--interval=0.1"]);
    let mut top = OnTerminal::start(command)?;
    top.wait_for(&format!("process {}", first.pid()))?;
    ensure!(first.terminate()?.success());
    top.wait_for("no vnicd answers at")?;
    let second = start()?;
    top.wait_for(&format!("process {}", second.pid()))?;
    top.terminal.write_all(b"q")?;
    top.ends()
}

#[test]
fn without_a_terminal_or_a_daemon_it_says_so() -> Result<()> {
    let (_ns, vnicd, _nic) = rig("auto")?;
    let output = Process::spawn(top(&vnicd)?)?.wait_output(PATIENCE)?;
    ensure!(output.status == 1 && output.stderr.contains("--once needs none"), "{output:?}");
    ensure!(vnicd.terminate()?.success());
    let output = Process::spawn(top(&vnicd)?)?.wait_output(PATIENCE)?;
    ensure!(output.status == 1 && output.stderr.contains("no vnicd answers at"), "{output:?}");
    ensure!(output.stdout.is_empty(), "{output:?}");
    Ok(())
}
