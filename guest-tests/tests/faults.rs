//! What front ends do wrong is told with their device and the reason, and counted; it does not fill the log.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Client;
use guest_tests::driver::nic::VERSION_1;
use guest_tests::lab::eventually;
use guest_tests::{Configured, NetNs};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;
/// A request that nobody knows.
const UNKNOWN: u32 = 99;
const DEVICES: &str = "control = 'DIR/control'\n\
    [[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'loopback'\n\
    [[device]]\nname = 'b'\nsocket-path = 'DIR/b'\nuplink = 'loopback'\n";

fn counted(vnicd: &Configured, device: usize, served: u64, turned_away: u64, refused: u64, ended: u64) -> Result<()> {
    let wanted = json!({
        "served": served, "turned_away": turned_away, "refused_messages": refused, "ended_for_fault": ended
    });
    let found = || Ok::<_, anyhow::Error>(vnicd.status()?["devices"][device]["front_ends"].clone());
    eventually("all is counted", || Ok(found()? == wanted)).with_context(|| format!("{:?}, not {wanted}", found()))
}

/// The only line with this text is of this device.
fn told(vnicd: &Configured, text: &str, device: &str) -> Result<()> {
    vnicd.process().wait_for_line(text, PATIENCE)?;
    let lines = vnicd.process().lines().all();
    let found: Vec<_> = lines.iter().filter(|line| line.contains(text)).collect();
    ensure!(found.len() == 1 && found[0].contains(&format!("device={device}")), "{found:?}");
    Ok(())
}

#[test]
fn each_fault_has_a_line_with_its_device_and_a_count() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Configured::start(&ns, DEVICES, &["a", "b"])?;
    let a = Client::start(&vnicd.path("a"), VERSION_1)?;
    told(&vnicd, "front end connected", "a")?;
    let _second = UnixStream::connect(vnicd.path("a"))?;
    told(&vnicd, "this one is turned away", "a")?;
    a.send(UNKNOWN, VERSION | NEED_REPLY, &[], &[])?;
    ensure!(a.reply()?.and_then(|reply| reply.value()).context("no answer")? != 0);
    told(&vnicd, "request 99 refused", "a")?;
    let b = Client::start(&vnicd.path("b"), VERSION_1)?;
    // Of another version of the protocol.
    b.send(UNKNOWN, 0, &[], &[])?;
    told(&vnicd, "its connection ended", "b")?;
    counted(&vnicd, 0, 1, 1, 1, 0)?;
    counted(&vnicd, 1, 1, 0, 0, 1)
}

/// A file of a FUSE file system in the place of an eventfd would hold up whoever writes to it.
#[test]
fn what_is_no_eventfd_is_refused() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Configured::start(&ns, DEVICES, &["a", "b"])?;
    for (request, which) in [(SET_VRING_KICK, "kick"), (SET_VRING_CALL, "call"), (SET_VRING_ERR, "err")] {
        let mut client = Client::start(&vnicd.path("a"), VERSION_1)?;
        let _tx = client.running_queue(1, 256)?;
        let file = File::open("/dev/null")?;
        client.send(request, VERSION, &1u64.to_le_bytes(), &[file.as_fd()])?;
        vnicd.process().wait_for_line(&format!("the {which} fd of ring a/0/tx is no eventfd"), PATIENCE)?;
    }
    Ok(())
}

#[test]
fn a_flood_of_faults_does_not_fill_the_log() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Configured::start(&ns, DEVICES, &["a", "b"])?;
    let _a = Client::start(&vnicd.path("a"), VERSION_1)?;
    for _ in 0..2500 {
        drop(UnixStream::connect(vnicd.path("a"))?);
    }
    counted(&vnicd, 0, 1, 2500, 0, 0)?;
    let lines = vnicd.process().lines().all();
    let told = lines.iter().filter(|line| line.contains("turned away")).count();
    ensure!((2000..2400).contains(&told), "{told} lines");
    Ok(())
}
