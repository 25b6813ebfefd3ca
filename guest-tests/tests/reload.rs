//! Devices that come, change and go while the daemon runs and others are at work: `vnicctl reload` and SIGHUP.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{Configured, NetNs, vnicd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon whose first device, `a`, is in use all the time.
struct Rig {
    ns: NetNs,
    vnicd: Configured,
    nic: ScriptedNic,
    global: String,
}

/// A device of this name with these options.
fn device(name: &str, options: &str) -> String {
    format!("[[device]]\nname = '{name}'\nsocket-path = 'DIR/{name}'\nqueue-pairs = 1\n{options}\n")
}

/// The device that stays.
fn first(threads: &str) -> String {
    device("a", &format!("uplink = 'tap=tap0'\nthreads = '{threads}'"))
}

impl Rig {
    fn start(threads: &str, global: &str) -> Result<Self> {
        let ns = NetNs::new()?;
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let global = format!("control = 'DIR/control'\n{global}\n");
        let vnicd = Configured::start(&ns, &format!("{global}{}", first(threads)), &["a"])?;
        let mut client = Client::start(&vnicd.path("a"), FEATURES)?;
        let (rx, tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        let nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, Posting { count: 64, len: 2048 })?;
        Ok(Self { ns, vnicd, nic, global })
    }

    /// Writes the file anew.
    fn write(&self, devices: &str) -> Result<()> {
        let text = format!("{}{devices}", self.global).replace("DIR", &self.vnicd.dir().to_string_lossy());
        Ok(fs::write(self.vnicd.path("vnicd.toml"), text)?)
    }

    /// What `vnicctl reload` says, and whether it is content.
    fn reload(&self, devices: &str) -> Result<(bool, Value, String)> {
        self.write(devices)?;
        let mut command = Command::new(vnicd::binary()?.with_file_name("vnicctl"));
        let output = command.arg("--control").arg(self.vnicd.path("control")).args(["reload", "--json"]).output()?;
        let said = serde_json::from_slice(&output.stdout).context("no JSON")?;
        Ok((output.status.success(), said, String::from_utf8_lossy(&output.stderr).into()))
    }

    /// The names of the devices that there are.
    fn names(&self) -> Result<Vec<String>> {
        let status = self.vnicd.status()?;
        let devices = status["devices"].as_array().context("no devices")?;
        Ok(devices.iter().filter_map(|device| Some(device["name"].as_str()?.to_owned())).collect())
    }

    /// Both ways over the device that stays.
    fn works(&mut self) -> Result<()> {
        self.nic.send(b"out", 1)?;
        self.nic.exchange(b"in").map(drop)
    }
}

fn come_and_go(threads: &str, global: &str) -> Result<()> {
    let mut rig = Rig::start(threads, global)?;
    let a = first(threads);
    // What a name stands for is not the sandboxed daemon's to look up.
    let with = |options: &str| device("b", &format!("threads = '{threads}'\nsocket-group = 'root'\n{options}"));
    for _ in 0..3 {
        // One comes, and serves a guest.
        let (well, said, _) = rig.reload(&format!("{a}{}", with("uplink = 'tap=tapb'")))?;
        ensure!(well && said["reloaded"]["added"] == json!(["b"]), "{said}");
        let mut client = Client::start(&rig.vnicd.path("b"), FEATURES)?;
        let _queues = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        eventually("a worker of b", || Ok(rig.vnicd.status()?["devices"][1]["pairs"][0]["tx_started"] == true))?;
        rig.works()?;
        // Nothing differs.
        let (well, said, _) = rig.reload(&format!("{}{a}", with("uplink = 'tap=tapb'")))?;
        let nothing = json!({ "added": [], "removed": [], "changed": [], "failed": [], "later": [] });
        ensure!(well && said["reloaded"] == nothing, "{said}");
        // It changes: its guest loses it and finds the new one; its TAP is the same.
        let (well, said, _) = rig.reload(&format!("{a}{}", with("uplink = 'tap=tapb'\nmtu = 2000")))?;
        ensure!(well && said["reloaded"]["changed"] == json!(["b"]), "{said}");
        client.wait_closed()?;
        ensure!(rig.ns.sh("cat /sys/class/net/tapb/mtu")?.trim() == "2000");
        let mut client = Client::start(&rig.vnicd.path("b"), FEATURES)?;
        let _queues = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        rig.works()?;
        // It goes, with all that it had.
        let (well, said, _) = rig.reload(&a)?;
        ensure!(well && said["reloaded"]["removed"] == json!(["b"]), "{said}");
        client.wait_closed()?;
        ensure!(!rig.vnicd.path("b").exists(), "the socket is left");
        ensure!(rig.ns.sh("ls /sys/class/net")? == "lo\ntap0\n", "the TAP is left");
        ensure!(rig.names()? == ["a"]);
        rig.works()?;
    }
    ensure!(rig.vnicd.process().terminate()?.success());
    Ok(())
}

