//! Uplinks that cannot be opened and descriptors that were passed, on the command line. No guest is needed.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::lab::ended_with;
use guest_tests::spawn::pass_fd;
use guest_tests::vnicd::{binary, unprivileged};
use guest_tests::{NetNs, Output, Process, Vnicd};

const END: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

/// Runs a daemon that cannot open its uplink: exit code 2, one line with the words, no socket left behind.
fn refused(mut command: Command, uplink: &str, words: &[&str]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), None)?;
    let socket = dir.path().join("vnicd.sock");
    command.arg("--socket-path").arg(&socket).args(["--uplink", uplink]);
    says(&Process::spawn(command)?.wait_output(END)?, words)?;
    ensure!(!socket.exists(), "--uplink {uplink}: the socket is left behind");
    Ok(())
}

fn says(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(output.status == 2 && output.stdout.is_empty(), "not refused: {output:?}");
    ensure!(output.stderr.lines().count() == 1, "not one line:\n{}", output.stderr);
    for word in words {
        ensure!(output.stderr.contains(word), "no \"{word}\" in \"{}\"", output.stderr.trim());
    }
    Ok(())
}

fn refused_in(ns: &NetNs, uplink: &str, words: &[&str]) -> Result<()> {
    refused(ns.command(binary()?), uplink, words)
}

#[test]
fn names_that_fit_no_interface() -> Result<()> {
    let ns = NetNs::new()?;
    refused_in(&ns, "tap=sixteen-letters-", &["'sixteen-letters-'", "1 to 15 letters"])?;
    refused_in(&ns, "tap=a/b", &["'a/b'", "slashes"])?;
    refused_in(&ns, "tap=tap0,bridge=sixteen-letters-", &["'sixteen-letters-'", "1 to 15 letters"])?;
    refused_in(&ns, "tap=tap0,bridge=br9", &["'br9'", "does not exist", "ip link add br9 type bridge"])?;
    ensure!(ns.sh("ls /sys/class/net")? == "lo\n", "something was made");
    Ok(())
}

#[test]
fn a_bridge_that_is_none() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sh("ip link add v0 type veth peer name v1")?;
    refused_in(&ns, "tap=tap0,bridge=v0", &["'v0'", "bridge"])?;
    ensure!(!ns.sh("ls /sys/class/net")?.contains("tap0"), "the TAP is left behind");

    // A TAP that hangs on another bridge is not what was asked for.
    ns.add_tap("tap1", 2)?;
    ns.sh("ip link add br0 type bridge && ip link add br1 type bridge && ip link set tap1 master br1")?;
    refused_in(&ns, "tap=tap1,bridge=br0", &["'tap1'", "br0"])
}

#[test]
fn interfaces_that_are_no_taps() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sh("ip link add v0 type veth peer name v1 && ip link add br0 type bridge")?;
    for name in ["v0", "br0", "lo"] {
        refused_in(&ns, &format!("tap={name}"), &[&format!("'{name}'"), "not a TAP", "another"])?;
    }
    for name in ["v0", "br0"] {
        let up = ns.sh(&format!("ip -o link show up dev {name}"))?;
        ensure!(up.is_empty(), "a foreign interface was brought up: {up}");
    }
    ns.sh("ip link set v0 up && ip link set v1 up")?;
    refused_in(&ns, "tap=v0", &["'v0'", "not a TAP"])?;
    // A TUN device carries IP packets without Ethernet headers.
    ns.sh("ip tuntap add tun0 mode tun vnet_hdr")?;
    refused_in(&ns, "tap=tun0", &["'tun0'", "not a TAP"])
}

#[test]
fn taps_that_are_in_use() -> Result<()> {
    let ns = NetNs::new()?;
    ns.add_tap("single", 1)?;
    ns.add_tap("multi", 2)?;
    for tap in ["single", "multi", "made"] {
        let _holder = Vnicd::builder(&ns).uplink(format!("tap={tap}")).start()?;
        for _ in 0..3 {
            refused_in(&ns, &format!("tap={tap}"), &[&format!("'{tap}'"), "in use", "another TAP"])?;
        }
    }
    Ok(())
}

