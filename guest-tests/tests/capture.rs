//! `vnicctl capture`: what the guest sends and gets is in the file, at no cost to anybody who does not read it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::captured::{Captured, File, read};
use guest_tests::control::Control;
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Numbered, NumberedPair, Posting, ScriptedNic};
use guest_tests::lab::{beside, eventually};
use guest_tests::process::{Output, exit_code};
use guest_tests::{NetNs, Process, Signal, Vnicd, vnicd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const FEATURES: u64 = VERSION_1 | EVENT_IDX;

fn loopback(ns: &NetNs, args: &[&str]) -> Result<Vnicd> {
    Vnicd::builder(ns).uplink("loopback").args(args).control().start()
}

/// A capture that has begun, and its file.
struct Capture {
    process: Process,
    path: PathBuf,
}

impl Capture {
    fn start(vnicd: &Vnicd, name: &str, args: &[&str]) -> Result<Self> {
        let path = vnicd.dir().join(name);
        let process = vnicd.spawn_vnicctl(&[&["capture", "-w", path.to_str().context("a path")?], args].concat())?;
        process.wait_for_line("capturing ", PATIENCE)?;
        Ok(Self { process, path })
    }

    /// Ends it, and reads the file.
    fn end(self) -> Result<File> {
        self.process.signal(Signal::TERM)?;
        let output = self.process.wait_output(PATIENCE)?;
        self.read(&output)
    }

    fn read(&self, output: &Output) -> Result<File> {
        ensure!(output.status == 0, "{output:?}");
        let file = read(&self.path)?;
        let told = format!("{} frames captured, {} dropped", file.frames.len(), file.dropped());
        ensure!(output.stderr.lines().last() == Some(&told), "{told}, but {output:?}");
        Ok(file)
    }
}

/// A frame with a number, to be sent, or as it comes back.
fn frame(number: u16, is_back: bool) -> Vec<u8> {
    let (from, to) = ([2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 1]);
    let addresses = if is_back { [from, to] } else { [to, from] }.concat();
    [&addresses[..], &[0x88, 0xb5], &number.to_be_bytes(), &vec![number as u8; 44 + usize::from(number) % 1200]]
        .concat()
}

/// Sends frames with these numbers one by one, and waits for each to come back.
fn echo(pair: &mut NumberedPair, numbers: impl Iterator<Item = u16>) -> Result<()> {
    for number in numbers {
        pair.offer_frame(&frame(number, false))?.context("no room for a frame")?;
        eventually("the frame comes back", || {
            let came = pair.take_frame()?;
            ensure!(came.as_ref().is_none_or(|came| *came == frame(number, true)), "frame {number} has changed");
            Ok(came.is_some())
        })?;
    }
    Ok(())
}

/// What [`echo`] leaves in a file.
fn echoes(interface: &str, numbers: impl Iterator<Item = u16>) -> Vec<Captured> {
    let captured = |number, to_guest| {
        let bytes = frame(number, to_guest);
        Captured { interface: interface.into(), to_guest, len: bytes.len(), bytes }
    };
    numbers.flat_map(|number| [captured(number, false), captured(number, true)]).collect()
}

#[test]
fn frames_are_captured_both_ways_whichever_threads_move_them() -> Result<()> {
    let ns = NetNs::new()?;
    for kind in [
        &["--threads=per-pair"][..],
        &["--threads=per-pair", "--mode=polling"],
        &["--threads=per-cpu", "--cpus=0"],
        &["--threads=per-direction"],
        &["--threads=pipeline"],
    ] {
        let vnicd = loopback(&ns, kind)?;
        // Before there is a front end, and so a worker.
        let early = Capture::start(&vnicd, "early", &[])?;
        let mut driver = Numbered::start(vnicd.socket(), FEATURES, 2, 256)?;
        for (at, pair) in driver.pairs.iter_mut().enumerate() {
            echo(pair, (0..50).map(|n| n + 100 * at as u16))?;
        }
        let file = early.end().with_context(|| format!("{kind:?}"))?;
        ensure!(file.interfaces.len() == 32 && file.dropped() == 0, "{kind:?}: {:?}", file.interfaces);
        let expected: Vec<_> = echoes("nic0/0", 0..50).into_iter().chain(echoes("nic0/1", 100..150)).collect();
        ensure!(file.frames == expected, "{kind:?}: {:?}", file.frames);

        // While its workers run, of one pair only.
        let late = Capture::start(&vnicd, "late", &["--device=nic0/1"])?;
        for pair in &mut driver.pairs {
            echo(pair, 300..320)?;
        }
        let file = late.end()?;
        ensure!(file.interfaces == ["nic0/1"] && file.frames == echoes("nic0/1", 300..320), "{kind:?}: {file:?}");
        for pair in &mut driver.pairs {
            echo(pair, 0..20)?;
        }
    }
    Ok(())
}

#[test]
fn datagrams_over_a_tap_are_in_the_file_in_any_number_of_buffers() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).control().start()?;
    let features = FEATURES | MRG_RXBUF;
    let mut nic = ScriptedNic::start(&ns, &vnicd, features, 256, Posting { count: 64, len: 512 })?;
    let capture = Capture::start(&vnicd, "file", &["--filter=udp"])?;
    let mut expected = Vec::new();
    for n in 0..40u8 {
        let data = vec![n; 20 + usize::from(n) * 36];
        expected.push((false, nic.frame(&data)?));
        nic.send(&data, 1 + usize::from(n) % 4)?;
        nic.host_sends(&data)?;
        let (frame, buffers) = nic.receive()?;
        ensure!(usize::from(buffers) == (frame.len() + 12).div_ceil(512), "{buffers} buffers");
        expected.push((true, frame));
        for _ in 0..buffers {
            nic.post_fresh(512)?;
        }
    }
    // What is refused or dropped was not sent.
    let mut bad_header = [0; 12];
    bad_header[0] = 1;
    let frame = nic.frame(b"not sent")?;
    nic.send_raw(&bad_header, &frame, 1)?;
    nic.send_raw(&[0; 12], &frame[..13], 1)?;
    let got: Vec<_> = capture.end()?.frames.into_iter().map(|frame| (frame.to_guest, frame.bytes)).collect();
    ensure!(got == expected, "{} frames, not {}", got.len(), expected.len());
    Ok(())
}

