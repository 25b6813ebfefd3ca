//! Sizes of rings that have broken other back ends: said again and again, said of a ring that runs, and none at all. Tests
//! bear the number of the fault that they come from.

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};
use vhost::vhost_user::VhostUserFrontend;

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const POSTING: Posting = Posting { count: 32, len: 2048 };
/// Entries of the rings that run.
const SIZE: u16 = 64;

// A request (vhost-user, "Front-end message types") and header flags.
const SET_VRING_NUM: u32 = 8;
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

fn host() -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").start()?;
    Ok((ns, vnicd))
}

/// Frames go both ways, each compared; the buffers are posted anew.
fn carries(nic: &mut ScriptedNic, frames: u32) -> Result<()> {
    (0..frames).try_for_each(|n| {
        let payload = [&n.to_le_bytes()[..], &[n as u8; 60]].concat();
        nic.send(&payload, 1).context("the transmit ring")?;
        nic.host_sends(&payload)?;
        nic.expect_and_post(&payload, |_| false).map(drop).context("the receive ring")
    })
}

fn state(index: u32, num: u32) -> Vec<u8> {
    [index.to_le_bytes(), num.to_le_bytes()].concat()
}

/// Says sizes of a ring that does not run: each is taken.
fn say(client: &Client, index: u32, times: u32) -> Result<()> {
    (0..times).try_for_each(|n| {
        let size = 1 << (n % 16);
        client.send(SET_VRING_NUM, VERSION | NEED_REPLY, &state(index, size), &[])?;
        let reply = client.reply()?.context("the connection was closed")?;
        ensure!(reply.value() == Some(0), "{size} entries: {reply:?}");
        Ok(())
    })
}

/// CVE-2019-14818: a ring's size is said again and again; it costs nothing, and other rings that run keep theirs.
#[test]
fn cve_2019_14818_sizes_said_again_and_again() -> Result<()> {
    let (ns, vnicd) = host()?;
    carries(&mut ScriptedNic::start(&ns, &vnicd, FEATURES, SIZE, POSTING)?, 1)?;
    let before = vnicd.idle_fds(1)?;
    for (name, format) in FORMATS {
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, SIZE, POSTING)?;
        let says_and_carries = |nic: &mut ScriptedNic, times: u32| {
            (0..times / 100).try_for_each(|_| {
                say(&nic.client, 2, 100)?;
                carries(nic, 3).with_context(|| name.to_owned())
            })
        };
        says_and_carries(&mut nic, 1000)?;
        let memory = vnicd.usage()?.rss_private_bytes;
        says_and_carries(&mut nic, 10_000)?;
        let grown = vnicd.usage()?.rss_private_bytes.saturating_sub(memory);
        ensure!(grown < 256 << 10, "{name}: ten thousand sizes cost {grown} B");
    }
    let after = vnicd.idle_fds(1 + FORMATS.len())?;
    ensure!(after == before, "{before} file descriptors before, {after} after");
    Ok(())
}

/// CVE-2019-14818 again: of a ring that runs, any size is refused, and the connection is closed. The ring has the size that
/// it had: the front end that comes back with it goes on where it stood.
#[test]
fn cve_2019_14818_sizes_of_a_ring_that_runs() -> Result<()> {
    const REFUSED: &str = "is running: it must be stopped before its size is changed";
    /// In one format; of so many sizes each, thousands in all.
    const CONNECTIONS: u32 = 16;
    const TIMES: u32 = 200;
    /// With these, each ring goes round more than twice.
    const FRAMES: u32 = 9;
    let (ns, vnicd) = host()?;
    let refused = || vnicd.log().iter().filter(|line| line.contains(REFUSED)).count();
    let mut connections = 0;
    for (name, format) in FORMATS {
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, SIZE, POSTING)?;
        for n in 0..CONNECTIONS {
            carries(&mut nic, FRAMES).with_context(|| format!("{name}, after {n} connections"))?;
            // The size that it has among them, on the receive and the transmit ring by turns.
            let sizes = (n..n + TIMES).map(|n| state(n % 2, 1 << (n / 2 % 16)));
            let header = [SET_VRING_NUM, VERSION | NEED_REPLY, 8].map(u32::to_le_bytes).concat();
            let messages: Vec<_> = sizes.flat_map(|body| [header.clone(), body].concat()).collect();
            nic.client.send_bytes(&messages, &[])?;
            let reply = nic.client.reply()?.context("no answer before the connection was closed")?;
            ensure!(reply.value().is_some_and(|value| value != 0), "{name}: a size was taken: {reply:?}");
            ensure!(nic.client.reply()?.is_none(), "{name}: the connection lives");
            connections += 1;

            // Another front end with the same memory and the same rings.
            let mut client = Client::connect(vnicd.socket())?;
            std::mem::swap(&mut client.memory, &mut nic.client.memory);
            client.negotiate(FEATURES | format)?;
            client.share_memory()?;
            for queue in [&nic.rx, &nic.tx] {
                client.start_queue(queue)?;
                client.front.set_vring_enable(queue.index, true)?;
            }
            nic.client = client;
        }
        carries(&mut nic, FRAMES).with_context(|| name.to_owned())?;
    }
    eventually("a line for each connection", || Ok(refused() >= connections))?;
    ensure!(refused() == connections, "{} sizes were refused on {connections} connections", refused());
    Ok(())
}

#[test]
fn ring_sizes_that_are_none() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        let uneven = if format & PACKED != 0 { &[][..] } else { &[3, 100, 255, 32_767] };
        for size in [0, 32_769, 65_535, 0x1_0000, 0x1_0100, u32::MAX].iter().chain(uneven) {
            let client = Client::start(vnicd.socket(), FEATURES | format)?;
            client.send(SET_VRING_NUM, VERSION | NEED_REPLY, &state(0, *size), &[])?;
            let refused = client.reply()?.is_none_or(|reply| reply.value().is_some_and(|value| value != 0));
            ensure!(refused, "{name}: a ring of {size} entries was accepted");
        }
    }
    carries(&mut ScriptedNic::start(&ns, &vnicd, FEATURES, SIZE, POSTING)?, 1)
}