/// A TAP is free as soon as the daemon that had it has ended.
#[test]
fn a_tap_is_free_at_once() -> Result<()> {
    let ns = NetNs::new()?;
    for (tap, queues) in [("single", 1), ("multi", 2)] {
        ns.add_tap(tap, queues)?;
        for _ in 0..3 {
            let vnicd = Vnicd::builder(&ns).uplink(format!("tap={tap}")).start()?;
            ended_with(vnicd.terminate()?, 0)?;
        }
    }
    Ok(())
}

#[test]
fn no_rights() -> Result<()> {
    let ns = NetNs::new()?;
    let words = |name| [name, "no right", "CAP_NET_ADMIN", "ip tuntap add"];
    refused(unprivileged(&ns, NOBODY)?, "tap=tap0", &words("'tap0'"))?;
    refused(unprivileged(&ns, NOBODY)?, "tap=vnic%d", &words("'vnic%d'"))?;
    ns.sh("ip tuntap add dev tap1 mode tap multi_queue vnet_hdr user 1")?;
    refused(unprivileged(&ns, NOBODY)?, "tap=tap1", &words("'tap1'"))
}

const FD: i32 = 7;

/// A daemon in a namespace of its own that finds `fd` as descriptor 7.
fn with_fd(ns: &NetNs, fd: impl Into<OwnedFd>) -> Result<Process> {
    let mut command = ns.command(binary()?);
    command.args(["--fd", &FD.to_string()]);
    pass_fd(&mut command, fd.into(), FD);
    Process::spawn(command)
}

/// Asks for the device's features (vhost-user, GET_FEATURES), which has an answer.
fn is_served(front_end: &mut UnixStream) -> Result<()> {
    front_end.set_read_timeout(Some(END))?;
    let header = [1u32, 1, 0].map(u32::to_le_bytes).concat();
    front_end.write_all(&header)?;
    let mut answer = [0; 20];
    front_end.read_exact(&mut answer)?;
    ensure!(answer[0] == 1 && answer[12..] != [0; 8], "no features: {answer:?}");
    Ok(())
}

#[test]
fn a_connected_socket_is_served_to_its_end() -> Result<()> {
    let ns = NetNs::new()?;
    let (mut ours, theirs) = UnixStream::pair()?;
    let vnicd = with_fd(&ns, theirs)?;
    is_served(&mut ours)?;
    ensure!(vnicd.try_status()?.is_none());
    drop(ours);
    ended_with(vnicd.wait(END)?, 0)?;

    // A front end that has gone before anybody looked.
    let (ours, theirs) = UnixStream::pair()?;
    drop(ours);
    ended_with(with_fd(&ns, theirs)?.wait(END)?, 0)?;

    let (mut ours, theirs) = UnixStream::pair()?;
    let vnicd = with_fd(&ns, theirs)?;
    is_served(&mut ours)?;
    ended_with(vnicd.terminate()?, 0)
}

#[test]
fn a_listening_socket_is_served_and_stays() -> Result<()> {
    let ns = NetNs::new()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("passed.sock");
    let listener = UnixListener::bind(&path)?;
    for _ in 0..2 {
        // The front end may come before the daemon, as with socket activation.
        let mut first = UnixStream::connect(&path)?;
        let vnicd = with_fd(&ns, listener.try_clone()?)?;
        is_served(&mut first)?;
        drop(first);
        vnicd.wait_for_line("front end gone", END)?;
        is_served(&mut UnixStream::connect(&path)?)?;
        ended_with(vnicd.terminate()?, 0)?;
        ensure!(path.exists(), "a socket that is not vnicd's own was removed");
    }
    Ok(())
}

#[test]
fn descriptors_that_are_no_use() -> Result<()> {
    let ns = NetNs::new()?;
    let no_socket = ["descriptor 7", "no Unix stream socket"];
    says(&with_fd(&ns, File::open("/dev/null")?)?.wait_output(END)?, &no_socket)?;
    says(&with_fd(&ns, UnixDatagram::unbound()?)?.wait_output(END)?, &no_socket)?;
    says(&with_fd(&ns, TcpListener::bind("127.0.0.1:0")?)?.wait_output(END)?, &no_socket)?;
    for (fd, words) in [("99", ["descriptor 99", "not open"]), ("1", ["descriptor 1", "standard stream"])] {
        let mut command = ns.command(binary()?);
        command.args(["--fd", fd]);
        says(&Process::spawn(command)?.wait_output(END)?, &words)?;
    }
    ensure!(ns.sh("ls /sys/class/net")? == "lo\n", "something was made");
    Ok(())
}
