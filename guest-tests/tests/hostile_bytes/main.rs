//! Conversations of an honest front end, changed byte by byte: the daemon takes or refuses what it reads, lets go of all of
//! it, and serves the next one and its neighbour as before.
//!
//! `FUZZ_SECONDS` (8) says how long, `FUZZ_SEED` from which case; a failure names its case.

mod changes;
mod conversation;

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use guest_tests::driver::nic::{EVENT_IDX, IN_ORDER, MRG_RXBUF, PACKED, VERSION_1};
use guest_tests::driver::{Client, Numbered, Posting, ScriptedNic};
use guest_tests::lab::{beside, eventually};
use guest_tests::{Configured, NetNs, Usage};
use vhost::vhost_user::VhostUserFrontend;

use self::changes::{change, send};
use self::conversation::Guest;

const PATIENCE: Duration = Duration::from_secs(20);
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const POSTING: Posting = Posting { count: 32, len: 2048 };
/// Two devices: the one that is attacked, and its neighbour.
const CONFIG: &str = "[[device]]\nname = 'a'\nsocket-path = 'DIR/a'\nuplink = 'tap=tap0'\nqueue-pairs = 2\n\n\
    [[device]]\nname = 'b'\nsocket-path = 'DIR/b'\nuplink = 'loopback'\nqueue-pairs = 1\n";
/// Conversations before all is looked at.
const BATCH: u64 = 16;

/// A hostile front end, from its connection to its end.
fn converse(rng: &mut Rng, socket: &Path, protocol: u64) -> Result<()> {
    let guest = Guest::new([0, PACKED, IN_ORDER, PACKED | IN_ORDER][rng.usize(..4)])?;
    let mut all = guest.conversation(protocol)?;
    for _ in 0..rng.u32(..4) {
        change(rng, &mut all)?;
    }
    let mut stream = UnixStream::connect(socket)?;
    send(rng, &stream, &all);
    guest.kick()?;
    if rng.u8(..4) == 0 {
        return Ok(());
    }
    // Whatever is missing will not come: the device ends the connection, too.
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(PATIENCE))?;
    match stream.read_to_end(&mut Vec::new()) {
        Err(e) if e.kind() != ErrorKind::ConnectionReset => Err(e).context("the connection does not end"),
        _ => Ok(()),
    }
}

fn serves(ns: &NetNs, socket: &Path) -> Result<()> {
    let mut client = Client::start(socket, FEATURES)?;
    let (rx, tx) = (client.running_queue(0, 64)?, client.running_queue(1, 64)?);
    let mut nic = ScriptedNic::with_queues(ns, client, rx, tx, FEATURES, POSTING)?;
    for n in 0..8u8 {
        nic.send(&[n; 30], 1 + usize::from(n) % 3)?;
        nic.exchange(&[n; 30])?;
    }
    Ok(())
}

/// It lives, and has as many descriptors and threads as before.
fn is_as_before(vnicd: &Configured, before: &Usage) -> Result<()> {
    let status = vnicd.process().try_status()?;
    ensure!(status.is_none(), "the daemon ended: {status:?}\n{}", vnicd.process().tail());
    let bad =
        vnicd.process().lines().all().into_iter().find(|l| l.contains("panicked") || l.contains("did not answer"));
    ensure!(bad.is_none(), "{bad:?}");
    let now = || Usage::of(vnicd.process().pid());
    eventually("as many file descriptors and threads as before", || {
        let now = now()?;
        Ok((now.fds, now.threads.len()) == (before.fds, before.threads.len()))
    })
    .with_context(|| format!("{before:?} before, now {:?}", now()))
}

#[test]
fn conversations_that_are_changed_byte_by_byte_do_no_harm() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (time, first) = (Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(8)), number("FUZZ_SEED").unwrap_or(0));
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Configured::start(&ns, CONFIG, &["a", "b"])?;
    let mut neighbour = Numbered::start(&vnicd.path("b"), FEATURES, 1, 64)?;
    let pair = &mut neighbour.pairs[0];
    pair.exchange(100, 16, PATIENCE)?;
    let protocol = {
        let mut client = Client::start(&vnicd.path("a"), FEATURES)?;
        client.front.get_protocol_features()?.bits()
    };
    serves(&ns, &vnicd.path("a"))?;
    let lines = |text: &str| vnicd.process().lines().all().iter().filter(|line| line.contains(text)).count();
    eventually("both front ends are let go of", || Ok(lines("front end gone") == 2))?;
    // The line comes just before the socket is closed and the thread ends.
    thread::sleep(Duration::from_millis(500));
    let before = Usage::of(vnicd.process().pid())?;
    let begun = Instant::now();
    let attack = || {
        let mut case = first;
        while begun.elapsed() < time {
            for _ in 0..BATCH {
                let said = converse(&mut Rng::with_seed(case), &vnicd.path("a"), protocol);
                said.with_context(|| format!("case {case}\n{}", vnicd.process().tail()))?;
                case += 1;
            }
            is_as_before(&vnicd, &before).with_context(|| format!("after case {case}"))?;
            serves(&ns, &vnicd.path("a")).with_context(|| format!("after case {case}"))?;
        }
        is_as_before(&vnicd, &before)?;
        let refused = lines("its connection ended") as u64;
        println!("{} cases, {refused} of them were refused", case - first);
        ensure!((1..case - first).contains(&refused), "{refused} of {} were refused", case - first);
        Ok(())
    };
    // The neighbour goes on throughout.
    beside(
        |stop| {
            while !stop.load(Ordering::Relaxed) {
                pair.exchange(32, 16, PATIENCE).context("the neighbour")?;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        },
        attack,
    )
}
