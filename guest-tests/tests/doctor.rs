//! `vnicctl doctor` on set-ups that work and that do not.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::{NetNs, Output, Process, Vnicd, vnicd};

const TIME: Duration = Duration::from_secs(20);

/// What it does in a namespace, behind `--` the daemon's options.
fn doctor(ns: &NetNs, control: &str, options: &[&str]) -> Result<(bool, String)> {
    let mut command = ns.command(vnicd::binary()?.with_file_name("vnicctl"));
    command.args(["--control", control, "doctor", "--"]).args(options);
    let Output { status, stdout, stderr } = Process::spawn(command)?.wait_output(TIME)?;
    ensure!(matches!(status, 0 | 1), "{status}: {stderr}");
    Ok((status == 0, stdout))
}

#[test]
fn what_keeps_a_device_from_working_is_told_with_what_mends_it() -> Result<()> {
    let (ns, dir) = (NetNs::new()?, tempfile::tempdir()?);
    let path = dir.path().join("vm1.sock");
    let socket = format!("--socket-path={}", path.display());
    ns.sh("ip tuntap add down0 mode tap multi_queue vnet_hdr; ip link add br0 type bridge; ip link set br0 up")?;
    ns.sh("ip link add ve0 type veth peer name ve1; ip link set ve0 up; ip link set ve1 up")?;
    let told =
        |uplink: &str| doctor(&ns, "/nowhere.sock", &[&socket, "--queue-pairs=1", &format!("--uplink={uplink}")]);
    for (uplink, is_well, part) in [
        ("tap=vnic%d,bridge=br0", true, "the bridge 'br0' is there and up"),
        ("tap=vnic%d,bridge=br1", false, "ip link add br1 type bridge"),
        ("tap=down0", false, "ip link set down0 up"),
        ("tap=ve0", false, "'ve0' is no TAP"),
        ("macvtap=ve0", false, "'ve0' is no macvtap"),
        ("af-xdp=ve0", false, "ethtool -K ve1 tx off"),
        ("af-xdp=ve0,queue=7", false, "there is no queue 7"),
        ("af-xdp=ve9", false, "'ve9' is missing"),
        ("bridge=br0", false, "'bridge=br0' is no uplink"),
    ] {
        let (well, text) = told(uplink)?;
        ensure!(well == is_well && text.contains(part), "{uplink}: {text}");
    }
    // What is said is what helps.
    ns.sh("ip link set down0 up; ethtool -K ve1 tx off")?;
    for uplink in ["tap=down0", "af-xdp=ve0"] {
        let (well, text) = told(uplink)?;
        ensure!(well, "{uplink}: {text}");
    }
    Ok(())
}

#[test]
fn a_daemon_at_work_is_well() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).control().arg("--queue-pairs=1").start()?;
    let control = vnicd.control_path();
    let ask = || -> Result<String> {
        let output = vnicd.vnicctl(&["doctor", "--config", "/nowhere.toml"])?;
        let text = output.stdout;
        ensure!(output.status == 1 && text.contains("cannot read the configuration file '/nowhere.toml'"), "{text}");
        Ok(text)
    };
    let text = ask()?;
    ensure!(text.contains("no front end is connected"), "{text}");
    let features = VERSION_1 | MRG_RXBUF | EVENT_IDX;
    let nic = ScriptedNic::start(&ns, &vnicd, features, 256, Posting { count: 32, len: 2048 })?;
    let (well, text) = doctor(&ns, &control.display().to_string(), &["--fd=3", "--uplink=discard"])?;
    ensure!(well && text.contains("is connected and moves packets"), "{text}");
    drop(nic);
    Ok(())
}
