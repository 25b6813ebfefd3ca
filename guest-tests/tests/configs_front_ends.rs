//! The launch lines of `configs/` for other front ends than QEMU.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::driver::nic::VERSION_1;
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::guest::{Accel, accel};
use guest_tests::lab::{self, GUEST, HOST, ended_with, eventually};
use guest_tests::{Guest, Kernel, NetNs, Script, Side, System, transfer};
use rustix::thread::{CpuSet, sched_getaffinity};

const BYTES: u64 = 8_000_001;
const PATIENCE: Duration = Duration::from_secs(20);
const MAC: &str = "02:00:00:00:00:77";

/// vnicd is driven in cloud-hypervisor's place, as the script tells it to be.
#[test]
fn what_cloud_hypervisor_connects_to() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let script = Script::new(&ns, "cloud-hypervisor.sh")?.set("UPLINK", "tap=tap0").set("MAC", MAC);
    let end = script.dir().join("end");
    let text = format!("echo told: \"$@\"; until [ -e {} ]; do sleep 0.1; done", end.display());
    script.stand_in("cloud-hypervisor", &text)?;
    let running = script.spawn(&[])?;
    let told = running.wait_for_line("told:", PATIENCE)?;
    let net = format!("--net vhost_user=true,socket={},num_queues=2,mac={MAC}", script.socket().display());
    ensure!(told.contains(&net) && told.contains("--memory size=256M,shared=on"), "{told}");
    ensure!(told.contains("--kernel hypervisor-fw --disk path=disk.raw"), "{told}");

    let mut client = Client::start(&script.socket(), VERSION_1)?;
    let (rx, tx) = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
    let mut nic = ScriptedNic::with_queues(&ns, client, rx, tx, VERSION_1, Posting { count: 32, len: 2048 })?;
    for n in 0..20u8 {
        nic.send(&[n; 300], 1)?;
        nic.exchange(&[n; 300])?;
    }
    drop(nic);
    std::fs::write(end, "")?;
    ended_with(running.wait(PATIENCE)?, 0)?;
    ensure!(!script.socket().exists(), "the socket is left behind");
    Ok(())
}

#[test]
fn cloud_hypervisor() -> Result<()> {
    if Command::new("cloud-hypervisor").arg("--version").output().is_err() {
        lab::left_out("cloud-hypervisor is not there: no guest was booted by configs/cloud-hypervisor.sh");
        return Ok(());
    }
    if accel()? != Accel::Kvm {
        lab::left_out("KVM does not work here: no guest was booted by configs/cloud-hypervisor.sh");
        return Ok(());
    }
    let ns = NetNs::new()?;
    let script = Script::new(&ns, "cloud-hypervisor.sh")?.set("MAC", MAC).set("MTU", "1400");
    let system = System::of(Kernel::Stock)?;
    let [kernel, initramfs] = [&system.vmlinuz, &system.initramfs].map(|path| path.to_string_lossy().into_owned());
    let serial = format!("socket={}", script.dir().join("agent").display());
    let cmdline = format!("{} agent=ttyS0", System::CMDLINE.replace("console=ttyS0 ", ""));
    let args = ["--kernel", &kernel, "--initramfs", &initramfs, "--cmdline", &cmdline];
    let running = script.spawn(&[&args[..], &["--serial", &serial, "--console", "off"]].concat())?;
    let guest = Guest::builder().attach(running, script.dir())?;
    ensure!(guest.run_ok("cat /sys/class/net/eth0/address")?.trim() == MAC, "the guest was not told its address");
    ensure!(guest.run_ok("cat /sys/class/net/eth0/mtu")?.trim() == "1400", "the guest was not told the MTU");
    lab::address_host(&ns, "vm1")?;
    lab::address_guest(&guest)?;
    transfer::tcp(Side::Guest(&guest), Side::Host(&ns), HOST, BYTES)?;
    transfer::tcp(Side::Host(&ns), Side::Guest(&guest), GUEST, BYTES).map(drop)
}

#[test]
fn virtio_user() -> Result<()> {
    let ns = NetNs::new()?;
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<String> =
        (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| cpu.to_string()).collect();
    // Two threads, on any CPU that this program may use.
    let eal = format!("--no-huge --no-shconf --lcores 0@({0}),1@({0})", cpus.join(","));
    let script = Script::new(&ns, "virtio-user.sh")?.set("EAL", eal);
    let runtime = script.dir().to_owned();
    let script = script.set("RUNTIME_DIRECTORY", runtime).set("MAC", MAC);
    let running = script.spawn(&["--forward-mode=icmpecho", "--auto-start", "--stats-period=1"])?;
    running.wait_for_line("NIC statistics for port 0", PATIENCE)?;
    lab::address_host(&ns, "du0")?;
    eventually("testpmd answers", || Ok(ns.sh(&format!("ping -c 3 -i 0.2 -W 2 {GUEST}")).is_ok()))?;
    ensure!(ns.sh(&format!("ip neigh show {GUEST}"))?.contains(MAC), "somebody else answered");
    Ok(())
}
