//! What the daemon gives up, and what it can do all the same. No guest is needed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::vnicd::binary;
use guest_tests::{NetNs, Process, Signal, Vnicd};

const POSTING: Posting = Posting { count: 128, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65_534;

/// CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER; and what a TAP or AF_XDP takes beside them (linux/capability.h).
const FILES: u64 = 1 << 0 | 1 << 1 | 1 << 3;
const NET_ADMIN: u64 = 1 << 12;
/// Number of openat(2).
const OPENAT: u32 = if cfg!(target_arch = "x86_64") { 257 } else { 56 };

/// What a daemon with AF_XDP keeps where it could not raise its limit of locked memory, and what it takes to raise that.
const IPC_LOCK: u64 = 1 << 14;
const SYS_RESOURCE: u64 = 1 << 24;
const AF_XDP: u64 = NET_ADMIN | 1 << 13 | 1 << 21 | 1 << 39;

fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    Ok(ns)
}

/// A field of a process's or thread's status.
fn field(status: &str, name: &str) -> Result<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name}"))?.trim().to_owned())
}

fn mask(status: &str, name: &str) -> Result<u64> {
    Ok(u64::from_str_radix(&field(status, name)?, 16)?)
}

fn status(pid: u32) -> Result<String> {
    Ok(fs::read_to_string(format!("/proc/{pid}/status"))?)
}

/// Processes that a process started and that run.
fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(child) = entry?.file_name().to_string_lossy().parse() else { continue };
        // A process may end between the listing and the reading.
        if status(child).is_ok_and(|status| field(&status, "PPid").is_ok_and(|parent| parent == pid.to_string())) {
            found.push(child);
        }
    }
    Ok(found)
}

fn opener(vnicd: &Vnicd) -> Result<u32> {
    let found = children(vnicd.pid())?;
    ensure!(found.len() == 1, "{found:?}");
    Ok(found[0])
}

/// Whether a process runs: it may not have been waited for.
fn runs(pid: u32) -> bool {
    status(pid).is_ok_and(|status| field(&status, "State").is_ok_and(|state| !state.starts_with('Z')))
}

/// Frames cross both ways.
fn works(nic: &mut ScriptedNic) -> Result<()> {
    for n in 0..20u8 {
        nic.send(&[n; 700], 1)?;
        nic.exchange(&[n; 700])?;
        nic.post_fresh(2048)?;
    }
    Ok(())
}

/// What a daemon with AF_XDP keeps here.
fn kept_for_af_xdp() -> Result<u64> {
    let can_raise = mask(&status(std::process::id())?, "CapEff")? & SYS_RESOURCE != 0;
    Ok(if can_raise { 0 } else { IPC_LOCK })
}

/// No thread has a right but `kept`, and each has its filters: two that all have, and one more for those that move packets.
fn is_confined(vnicd: &Vnicd, workers: usize, kept: u64) -> Result<()> {
    let mut found = 0;
    for entry in fs::read_dir(format!("/proc/{}/task", vnicd.pid()))? {
        let status = fs::read_to_string(entry?.path().join("status"))?;
        for (set, kept) in [("CapInh", 0), ("CapPrm", kept), ("CapEff", kept), ("CapBnd", kept), ("CapAmb", 0)] {
            ensure!(mask(&status, set)? == kept, "{set}:\n{status}");
        }
        ensure!(field(&status, "NoNewPrivs")? == "1" && field(&status, "Seccomp")? == "2", "{status}");
        let filters = if field(&status, "Name")?.starts_with("nic0/") { "3" } else { "2" };
        found += usize::from(filters == "3");
        ensure!(field(&status, "Seccomp_filters")? == filters, "{status}");
    }
    ensure!(found == workers, "{found} workers");
    Ok(())
}

/// What the kernel noted that it refused the process, but for opening a file: the C library's allocator tries that at times,
/// and does without.
fn refusals(pid: u32) -> Result<Vec<String>> {
    let log = Command::new("dmesg").output()?;
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    let (of, file) = (format!(" pid={pid} "), format!(" syscall={OPENAT} "));
    Ok(log
        .lines()
        .filter(|line| line.contains("type=1326") && line.contains(&of) && !line.contains(&file))
        .map(Into::into)
        .collect())
}

