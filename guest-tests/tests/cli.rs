//! The command line: what is refused, with which words, and how a daemon begins and ends. No guest is needed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::lab::ended_with;
use guest_tests::vnicd::binary;
use guest_tests::{NetNs, Output, Process, Signal, Vnicd};
use serde_json::{Value, json};

const END: Duration = Duration::from_secs(20);

/// Runs a daemon that is expected to end at once.
fn run(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(args);
    Process::spawn(command)?.wait_output(END)
}

/// The same in a namespace, with a socket at `socket`.
fn run_in(ns: &NetNs, socket: &Path, args: &[&str]) -> Result<Output> {
    let mut command = ns.command(binary()?);
    command.arg("--socket-path").arg(socket).args(args);
    Process::spawn(command)?.wait_output(END)
}

/// Exit code 2 and, first of all, a line with the words.
fn complains_of(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(output.status == 2 && output.stdout.is_empty(), "not refused: {output:?}");
    let line = output.stderr.lines().next().unwrap_or_default();
    for word in words {
        ensure!(line.contains(word), "no \"{word}\" in \"{line}\"");
    }
    Ok(())
}

/// The same, and nothing but that line: a user reads all of it.
fn says_only(output: &Output, words: &[&str]) -> Result<()> {
    complains_of(output, words)?;
    ensure!(output.stderr.lines().count() == 1, "more than one line:\n{}", output.stderr);
    Ok(())
}

#[test]
fn capabilities_are_printed_whatever_else_is_asked() -> Result<()> {
    let nonsense: &[&str] = &["--print-capabilities", "--nonsense", "--uplink", "moon", "--fd", "x", "word"];
    let last: &[&str] = &["--socket-path", "/nowhere/at/all", "--print-capabilities"];
    for args in [&["--print-capabilities"], nonsense, last] {
        let output = run(args)?;
        ensure!(output.status == 0 && output.stderr.is_empty(), "{args:?}: {output:?}");
        ensure!(output.stdout.lines().count() == 1, "{args:?}: {output:?}");
        ensure!(serde_json::from_str::<Value>(&output.stdout)? == json!({ "type": "net", "features": [] }));
    }
    Ok(())
}

#[test]
fn words_that_make_no_sense_are_named() -> Result<()> {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--sokcet-path", "/s"], &["--sokcet-path"]),
        (&["--uplink", "moon"], &["'moon'", "tap=NAME"]),
        (&["--uplink", "tap="], &["tap=", "needs a name"]),
        (&["--uplink", "tap=t,bride=br0"], &["'bride=br0'", "bridge=NAME"]),
        (&["--socket-mode", "999"], &["'999'", "--socket-mode", "octal"]),
        (&["--socket-mode", "1777"], &["'1777'", "at most 777"]),
        (&["--socket-group", "no-such-group"], &["'no-such-group'", "no group"]),
        (&["--queue-pairs", "0"], &["--queue-pairs 0", "between 1 and 32"]),
        (&["--queue-pairs", "33"], &["--queue-pairs 33", "32"]),
        (&["--queue-size", "65535"], &["65535", "--queue-size"]),
        (&["--cpus", "3-1"], &["'3-1'", "1-3"]),
        (&["--log-format", "xml"], &["'xml'", "--log-format"]),
        (&["--log", "loud"], &["'loud'", "--log"]),
        (&["--log", "vnicd=loud"], &["'vnicd=loud'", "--log"]),
        (&["--fd", "seven"], &["'seven'", "--fd"]),
    ];
    for (args, words) in cases {
        let socket: &[&str] = if args[0] == "--fd" { &[] } else { &["--socket-path", "/nowhere/at/all"] };
        let output = run(&[socket, args].concat())?;
        complains_of(&output, words).with_context(|| format!("{args:?}"))?;
    }
    let neither = run(&[])?;
    ensure!(neither.status == 2 && neither.stderr.contains("--socket-path") && neither.stderr.contains("--fd"));
    complains_of(&run(&["--socket-path", "/s", "--fd", "3"])?, &["--socket-path", "--fd"])?;
    complains_of(&run(&["--fd", "3", "--socket-mode", "660"])?, &["--fd", "--socket-mode"])
}

