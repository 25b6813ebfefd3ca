//! Devices that have a file each: `vnicctl device` beside a device at work.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::vnicd::binary;
use guest_tests::{Configured, NetNs, Output, Process, Vnicd};
use serde_json::{Value, json};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(60);
const MAIN: &str = "control = 'DIR/control'\ndevice-dir = 'DIR/devices'\n";
const FIRST: &str = "[[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'tap=tap0'\nqueue-pairs = 1\n";
/// A file in the directory that is no device's.
const README: (&str, &str) = ("devices/README", "Devices.\n");

/// A daemon whose first device, `a` of the main file, is in use all the time.
struct Rig {
    ns: NetNs,
    vnicd: Configured,
    nic: ScriptedNic,
}

/// `vnicctl` on the daemon; `DIR` stands for the daemon's directory.
fn vnicctl(vnicd: &Configured, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?.with_file_name("vnicctl"));
    let dir = vnicd.dir().to_string_lossy();
    command.arg("--control").arg(vnicd.path("control")).args(args.iter().map(|arg| arg.replace("DIR", &dir)));
    Process::spawn(command)?.wait_output(PATIENCE)
}

/// What it says, where it must not succeed.
fn refused(vnicd: &Configured, args: &[&str]) -> Result<String> {
    let output = vnicctl(vnicd, args)?;
    ensure!(output.status == 1 && output.stderr.lines().count() == 1, "{args:?}: {output:?}");
    Ok(output.stderr.replace(&format!("{}/", vnicd.dir().display()), ""))
}