#[test]
fn no_thread_has_rights_and_all_works() -> Result<()> {
    for (threads, workers) in [("per-pair", 1), ("per-direction", 2), ("pipeline", 2)] {
        let ns = namespace()?;
        let args = ["--threads", threads, "--queue-pairs=2", "--metrics=127.0.0.1:0"];
        let vnicd = Vnicd::builder(&ns).args(args).control().start()?;
        let opener = opener(&vnicd)?;
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
        works(&mut nic)?;
        is_confined(&vnicd, workers, 0).with_context(|| format!("--threads {threads}"))?;

        ensure!(vnicd.status()?["devices"][0]["name"] == "nic0");
        vnicd.vnicctl(&["mode", "set", "nic0", "polling"])?.ok("vnicctl mode")?;
        works(&mut nic)?;
        let line = vnicd.wait_for_line("metrics on http://", PATIENCE)?;
        let address = line.split("http://").nth(1).context("no address")?.trim_end_matches("/metrics").to_owned();
        let mut metrics = ns.run_in(|| TcpStream::connect(address))??;
        metrics.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut text = String::new();
        metrics.read_to_string(&mut text)?;
        ensure!(text.contains("vnicd_"), "{text}");

        drop(nic);
        vnicd.wait_for_line("front end gone", PATIENCE)?;
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
        works(&mut nic)?;
        let pid = vnicd.pid();
        ensure!(vnicd.terminate()?.success() && !vnicd.socket().exists(), "{:?}", vnicd.log());
        for pid in [pid, opener] {
            ensure!(refusals(pid)?.is_empty(), "{:?}", refusals(pid)?);
        }
    }
    Ok(())
}

#[test]
fn the_opener_has_what_its_uplink_takes() -> Result<()> {
    let ns = namespace()?;
    ns.sh("ip link add up0 type veth peer name up1")?;
    for (uplink, takes) in [("discard", 0), ("tap=tap0", NET_ADMIN), ("af-xdp=up0", AF_XDP)] {
        let vnicd = Vnicd::builder(&ns).uplink(uplink).start()?;
        let opener = opener(&vnicd)?;
        let status = status(opener)?;
        ensure!(field(&status, "Name")? == "vnicd-opener" && field(&status, "NoNewPrivs")? == "1", "{status}");
        ensure!(field(&status, "Seccomp")? == "2" && field(&status, "Seccomp_filters")? == "1", "{status}");
        ensure!(refusals(opener)?.is_empty(), "{:?}", refusals(opener)?);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            ensure!(mask(&status, set)? == FILES | takes, "{uplink}: {set}:\n{status}");
        }
        // It keeps nothing that it opened but its end of the socket.
        let links = fs::read_dir(format!("/proc/{opener}/fd"))?.map(|fd| Ok(fs::read_link(fd?.path())?));
        let links = links.collect::<Result<Vec<_>>>()?;
        ensure!(!links.iter().any(|link| link == Path::new("/dev/net/tun")), "{links:?}");
        is_confined(&vnicd, 0, if takes == AF_XDP { kept_for_af_xdp()? } else { 0 })?;
    }
    Ok(())
}

#[test]
fn the_opener_ends_with_the_daemon_however_that_ends() -> Result<()> {
    let ns = namespace()?;
    let (first, second) = (Vnicd::builder(&ns).start()?, Vnicd::builder(&ns).uplink("tap=tap1").start()?);
    let (opener_of_first, opener_of_second) = (opener(&first)?, opener(&second)?);
    first.kill()?;
    eventually("the opener ends", || Ok(!runs(opener_of_first)))?;
    // What is sent to all of a group is for the daemon, whose socket is still to be removed.
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let pid = rustix::process::Pid::from_raw(opener_of_second as i32).context("no process")?;
        rustix::process::kill_process(pid, signal)?;
    }
    std::thread::sleep(Duration::from_millis(100));
    ensure!(runs(opener_of_second), "it ended");
    ensure!(second.terminate()?.success() && !second.socket().exists());
    ensure!(!runs(opener_of_second), "the daemon left it behind");
    Ok(())
}

#[test]
fn a_daemon_without_its_opener_serves_on() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    let pid = rustix::process::Pid::from_raw(opener(&vnicd)? as i32).context("no process")?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    works(&mut nic)?;
    drop(nic);
    vnicd.wait_for_line("front end gone", PATIENCE)?;
    works(&mut ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?)?;
    ensure!(vnicd.terminate()?.success(), "{:?}", vnicd.log());
    Ok(())
}

#[test]
fn an_interface_that_comes_back_is_opened_again_for_a_daemon_without_rights() -> Result<()> {
    let ns = namespace()?;
    let make_pair = || {
        ns.sh("ip link add up0 type veth peer name tap0 address 02:00:00:00:00:01")?;
        ns.sh("ethtool -K tap0 tx off; ip link set tap0 up && ip link set up0 up")?;
        ns.sh("ip addr add 10.77.0.1/24 dev tap0 && ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")
    };
    make_pair()?;
    for user in [None, Some("nobody")] {
        let builder = Vnicd::builder(&ns).uplink("af-xdp=up0").args(user.map(|user| format!("--user={user}")));
        let vnicd = builder.start()?;
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
        works(&mut nic)?;
        ns.sh("ip link del up0")?;
        make_pair()?;
        vnicd.wait_for_line("uplink opened again", PATIENCE)?;
        works(&mut nic)?;
        is_confined(&vnicd, 1, kept_for_af_xdp()?)?;
        ensure!(refusals(vnicd.pid())?.is_empty(), "{:?}", refusals(vnicd.pid())?);
    }
    Ok(())
}