#[test]
fn sockets_that_cannot_be_are_named_with_the_mend() -> Result<()> {
    let ns = NetNs::new()?;
    let dir = tempfile::tempdir()?;
    let long = dir.path().join("x".repeat(108));
    says_only(&run_in(&ns, &long, &[])?, &["xxxxx'", "at most 107", "shorter"])?;
    says_only(&run_in(&ns, &long, &["--client"])?, &["xxxxx'", "at most 107", "shorter"])?;
    let nowhere = dir.path().join("missing/vnicd.sock");
    says_only(&run_in(&ns, &nowhere, &[])?, &["missing/vnicd.sock", "directory", "make it"])?;

    let file = dir.path().join("file");
    fs::write(&file, "precious")?;
    says_only(&run_in(&ns, &file, &[])?, &["file'", "not a socket", "remove"])?;
    ensure!(fs::read_to_string(&file)? == "precious", "the file was touched");

    let vnicd = Vnicd::builder(&ns).start()?;
    let before = fs::metadata(vnicd.socket())?.ino();
    says_only(&run_in(&ns, vnicd.socket(), &[])?, &["vnicd.sock'", "in use", "another path"])?;
    ensure!(fs::metadata(vnicd.socket())?.ino() == before, "the live socket was replaced");
    UnixStream::connect(vnicd.socket()).context("the first daemon has lost its socket")?;
    Ok(())
}

#[test]
fn a_socket_comes_and_goes_with_its_daemon() -> Result<()> {
    let ns = NetNs::new()?;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("vnicd.sock");
    let start = || Vnicd::builder(&ns).socket_path(&socket).start();
    for signal in [Signal::TERM, Signal::INT] {
        for connected in [false, true] {
            let vnicd = start()?;
            let front_end = UnixStream::connect(&socket)?;
            vnicd.wait_for_line("front end connected", END)?;
            if !connected {
                drop(front_end);
                vnicd.wait_for_line("front end gone", END)?;
            }
            vnicd.process().signal(signal)?;
            ended_with(vnicd.process().wait(END)?, 0).with_context(|| format!("{signal:?}"))?;
            ensure!(!socket.exists(), "the socket is left behind after {signal:?}");
        }
    }

    let killed = start()?;
    killed.kill()?;
    ensure!(fs::metadata(&socket)?.file_type().is_socket(), "a killed daemon cleaned up?");
    let vnicd = start().context("a stale socket was not replaced")?;
    // Somebody else's by now: it is not ours to remove.
    fs::remove_file(&socket)?;
    fs::write(&socket, "another's")?;
    ended_with(vnicd.terminate()?, 0)?;
    ensure!(fs::read_to_string(&socket)? == "another's");
    Ok(())
}

#[test]
fn mode_and_group_of_the_socket() -> Result<()> {
    let ns = NetNs::new()?;
    for (mode, group, expected) in [("660", "4242", (0o660, 4242)), ("606", "root", (0o606, 0))] {
        let vnicd = Vnicd::builder(&ns).args(["--socket-mode", mode, "--socket-group", group]).start()?;
        let found = fs::metadata(vnicd.socket())?;
        ensure!((found.permissions().mode() & 0o777, found.gid()) == expected, "{mode} {group}: {found:?}");
    }
    Ok(())
}

/// Whoever collects logs by machine gets no other line, whatever happens.
#[test]
fn logs_for_machines() -> Result<()> {
    let all_json = |lines: &[String]| -> Result<Vec<Value>> {
        let parse = |line: &String| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"));
        lines.iter().map(parse).collect()
    };
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).args(["--log-format", "json"]).start()?;
    UnixStream::connect(vnicd.socket())?.write_all(&[0xff; 64])?;
    vnicd.wait_for_line("front end gone", END)?;
    let refused = run_in(&ns, &vnicd.dir().join("other.sock"), &["--uplink", "tap=tap0", "--log-format", "json"])?;
    ended_with(vnicd.terminate()?, 0)?;

    let lines = all_json(&vnicd.log())?;
    let has = |level: &str, text: &str| {
        lines.iter().any(|line| line["level"] == level && line["message"].as_str().is_some_and(|m| m.contains(text)))
    };
    for (level, text) in [("INFO", "listening on"), ("ERROR", "front end gone"), ("INFO", "ending")] {
        ensure!(has(level, text), "no {level} with \"{text}\": {lines:#?}");
    }
    ensure!(lines.iter().any(|line| line["uplink"] == "tap tap0"), "fields are not fields: {lines:#?}");

    ensure!(refused.status == 2, "{refused:?}");
    let last = all_json(&refused.stderr.lines().map(String::from).collect::<Vec<_>>())?;
    ensure!(last.len() == 1 && last[0]["message"].as_str().is_some_and(|m| m.contains("tap0")), "{last:#?}");
    Ok(())
}

#[test]
fn help_and_version_are_no_errors() -> Result<()> {
    let help = run(&["--help"])?;
    ensure!(help.status == 0 && help.stderr.is_empty() && help.stdout.contains("--socket-path"), "{help:?}");
    let version = run(&["--version"])?;
    ensure!(version.status == 0 && version.stdout.starts_with("vnicd "), "{version:?}");
    Ok(())
}
