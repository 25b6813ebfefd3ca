//! The harness itself, with QEMU's own TAP as the backend: what fails here is no fault of vnicd's.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::transfer::{self, Datagrams};
use guest_tests::{Guest, NetNs, Nic, Qemu, Side, Signal};

const HOST: &str = "10.77.0.1";
const GUEST: &str = "10.77.0.2";

/// A guest on QEMU's own TAP in a namespace of its own; the host's end has its address.
fn boot(qemu: Qemu) -> Result<(NetNs, Guest)> {
    let ns = NetNs::new()?;
    ns.add_tap("tap0", 1)?;
    ns.sh(&format!("ip addr add {HOST}/24 dev tap0 && ip link set tap0 up"))?;
    let guest = Guest::builder().qemu(qemu).ns(&ns).nic(Nic::tap("tap0")).boot()?;
    Ok((ns, guest))
}

fn address(guest: &Guest) -> Result<()> {
    guest.run_ok(&format!("ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up")).map(drop)
}

fn traffic_goes_both_ways(qemu: Qemu) -> Result<()> {
    let (ns, guest) = boot(qemu)?;
    address(&guest)?;
    guest.run_ok(&format!("ping -c 2 -i 0.2 -W 5 {HOST}"))?;
    ns.sh(&format!("ping -c 2 -i 0.2 -W 5 {GUEST}"))?;

    let (inside, outside) = (Side::Guest(&guest), Side::Host(&ns));
    transfer::tcp(inside, outside, HOST, 8_000_001)?;
    transfer::tcp(outside, inside, GUEST, 8_000_001)?;
    let datagrams = Datagrams { count: 1000, size: 600, pps: Some(5000) };
    for (from, to, address) in [(inside, outside, HOST), (outside, inside, GUEST)] {
        let came = transfer::udp(from, to, address, datagrams)?;
        ensure!(came.count == datagrams.count, "datagrams were lost: {came:?}");
    }
    Ok(())
}

#[test]
fn qemu_7_traffic_goes_both_ways() -> Result<()> {
    traffic_goes_both_ways(Qemu::V7)
}

#[test]
fn qemu_10_traffic_goes_both_ways() -> Result<()> {
    traffic_goes_both_ways(Qemu::V10)
}

fn the_agent_survives_reboots(qemu: Qemu) -> Result<()> {
    let (ns, guest) = boot(qemu)?;
    guest.run_ok("touch /tmp/first-boot")?;
    guest.reboot()?;
    ensure!(guest.run("test -e /tmp/first-boot")?.status == 1, "the guest did not boot anew");
    guest.reset()?;
    ensure!(guest.boots() == 3);
    address(&guest)?;
    ns.sh(&format!("ping -c 1 -W 5 {GUEST}")).map(drop)
}

#[test]
fn qemu_7_the_agent_survives_reboots() -> Result<()> {
    the_agent_survives_reboots(Qemu::V7)
}

#[test]
fn qemu_10_the_agent_survives_reboots() -> Result<()> {
    the_agent_survives_reboots(Qemu::V10)
}

#[test]
fn commands_run_side_by_side_and_tell_how_they_ended() -> Result<()> {
    let guest = Guest::builder().boot()?;
    let background = guest.spawn("echo started; sleep 60; echo never")?;
    background.wait_for_line("started", Duration::from_secs(10))?;
    let output = guest.run("echo out; echo 'two words' >&2; exit 3")?;
    ensure!((output.status, &*output.stdout, &*output.stderr) == (3, "out\n", "two words\n"), "{output:?}");
    background.signal(Signal::TERM)?;
    ensure!(background.wait(Duration::from_secs(10))?.status == 128 + 15);

    // What a time-out leaves behind is killed.
    let error = guest.run_for("echo seen; sleep 61", Duration::from_millis(300)).unwrap_err().to_string();
    ensure!(error.contains("did not end") && error.contains("seen"), "{error}");
    guest.run_ok("for i in 1 2 3 4 5; do pgrep -f 'sleep 6[1]' || exit 0; sleep 0.1; done; exit 1")?;

    // A long output comes whole.
    let numbers: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    ensure!(guest.run_ok("seq 2000")? == numbers);
    Ok(())
}

#[test]
fn a_guest_can_be_paused_and_its_end_is_noticed() -> Result<()> {
    let guest = Guest::builder().boot()?;
    guest.pause()?;
    ensure!(guest.run_for("true", Duration::from_millis(300)).is_err());
    guest.resume()?;
    guest.run_ok("true")?;
    let background = guest.spawn("sleep 60")?;
    guest.kill()?;
    let error = background.wait(Duration::from_secs(10)).unwrap_err().to_string();
    ensure!(error.contains("QEMU ended"), "{error}");
    ensure!(guest.run("true").is_err());
    Ok(())
}

#[test]
fn a_guest_that_does_not_boot_is_given_up_with_its_console() -> Result<()> {
    let Err(error) = Guest::builder().cmdline("rdinit=/nothing").boot() else {
        anyhow::bail!("it booted");
    };
    ensure!(error.to_string().contains("its kernel panicked"), "{error:#}");
    Ok(())
}
