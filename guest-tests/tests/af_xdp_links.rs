//! The interface under AF_XDP comes and goes, and the daemon rests while nothing happens.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};

const POSTING: Posting = Posting { count: 128, len: 2048 };
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(20);

fn make_pair(ns: &NetNs) -> Result<()> {
    ns.sh("ip link add up0 type veth peer name tap0 address 02:00:00:00:00:01")?;
    ns.sh("ethtool -K tap0 tx off; ip link set tap0 up && ip link set up0 up")?;
    ns.sh("ip addr add 10.77.0.1/24 dev tap0 && ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
    Ok(())
}

fn namespace() -> Result<NetNs> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    make_pair(&ns)?;
    Ok(ns)
}

/// Frames cross both ways. What was on its way when the interface went down may come first.
fn works(nic: &mut ScriptedNic) -> Result<()> {
    nic.host().set_nonblocking(true)?;
    nic.send_raw(&[0; 12], &nic.frame(b"the last of them")?, 1)?;
    let mut got = [0; 2048];
    eventually("what is left over comes", || {
        Ok(nic.host().recv(&mut got).is_ok_and(|n| got[..n] == *b"the last of them"))
    })?;
    nic.host().set_nonblocking(false)?;
    for n in 0..20u8 {
        nic.send(&[n; 700], 1)?;
        nic.exchange(&[n; 700])?;
        nic.post_fresh(2048)?;
    }
    Ok(())
}

/// The driver's frames go nowhere, are used all the same, and cost next to nothing.
fn drops_quietly(nic: &mut ScriptedNic, vnicd: &Vnicd) -> Result<()> {
    let frame = nic.frame(b"nowhere")?;
    for _ in 0..20 {
        nic.send_raw(&[0; 12], &frame, 1)?;
    }
    let spent = vnicd.spends_in(Duration::from_millis(500))?;
    ensure!(spent.cpu <= Duration::from_millis(50), "waiting for the interface took {spent:?}");
    ensure!(spent.voluntary_switches <= 20, "waiting for the interface took {spent:?}");
    Ok(())
}

fn comes_and_goes(uplink: &str, options: &[&str]) -> Result<()> {
    let ns = namespace()?;
    let vnicd = Vnicd::builder(&ns).uplink(uplink).args(options).start()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
    works(&mut nic)?;
    let lines = |text: &str| vnicd.log().iter().filter(|line| line.contains(text)).count();
    for n in 1..=3 {
        ns.sh("ip link set up0 down")?;
        eventually("the link is down", || Ok(lines("link down") >= n))?;
        drops_quietly(&mut nic, &vnicd)?;
        ns.sh("ip link set up0 up")?;
        eventually("the link is up", || Ok(lines("link up") >= n))?;
        // What the address was told of the guest went with the link.
        ns.sh("ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
        works(&mut nic)?;
    }
    let fds = vnicd.settled_fds()?;
    for n in 1..=3 {
        ns.sh("ip link del up0")?;
        drops_quietly(&mut nic, &vnicd)?;
        make_pair(&ns)?;
        eventually("the uplink is opened again", || Ok(lines("uplink opened again") >= n))?;
        works(&mut nic)?;
    }
    ensure!(vnicd.settled_fds()? <= fds, "{} descriptors, {fds} before", vnicd.settled_fds()?);
    ensure!(ns.sh("ip -d link show up0")?.contains("prog/xdp"), "no program");
    Ok(())
}

#[test]
fn an_interface_goes_down_and_up_and_is_made_anew() -> Result<()> {
    comes_and_goes("af-xdp=up0", &[])
}

#[test]
fn the_same_for_a_guest_that_shares_it() -> Result<()> {
    comes_and_goes("af-xdp=up0,steer=mac", &["--mac=02:00:00:00:00:77", "--mode=interrupt"])
}

#[test]
fn the_same_with_a_thread_each_way() -> Result<()> {
    comes_and_goes("af-xdp=up0", &["--threads=per-direction"])
}

#[test]
fn the_same_in_a_pipeline() -> Result<()> {
    comes_and_goes("af-xdp=up0", &["--threads=pipeline"])
}

#[test]
fn a_quiet_guest_causes_no_wake_up() -> Result<()> {
    let ns = namespace()?;
    for mode in ["auto", "interrupt"] {
        let vnicd = Vnicd::builder(&ns).uplink("af-xdp=up0").args(["--mode", mode]).start()?;
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
        works(&mut nic)?;
        // Whatever ends its work first.
        std::thread::sleep(Duration::from_millis(500));
        let spent = vnicd.spends_in(Duration::from_secs(2))?;
        ensure!(spent.voluntary_switches <= 2 && spent.cpu <= Duration::from_millis(10), "{mode}: {spent:?}");
        drop(nic);
        vnicd.wait_for_line("front end gone", PATIENCE)?;
    }
    Ok(())
}

/// A worker that polls looks at the queue itself, with the kernel's interrupts or without.
#[test]
fn a_worker_that_polls_moves_frames() -> Result<()> {
    let ns = namespace()?;
    for defers in [false, true] {
        if defers {
            ns.sh("echo 2 > /sys/class/net/up0/napi_defer_hard_irqs && echo 200000 > /sys/class/net/up0/gro_flush_timeout")?;
        }
        let vnicd = Vnicd::builder(&ns).uplink("af-xdp=up0").args(["--mode", "polling"]).start()?;
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES, 256, POSTING)?;
        for _ in 0..5 {
            works(&mut nic)?;
        }
        drop(nic);
        vnicd.wait_for_line("front end gone", PATIENCE)?;
    }
    Ok(())
}