#[test]
fn who_does_not_read_loses_frames_and_holds_nobody_up() -> Result<()> {
    let ns = NetNs::new()?;
    for kind in [&["--threads=per-pair"][..], &["--threads=per-direction"]] {
        let vnicd = loopback(&ns, kind)?;
        let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
        let capture = Capture::start(&vnicd, "file", &[])?;
        capture.process.signal(Signal::STOP)?;
        driver.pairs[0].exchange(20_000, 100, PATIENCE)?;
        capture.process.signal(Signal::CONT)?;
        let file = capture.end()?;
        let (frames, dropped) = (file.frames.len() as u64, file.dropped());
        ensure!(frames > 100 && dropped > 100 && frames + dropped == 40_000, "{frames} frames, {dropped} dropped");
        ensure!(file.received() == 40_000, "{} received", file.received());
        // Those that are there are whole.
        for frame in &file.frames {
            let number = u64::from_le_bytes(frame.bytes[14..22].try_into()?);
            ensure!(frame.bytes[22..].iter().all(|byte| *byte == number as u8) && frame.len == frame.bytes.len());
        }
    }
    Ok(())
}

#[test]
fn a_queue_is_captured_by_one_at_a_time_and_let_go_when_that_one_is_killed() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = loopback(&ns, &[])?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
    let first = Capture::start(&vnicd, "first", &[])?;
    let refused = vnicd.vnicctl(&["capture", "-w", "/dev/null", "--device=nic0/0"])?;
    let why = format!(
        "vnicctl: nic0/0 is captured by process {} already, and can be by one at a time: end that one first\n",
        first.process.pid()
    );
    ensure!(refused.status == 1 && refused.stderr == why, "{refused:?}");
    driver.pairs[0].exchange(1000, 50, PATIENCE)?;
    let fds = vnicd.usage()?.fds;
    for round in 0..10u16 {
        let capture = if round == 0 { None } else { Some(Capture::start(&vnicd, "next", &[])?) };
        driver.pairs[0].exchange(1000, 50, PATIENCE)?;
        capture.as_ref().unwrap_or(&first).process.kill()?;
        eventually("the capture is over", || {
            Ok(vnicd.log().iter().filter(|line| line.contains("a capture ends")).count() > round.into())
        })?;
        driver.pairs[0].exchange(1000, 50, PATIENCE)?;
    }
    ensure!(vnicd.settled_fds()? <= fds, "descriptors are left over");
    Ok(())
}

