//! The control socket and `vnicctl`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::{NetNs, Vnicd, vnicd};
use serde_json::{Value, json};

struct Rig {
    ns: NetNs,
    vnicd: Vnicd,
    control: PathBuf,
    _dir: tempfile::TempDir,
}

fn rig() -> Result<Rig> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let dir = tempfile::tempdir()?;
    let control = dir.path().join("control");
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").arg("--control").arg(&control).start()?;
    Ok(Rig { ns, vnicd, control, _dir: dir })
}

impl Rig {
    fn vnicctl(&self, args: &[&str]) -> Result<Output> {
        let binary = vnicd::binary()?.with_file_name("vnicctl");
        Ok(Command::new(binary).arg("--control").arg(&self.control).args(args).output()?)
    }

    fn status(&self) -> Result<Value> {
        let output = self.vnicctl(&["status", "--json"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.control)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }

    fn nic(&self) -> Result<ScriptedNic> {
        let features = VERSION_1 | MRG_RXBUF | EVENT_IDX;
        ScriptedNic::start(&self.ns, &self.vnicd, features, 256, Posting { count: 32, len: 2048 })
    }
}

#[test]
fn status_tells_what_happened() -> Result<()> {
    let rig = rig()?;
    let idle = rig.status()?;
    ensure!(idle["devices"][0]["pairs"] == json!([]) && idle["devices"][0]["front_end_pid"] == Value::Null, "{idle}");
    ensure!(idle["pid"] == rig.vnicd.pid(), "{idle}");

    let mut nic = rig.nic()?;
    for n in 0..10u8 {
        nic.send(&[n; 100], 2)?;
        nic.exchange(&[n; 58])?;
    }
    nic.send_raw(&[0; 12], &[0; 13], 1)?;
    let mut bad_header = [0; 12];
    bad_header[0] = 1;
    nic.send_raw(&bad_header, &[0; 60], 1)?;

    let status = rig.status()?;
    let device = &status["devices"][0];
    ensure!(device["front_end_pid"] == std::process::id(), "{device}");
    ensure!(device["features"].as_str().is_some_and(|f| f.contains("EVENT_IDX")), "{device}");
    ensure!(device["uplink"] == "tap tap0" && device["queue_pairs"] == 2, "{device}");
    let pair = &device["pairs"][0];
    ensure!(pair["id"] == "nic0/0" && pair["rx_started"] == true && pair["tx_started"] == true, "{pair}");
    let counters = &pair["counters"];
    for (name, count) in [
        ("tx_packets", 10),
        ("tx_bytes", 10 * 142),
        ("rx_packets", 10),
        ("rx_bytes", 10 * 100),
        ("tx_dropped_refused", 1),
        ("tx_dropped_header", 1),
        ("rings_broken", 0),
    ] {
        ensure!(counters[name] == count, "{name}: {counters}");
    }

    drop(nic);
    rig.vnicd.wait_for_line("front end gone", Duration::from_secs(10))?;
    let text = String::from_utf8(rig.vnicctl(&["status"])?.stdout)?;
    for part in ["nic0: uplink tap tap0", "nic0/0: rx stopped, tx stopped", "tx_packets", "no front end"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    ensure!(!text.contains("rings_broken"), "counts of nothing are shown:\n{text}");
    Ok(())
}

#[test]
fn odd_clients_are_answered_or_dropped_and_others_served() -> Result<()> {
    let rig = rig()?;
    let mut stream = rig.connect()?;
    stream.write_all(b"nonsense\n{\"jsonrpc\":\"2.0\",\"method\":\"fly\",\"id\":7}\n\n{\"jsonrpc\":\"2.0\",")?;
    stream.write_all(b"\"method\":\"status\",\"id\":\"x\"}\n")?;
    let mut lines = BufReader::new(stream).lines();
    let mut next = || -> Result<Value> { Ok(serde_json::from_str(&lines.next().context("no answer")??)?) };
    ensure!(next()?["error"]["code"] == -32700);
    let unknown = next()?;
    ensure!(unknown["error"]["code"] == -32601 && unknown["id"] == 7, "{unknown}");
    let status = next()?;
    ensure!(status["id"] == "x" && status["result"]["pid"] == rig.vnicd.pid(), "{status}");

    // A request without end is refused.
    let mut endless = rig.connect()?;
    let sent = endless.write_all(&vec![b'x'; 1 << 20]);
    let mut answer = String::new();
    let read = endless.read_to_string(&mut answer);
    ensure!(sent.is_err() || read.is_err() || answer.contains("at most"), "{answer}");

    // One that asks and never reads, and more clients than are served at a time: others go on.
    let mut deaf = rig.connect()?;
    deaf.set_nonblocking(true)?;
    while deaf.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"status\",\"id\":1}\n").is_ok() {}
    let crowd = (0..100).map(|_| rig.connect()).collect::<Result<Vec<_>>>()?;
    drop(crowd);
    rig.status()?;
    drop(deaf);
    let mut nic = rig.nic()?;
    nic.send(b"packets go on", 1)
}

/// The CPUs that the first pair's worker may run on.
fn allowed(vnicd: &Vnicd) -> Result<String> {
    let worker = vnicd.usage()?.threads.into_iter().find(|thread| thread.name == "nic0/0").context("no worker")?;
    let status = std::fs::read_to_string(format!("/proc/{}/task/{}/status", vnicd.pid(), worker.tid))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(line.context("no such line")?.trim().to_owned())
}

#[test]
fn workers_stand_on_the_cpus_that_were_listed() -> Result<()> {
    let ns = NetNs::new()?;
    let own = std::fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("no such line")?.trim();
    for (args, expected) in [(vec!["--cpus", "0"], "0"), (vec![], own)] {
        let vnicd = Vnicd::builder(&ns).args(args).start()?;
        let features = VERSION_1 | MRG_RXBUF | EVENT_IDX;
        let _nic = ScriptedNic::start(&ns, &vnicd, features, 256, Posting { count: 4, len: 2048 })?;
        ensure!(allowed(&vnicd)? == expected, "{} instead of {expected}", allowed(&vnicd)?);
    }
    Ok(())
}

/// The driver's memory is this process's: the daemon finds its node, and keeps to the CPUs that the node has.
#[test]
fn workers_stay_near_the_guests_memory() -> Result<()> {
    let ns = NetNs::new()?;
    let posting = Posting { count: 4, len: 2048 };
    let features = VERSION_1 | MRG_RXBUF | EVENT_IDX;
    for args in [&["--numa=auto"][..], &["--numa=auto", "--cpus=0"], &["--numa=auto", "--threads=pipeline"], &[]] {
        let vnicd = Vnicd::builder(&ns).args(args.iter().copied()).control().start()?;
        let _nic = ScriptedNic::start(&ns, &vnicd, features, 256, posting)?;
        let map = vnicd.control()?.call("map", Value::Null)?;
        let node = map["queues"][0]["node"].as_u64();
        ensure!(node.is_some() != args.is_empty(), "{args:?}: {map}");
        let Some(node) = node else { continue };
        let near = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"))?;
        let expected = if args.contains(&"--cpus=0") { "0" } else { near.trim() };
        ensure!(allowed(&vnicd)? == expected, "{args:?}: {} instead of {expected}", allowed(&vnicd)?);
        vnicd.wait_for_line("placed by the guest's memory", Duration::from_secs(5))?;
    }
    Ok(())
}

#[test]
fn a_daemon_that_is_not_there_is_said_so() -> Result<()> {
    let rig = rig()?;
    ensure!(rig.vnicd.terminate()?.success());
    ensure!(!rig.control.exists(), "the control socket stayed behind");
    let output = rig.vnicctl(&["status"])?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        !output.status.success() && stderr.contains("no vnicd answers at") && stderr.lines().count() == 1,
        "{stderr}"
    );
    Ok(())
}