#[test]
fn the_daemon_becomes_another_user() -> Result<()> {
    let ns = namespace()?;
    let state = tempfile::tempdir()?;
    let args = ["--user=nobody", "--state-dir"];
    let vnicd = Vnicd::builder(&ns).args(args).arg(state.path()).control().start()?;
    let ids = |pid, name| -> Result<Vec<String>> {
        Ok(field(&status(pid)?, name)?.split_whitespace().map(Into::into).collect())
    };
    ensure!(ids(vnicd.pid(), "Uid")? == [&NOBODY.to_string()[..]; 4], "{}", status(vnicd.pid())?);
    ensure!(!ids(vnicd.pid(), "Gid")?.contains(&"0".into()) && ids(vnicd.pid(), "Groups")?.is_empty());
    ensure!(ids(opener(&vnicd)?, "Uid")? == ["0"; 4], "{}", status(opener(&vnicd)?)?);
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    works(&mut nic)?;
    ensure!(vnicd.status()?["devices"][0]["name"] == "nic0");
    ensure!(vnicd.terminate()?.success() && !vnicd.socket().exists() && !vnicd.control_path().exists());
    Ok(())
}

#[test]
fn a_daemon_that_had_no_rights_has_none() -> Result<()> {
    let ns = namespace()?;
    ns.sh(&format!("ip tuntap add dev tap0 mode tap multi_queue vnet_hdr user {NOBODY} && ip link set tap0 up"))?;
    let vnicd = Vnicd::builder(&ns).user(NOBODY).start()?;
    works(&mut ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?)?;
    ensure!(mask(&status(opener(&vnicd)?)?, "CapPrm")? == 0);
    is_confined(&vnicd, 1, 0)
}

#[test]
fn without_a_sandbox_there_is_none() -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).arg("--sandbox=off").start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    works(&mut nic)?;
    let status = status(vnicd.pid())?;
    ensure!(field(&status, "Seccomp")? == "0" && field(&status, "NoNewPrivs")? == "0", "{status}");
    ensure!(mask(&status, "CapEff")? & NET_ADMIN != 0 && children(vnicd.pid())?.is_empty());
    ensure!(vnicd.terminate()?.success() && !vnicd.socket().exists());

    let dir = tempfile::tempdir()?;
    let file = dir.path().join("vnicd.toml");
    let socket = dir.path().join("s");
    let text = format!("sandbox = \"off\"\n[[device]]\nsocket-path = \"{}\"\nuplink = \"discard\"\n", socket.display());
    fs::write(&file, text)?;
    let mut command = Command::new(binary()?);
    command.arg("--config").arg(&file);
    let process = Process::spawn(command)?;
    process.wait_for_line("listening on", PATIENCE)?;
    ensure!(children(process.pid())?.is_empty());
    ensure!(process.terminate()?.success());
    Ok(())
}

fn run(args: &[&str]) -> Result<guest_tests::Output> {
    let mut command = Command::new(binary()?);
    command.args(["--socket-path=/nowhere/s", "--uplink=discard"]).args(args);
    Process::spawn(command)?.wait_output(PATIENCE)
}

#[test]
fn what_is_forbidden_is_refused_in_each_role() -> Result<()> {
    let output = run(&["--sandbox-self-test"])?;
    let lines: Vec<_> = output.stdout.lines().collect();
    ensure!(output.status == 0 && lines.iter().all(|line| line.ends_with(": refused")), "{output:?}");
    for (role, least) in [("main: ", 10), ("worker: ", 12)] {
        ensure!(lines.iter().filter(|line| line.starts_with(role)).count() >= least, "{output:?}");
    }
    let output = run(&["--sandbox-self-test", "--sandbox=off"])?;
    ensure!(output.status == 2 && output.stdout.is_empty(), "{output:?}");
    Ok(())
}

#[test]
fn users_that_cannot_be() -> Result<()> {
    for (args, words) in [
        (&["--user=nobody-of-that-name"][..], "there is no user 'nobody-of-that-name'"),
        (&["--user=nobody", "--sandbox=off"], "--user means nothing with --sandbox off"),
    ] {
        let output = run(args)?;
        ensure!(output.status == 2 && output.stderr.contains(words), "{output:?}");
    }
    let ns = namespace()?;
    let mut command = guest_tests::vnicd::unprivileged(&ns, NOBODY)?;
    command.args(["--socket-path=/tmp/s", "--uplink=discard", "--user=root"]);
    let output = Process::spawn(command)?.wait_output(PATIENCE)?;
    ensure!(output.status == 2 && output.stderr.contains("start vnicd as root, or leave out --user"), "{output:?}");
    Ok(())
}