/// The connection and the memory of a capture, as any program can have them.
fn memory(vnicd: &Vnicd) -> Result<(Control, std::fs::File, Value)> {
    let mut control = vnicd.control()?;
    let request = json!({ "jsonrpc": "2.0", "method": "capture", "params": { "target": "nic0/0" }, "id": 1 });
    control.send(format!("{request}\n").as_bytes())?;
    let (mut bytes, mut space) = ([0; 4096], [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let mut into = [std::io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg(control.stream(), &mut into, &mut with, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let files: Vec<OwnedFd> = with
        .drain()
        .filter_map(|message| if let RecvAncillaryMessage::ScmRights(files) = message { Some(files) } else { None })
        .flatten()
        .collect();
    let file = files.into_iter().next().context("no file came")?.into();
    let answer: Value = serde_json::from_slice(&bytes[..got])?;
    Ok((control, file, answer["result"].clone()))
}

#[test]
fn who_scribbles_into_the_memory_harms_only_itself() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = loopback(&ns, &[])?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
    let (control, file, answer) = memory(&vnicd)?;
    ensure!(answer["lanes"] == json!(["nic0/0"]) && answer["format"] == 1, "{answer}");
    let len = file.metadata()?.len();
    ensure!(len == 4096 + answer["ring_size"].as_u64().context("no size")?, "{len} bytes, {answer}");
    ensure!(file.set_len(0).is_err() && file.set_len(2 * len).is_err(), "it can be cut short");
    let scribbles = |stop: &std::sync::atomic::AtomicBool| -> Result<()> {
        let mut state = 1u64;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Its words, mostly the one that says how much was read; now and then anything.
            let at = if state >> 60 == 0 { state >> 3 & (len - 4096) } else { state >> 40 & 0xf8 };
            file.write_all_at(&[state, state ^ 7].map(u64::to_le_bytes).concat(), at)?;
            let tail = [0, u64::MAX, state & 0x3f_ffff, state][(state >> 50 & 3) as usize];
            file.write_all_at(&tail.to_le_bytes(), 128)?;
        }
        Ok(())
    };
    beside(scribbles, || driver.pairs[0].exchange(50_000, 100, PATIENCE))?;
    drop(control);
    driver.pairs[0].exchange(1000, 100, PATIENCE)?;
    let capture = Capture::start(&vnicd, "file", &[])?;
    echo(&mut driver.pairs[0], 0..10)?;
    ensure!(capture.end()?.frames == echoes("nic0/0", 0..10), "the next capture is another");
    Ok(())
}

#[test]
fn it_ends_by_itself_and_keeps_the_first_bytes() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = loopback(&ns, &[])?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
    let filter = "--filter=ether src host 02:00:00:00:00:77";
    let capture = Capture::start(&vnicd, "file", &["--snaplen=40", "--count=10", filter])?;
    echo(&mut driver.pairs[0], 0..30)?;
    let output = capture.process.wait_output(PATIENCE)?;
    let file = capture.read(&output)?;
    ensure!(file.frames.len() == 10, "{} frames", file.frames.len());
    for (number, got) in (0..).zip(&file.frames) {
        let whole = frame(number, false);
        ensure!(!got.to_guest && got.len == whole.len() && got.bytes == whole[..40], "{number}: {got:?}");
    }
    Ok(())
}

#[test]
fn a_file_is_ended_when_the_daemon_ends_and_one_that_cannot_be_written_is_named() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = loopback(&ns, &[])?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
    let refused = vnicd.vnicctl(&["capture", "-w", "/nowhere/file"])?;
    let why = "vnicctl: cannot write '/nowhere/file': No such file or directory (os error 2)\n";
    ensure!(refused.status == 1 && refused.stderr.ends_with(why), "{refused:?}");
    let full = Capture { process: vnicd.spawn_vnicctl(&["capture", "-w", "/dev/full"])?, path: PathBuf::new() };
    let full = full.process.wait_output(PATIENCE)?;
    ensure!(full.status == 1 && full.stderr.contains("cannot write '/dev/full': No space left"), "{full:?}");

    let capture = Capture::start(&vnicd, "file", &[])?;
    echo(&mut driver.pairs[0], 0..10)?;
    let file = capture.path.clone();
    vnicd.terminate()?;
    let output = capture.process.wait_output(PATIENCE)?;
    ensure!(output.status == 1 && output.stderr.contains("closed the connection"), "{output:?}");
    ensure!(output.stderr.contains("20 frames captured, 0 dropped"), "{output:?}");
    ensure!(read(&file)?.frames == echoes("nic0/0", 0..10), "the file");
    Ok(())
}

/// What is written to a pipe can be read at once.
#[test]
fn tcpdump_reads_along() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = loopback(&ns, &[])?;
    let mut driver = Numbered::start(vnicd.socket(), FEATURES, 1, 256)?;
    let mut command = Command::new("sh");
    let vnicctl = vnicd::binary()?.with_file_name("vnicctl");
    let control = vnicd.control_path();
    command
        .args(["-c", "exec \"$0\" --control \"$1\" capture -w - | tcpdump -Z root -n -e -c 4 -r -"])
        .arg(vnicctl)
        .arg(control);
    let process = Process::spawn(command)?;
    process.wait_for_line("capturing ", PATIENCE)?;
    for round in 0.. {
        echo(&mut driver.pairs[0], round..=round)?;
        if process.try_status()?.is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(exit_code(process.wait(PATIENCE)?) == 0, "{}", process.tail());
    let output = process.wait_output(PATIENCE)?;
    let lines: Vec<_> = output.stdout.lines().filter(|line| line.contains("ethertype")).collect();
    ensure!(lines.len() == 4, "{output:?}");
    for (line, addresses) in lines.iter().zip(["77 > 02:00:00:00:00:01", "01 > 02:00:00:00:00:77"].iter().cycle()) {
        ensure!(line.contains(addresses) && line.contains("0x88b5"), "{output:?}");
    }
    Ok(())
}