/// What lies in the directory of devices.
fn files(vnicd: &Configured) -> Result<Vec<String>> {
    let entries = fs::read_dir(vnicd.path("devices"))?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// The names of the devices that there are.
fn names(vnicd: &Configured) -> Result<Vec<String>> {
    let status = vnicd.status()?;
    let devices = status["devices"].as_array().context("no devices")?;
    let mut names: Vec<_> = devices.iter().filter_map(|device| Some(device["name"].as_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

impl Rig {
    fn start(more: &[(&str, &str)]) -> Result<Self> {
        let ns = NetNs::new()?;
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let vnicd = Configured::start_with(&ns, &format!("{MAIN}{FIRST}"), more, &["a"])?;
        let mut client = Client::start(&vnicd.path("a"), FEATURES)?;
        let (rx, tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        let nic = ScriptedNic::with_queues(&ns, client, rx, tx, FEATURES, Posting { count: 64, len: 2048 })?;
        Ok(Self { ns, vnicd, nic })
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        let said = vnicctl(&self.vnicd, args)?.ok(&args.join(" "))?;
        Ok(said.replace(&format!("{}/", self.vnicd.dir().display()), ""))
    }

    fn text(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(self.vnicd.path(file))?)
    }

    /// Both ways over the device that stays, on the same connection and rings as ever.
    fn works(&mut self) -> Result<()> {
        self.nic.send(b"out", 1)?;
        self.nic.exchange(b"in").map(drop)
    }
}

#[test]
fn a_device_is_added_shown_replaced_and_removed_beside_one_at_work() -> Result<()> {
    let mut rig = Rig::start(&[README])?;
    for _ in 0..2 {
        let add = ["device", "add", "b", "--socket-path", "DIR/b", "--uplink", "tap=tapb", "--queue-pairs", "1"];
        ensure!(rig.ok(&add)? == "added: b\n");
        let dir = rig.vnicd.dir().display().to_string();
        let text = format!("queue-pairs = 1\nsocket-path = \"{dir}/b\"\nuplink = \"tap=tapb\"\n");
        ensure!(rig.text("devices/b.toml")? == text, "{}", rig.text("devices/b.toml")?);
        let mut client = Client::start(&rig.vnicd.path("b"), FEATURES)?;
        let _queues = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        rig.works()?;

        let listed: Value = serde_json::from_str(&rig.ok(&["device", "list", "--json"])?)?;
        let [a, b] = [&listed["devices"][0], &listed["devices"][1]];
        ensure!(a["file"] == "vnicd.toml" && a["line"] == 3 && a["front_end_pid"].is_i64(), "{listed}");
        let expected = json!({ "name": "b", "file": "devices/b.toml", "line": 1, "open": true, "uplink": "tap tapb",
                               "queue_pairs": 1, "front_end_pid": std::process::id() });
        ensure!(*b == expected && listed["devices"].as_array().is_some_and(|all| all.len() == 2), "{listed}");
        let list = rig.ok(&["device", "list"])?;
        ensure!(list.lines().any(|line| line.starts_with("b     devices/b.toml:1  tap tapb  1")), "{list}");
        let show = rig.ok(&["device", "show", "b"])?;
        ensure!(show.starts_with("b is defined in devices/b.toml:1\n    queue-pairs = 1\n"), "{show}");
        ensure!(show.contains("\nb: uplink tap tapb, 1 queue pairs, front end: process "), "{show}");

        // What is there is not overwritten unawares.
        let error = refused(&rig.vnicd, &["device", "add", "b", "--socket-path", "DIR/c"])?;
        ensure!(error.contains("the device 'b' has a file already, devices/b.toml: --replace"), "{error}");
        ensure!(rig.text("devices/b.toml")? == text && files(&rig.vnicd)? == ["README", "b.toml"]);

        // It changes: its guest loses it and finds the new one.
        let replace = [&add[..], &["--mtu", "2000", "--replace"]].concat();
        ensure!(rig.ok(&replace)? == "opened anew: b\n");
        client.wait_closed()?;
        ensure!(rig.ns.sh("cat /sys/class/net/tapb/mtu")?.trim() == "2000");
        ensure!(rig.text("devices/b.toml")?.contains("mtu = 2000\n") && files(&rig.vnicd)? == ["README", "b.toml"]);
        let mut client = Client::start(&rig.vnicd.path("b"), FEATURES)?;
        let _queues = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        // The same once more leaves it alone.
        ensure!(rig.ok(&replace)? == "nothing has changed\n");
        ensure!(rig.vnicd.status()?["devices"][1]["front_end_pid"].is_i64());
        rig.works()?;

        ensure!(rig.ok(&["device", "remove", "b"])? == "removed: b\n");
        client.wait_closed()?;
        ensure!(!rig.vnicd.path("b").exists() && rig.ns.sh("ls /sys/class/net")? == "lo\ntap0\n", "something is left");
        ensure!(names(&rig.vnicd)? == ["a"] && files(&rig.vnicd)? == ["README"]);
        rig.works()?;
    }
    ensure!(rig.vnicd.process().terminate()?.success());
    Ok(())
}

#[test]
fn a_file_says_the_same_and_a_daemon_starts_with_it() -> Result<()> {
    let b =
        ("devices/b.toml", "name = 'b'\nsocket-path = 'DIR/b'\nuplink = 'discard'\n[governor]\nenter-pps = 500000\n");
    let rig = Rig::start(&[b, ("c.toml", "socket-path = 'DIR/c'\nuplink = 'discard'\n")])?;
    ensure!(names(&rig.vnicd)? == ["a", "b"]);
    ensure!(rig.ok(&["device", "add", "c", "--file", "DIR/c.toml"])? == "added: c\n");
    ensure!(rig.text("devices/c.toml")? == rig.text("c.toml")?);
    ensure!(rig.ok(&["device", "add", "b", "--replace", "--file", "DIR/c.toml"]).is_err(), "that is c's socket");
    ensure!(rig.text("devices/b.toml")?.contains("[governor]") && names(&rig.vnicd)? == ["a", "b", "c"]);
    let mut command = Command::new("sh");
    let vnicctl = binary()?.with_file_name("vnicctl");
    let line = format!(
        "printf 'socket-path = \"%s/d\"\\nuplink = \"discard\"\\n' {dir} | \
         {vnicctl} --control {dir}/control device add d --file -",
        dir = rig.vnicd.dir().display(),
        vnicctl = vnicctl.display()
    );
    command.args(["-c", &line]);
    ensure!(Process::spawn(command)?.wait_output(PATIENCE)?.ok("add d")? == "added: d\n");
    ensure!(names(&rig.vnicd)? == ["a", "b", "c", "d"]);
    Ok(())
}

#[test]
fn what_the_daemon_does_not_take_is_taken_back() -> Result<()> {
    let bad = ("bad.toml", "socket-path = 'DIR/x'\nsocket-paht = 'DIR/x'\n");
    let mut rig = Rig::start(&[README, bad])?;
    ensure!(rig.ok(&["device", "add", "b", "--socket-path", "DIR/b", "--uplink", "discard"])? == "added: b\n");
    let before = rig.text("devices/b.toml")?;
    for (args, part) in [
        // By what is wrong with the words.
        (&["c", "--uplink", "discard"][..], "device 'c': it needs --socket-path"),
        (&["c", "--file", "DIR/bad.toml"], "bad.toml:2: unknown field `socket-paht`"),
        (&["c", "--file", "DIR/bad.toml", "--mtu", "1500"], "leave the other options out"),
        (&["c", "--file", "DIR/nowhere.toml"], "cannot read nowhere.toml: No such file"),
        (&[".c", "--socket-path", "DIR/c"], "'.c' begins with a dot"),
        // By the daemon.
        (
            &["c", "--socket-path", "DIR/a", "--uplink", "discard"],
            "devices 'a' (vnicd.toml:3) and 'c' (devices/c.toml:1) both use the socket '",
        ),
        (
            &["a", "--socket-path", "DIR/c", "--uplink", "discard"],
            "'a' (vnicd.toml:3) and 'a' (devices/a.toml:1) both use the name",
        ),
        (&["c", "--socket-path", "DIR/c", "--uplink", "tap=tap0"], "both use the TAP 'tap0'"),
        // By the host.
        (
            &["c", "--socket-path", "DIR/c", "--uplink", "macvtap=nowhere"],
            "'c' is not added, and devices/c.toml is as it was: ",
        ),
        (
            &["b", "--replace", "--socket-path", "DIR/b", "--uplink", "macvtap=nowhere"],
            "'b' is not added, and devices/b.toml is as it was: ",
        ),
        (&["b", "--replace", "--socket-path", "/nowhere/b", "--uplink", "discard"], "/nowhere"),
    ] {
        let error = refused(&rig.vnicd, &[&["device", "add"], args].concat())?;
        ensure!(error.contains(part), "{part:?} is not in: {error}");
        ensure!(files(&rig.vnicd)? == ["README", "b.toml"] && rig.text("devices/b.toml")? == before, "{args:?}");
        ensure!(names(&rig.vnicd)? == ["a", "b"], "{args:?}");
        // As good as before.
        Client::start(&rig.vnicd.path("b"), FEATURES)?;
        rig.works()?;
    }
    // What somebody else did wrong is not mended here, and said.
    fs::write(rig.vnicd.path("devices/z.toml"), "mtu = \n")?;
    for args in [&["add", "c", "--socket-path", "DIR/c", "--uplink", "discard"][..], &["remove", "b"]] {
        let error = refused(&rig.vnicd, &[&["device"], args].concat())?;
        ensure!(error.contains("devices/z.toml:1: ") && error.contains("; that was so before"), "{error}");
        ensure!(files(&rig.vnicd)? == ["README", "b.toml", "z.toml"] && names(&rig.vnicd)? == ["a", "b"]);
    }
    rig.works()
}

#[test]
fn many_at_once_do_not_disturb_each_other() -> Result<()> {
    let mut rig = Rig::start(&[README])?;
    let added = thread::scope(|scope| -> Result<usize> {
        let vnicd = &rig.vnicd;
        let add = |name: String, socket: String, uplink: &'static str| {
            let args = ["device", "add", &name, "--socket-path", &format!("DIR/{socket}"), "--uplink", uplink]
                .map(String::from);
            scope.spawn(move || vnicctl(vnicd, &args.each_ref().map(String::as_str)))
        };
        let well: Vec<_> = (0..6).map(|n| add(format!("n{n}"), format!("n{n}"), "discard")).collect();
        // One of these comes first.
        let same: Vec<_> = (0..3).map(|n| add("same".into(), format!("same{n}"), "discard")).collect();
        let badly: Vec<_> = (0..4).map(|n| add(format!("bad{n}"), format!("bad{n}"), "macvtap=nowhere")).collect();
        for thread in well {
            thread.join().expect("a thread")?.ok("add")?;
        }
        for thread in badly {
            let output = thread.join().expect("a thread")?;
            ensure!(output.status == 1 && output.stderr.contains("nowhere"), "{output:?}");
        }
        let mut added = 0;
        for thread in same {
            let output = thread.join().expect("a thread")?;
            added += usize::from(output.status == 0);
            ensure!(output.status == 0 || output.stderr.contains("has a file already"), "{output:?}");
        }
        Ok(added)
    })?;
    ensure!(added == 1, "{added} of the same name were added");
    let all: Vec<_> = (0..6).map(|n| format!("n{n}")).chain(["same".into()]).collect();
    ensure!(names(&rig.vnicd)? == [vec!["a".into()], all.clone()].concat(), "{:?}", names(&rig.vnicd)?);
    let expected: Vec<_> = ["README".into()].into_iter().chain(all.iter().map(|name| format!("{name}.toml"))).collect();
    ensure!(files(&rig.vnicd)? == expected, "{:?}", files(&rig.vnicd)?);
    // What is on disk is what is there: nothing is left to change.
    ensure!(rig.ok(&["reload"])? == "nothing has changed\n");
    rig.works()
}

#[test]
fn whoever_has_no_directory_is_told_how_to_get_one() -> Result<()> {
    let ns = NetNs::new()?;
    let add = ["device", "add", "b", "--socket-path", "DIR/b", "--uplink", "discard"];
    let device = "[[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'discard'\n";
    let vnicd = Configured::start(&ns, &format!("control = 'DIR/control'\n{device}"), &["a"])?;
    let error = refused(&vnicd, &add)?;
    ensure!(error.contains("vnicd.toml names no directory for devices: make one, add device-dir = "), "{error}");
    let error = refused(&vnicd, &["device", "remove", "a"])?;
    ensure!(error.contains("'a' is defined in vnicd.toml:2 beside others: delete its [[device]] there"), "{error}");
    ensure!(refused(&vnicd, &["device", "remove", "x"])?.contains("names no directory"));
    // It does what it was told. A directory that is not there is no empty one.
    let main = format!("{MAIN}{device}").replace("DIR", &vnicd.dir().to_string_lossy());
    fs::write(vnicd.path("vnicd.toml"), &main)?;
    let error = refused(&vnicd, &["reload"])?;
    ensure!(error.contains("the device-dir 'devices' of vnicd.toml cannot be read: No such file"), "{error}");
    ensure!(error.contains("make it (mkdir -p devices)"), "{error}");
    fs::create_dir(vnicd.path("devices"))?;
    ensure!(vnicctl(&vnicd, &["reload"])?.ok("reload")? == "nothing has changed\n");
    ensure!(vnicctl(&vnicd, &add)?.ok("add")? == "added: b\n");
    ensure!(refused(&vnicd, &["device", "remove", "x"])?.contains("there is no device 'x', but a, b"));
    // The last one may go, too.
    fs::write(vnicd.path("vnicd.toml"), main.split("[[device]]").next().unwrap_or_default())?;
    ensure!(vnicctl(&vnicd, &["device", "remove", "b"])?.ok("remove")? == "removed: a, b\n");
    ensure!(names(&vnicd)?.is_empty());
    fs::remove_dir(vnicd.path("devices"))?;
    let error = refused(&vnicd, &add)?;
    ensure!(error.contains("cannot change devices") || error.contains("devices: No such file"), "{error}");

    // From its start on.
    let mut command = ns.command(binary()?);
    let dir = vnicd.dir().to_string_lossy().into_owned();
    command.args(["--config", &format!("{dir}/vnicd.toml")]);
    let output = Process::spawn(command)?.wait_output(PATIENCE)?;
    ensure!(output.status == 2 && output.stderr.contains("make it (mkdir -p "), "{output:?}");

    // One that has no file at all.
    let other = Vnicd::builder(&ns).uplink("discard").control().start()?;
    let output = other.vnicctl(&add)?;
    ensure!(
        output.status == 1 && output.stderr.contains("has no configuration file: start it with --config"),
        "{output:?}"
    );
    Ok(())
}