#[test]
fn devices_come_change_and_go_beside_one_at_work() -> Result<()> {
    come_and_go("per-pair", "")
}

#[test]
fn devices_that_share_a_worker_come_change_and_go() -> Result<()> {
    come_and_go("per-cpu", "")
}

#[test]
fn devices_come_change_and_go_without_a_sandbox() -> Result<()> {
    come_and_go("pipeline", "sandbox = 'off'")
}

#[test]
fn devices_come_change_and_go_for_another_user() -> Result<()> {
    come_and_go("per-pair", "user = 'nobody'")
}

#[test]
fn a_bad_file_changes_nothing_and_the_line_is_named() -> Result<()> {
    let mut rig = Rig::start("per-pair", "")?;
    let a = first("per-pair");
    for (devices, part) in [
        (format!("{a}\n[[device]]\nname = 'b'\nsocket-paht = 'DIR/b'\n"), "vnicd.toml:12: unknown field `socket-paht`"),
        (format!("{a}{}", device("b", "uplink = 'wire'")), "'wire' is no uplink"),
        (format!("{a}{a}"), "both use the name 'a'"),
        (format!("{a}{}", device("b", "socket-group = 'nobodys'")), "/vnicd.toml:9): there is no group 'nobodys'"),
        (String::new(), "no [[device]]"),
    ] {
        let (well, said, stderr) = rig.reload(&devices)?;
        ensure!(!well && said["refused"].as_str().is_some_and(|why| why.contains(part)), "{said}");
        ensure!(stderr.contains("nothing is changed") && rig.names()? == ["a"], "{stderr}");
        rig.works()?;
    }
    // One that cannot be opened is left out, and the others come.
    let two = format!("{}{}", device("b", "uplink = 'macvtap=nowhere'"), device("c", "uplink = 'discard'"));
    let (well, said, _) = rig.reload(&format!("{a}{two}"))?;
    ensure!(!well && said["reloaded"]["added"] == json!(["c"]) && said["reloaded"]["failed"][0][0] == "b", "{said}");
    ensure!(!rig.vnicd.path("b").exists() && rig.names()? == ["a", "c"]);
    rig.works()
}

#[test]
fn a_signal_does_the_same_and_what_cannot_change_is_told() -> Result<()> {
    let mut rig = Rig::start("per-pair", "")?;
    let pid = Pid::from_raw(rig.vnicd.process().pid().cast_signed()).context("no pid")?;
    rig.global += "log = 'debug'\n";
    rig.write(&format!("{}{}", first("per-pair"), device("b", "uplink = 'discard'")))?;
    kill_process(pid, Signal::HUP)?;
    rig.vnicd.process().wait_for_line("these options are taken at the next start: log", PATIENCE)?;
    ensure!(rig.names()? == ["a", "b"]);
    rig.works()?;
    rig.write(&first("per-pair"))?;
    kill_process(pid, Signal::HUP)?;
    eventually("b has gone", || Ok(rig.names()? == ["a"]))?;
    rig.works()
}
