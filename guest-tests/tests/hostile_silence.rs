//! Front ends that stop in the middle: of a message, before the first, or of reading answers.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guest_tests::driver::nic::VERSION_1;
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};

fn host() -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(["--queue-pairs", "1"]).start()?;
    Ok((ns, vnicd))
}

fn serves(ns: &NetNs, vnicd: &Vnicd) -> Result<()> {
    let mut nic = ScriptedNic::start(ns, vnicd, VERSION_1, 64, Posting { count: 16, len: 2048 })?;
    nic.send(b"there", 1)?;
    nic.exchange(b"and back").map(drop)
}

/// GET_FEATURES.
const QUESTION: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn whoever_says_nothing_gives_way() -> Result<()> {
    let (ns, vnicd) = host()?;
    let silent: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(vnicd.socket())).collect::<Result<_, _>>()?;
    serves(&ns, &vnicd)?;
    drop(silent);
    serves(&ns, &vnicd)
}

#[test]
fn half_a_message_is_not_waited_for_for_ever() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut stream = UnixStream::connect(vnicd.socket())?;
    // One whole, so that it does not give way, and half of the next.
    stream.write_all(&[&QUESTION[..], &QUESTION[..7]].concat())?;
    eventually("the connection is ended", || Ok(vnicd.log().iter().any(|line| line.contains("did not come for 5 s"))))?;
    serves(&ns, &vnicd)
}

#[test]
fn whoever_reads_no_answer_is_not_answered_for_ever() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut stream = UnixStream::connect(vnicd.socket())?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let start = Instant::now();
    while stream.write_all(&QUESTION).is_ok() {
        ensure!(start.elapsed() < Duration::from_secs(30), "answers are given that nobody reads");
    }
    eventually("the connection is ended", || Ok(vnicd.log().iter().any(|line| line.contains("are not read for 5 s"))))?;
    serves(&ns, &vnicd)
}

/// A thousand that come and hold what they have: half a message each.
#[test]
fn a_thousand_connections_are_turned_away() -> Result<()> {
    let (ns, vnicd) = host()?;
    let mut nic = ScriptedNic::start(&ns, &vnicd, VERSION_1, 64, Posting { count: 16, len: 2048 })?;
    let before = vnicd.usage()?;
    let mut held = Vec::new();
    for n in 0..1000u32 {
        let mut stream = UnixStream::connect(vnicd.socket())?;
        // It may be turned away already.
        let _ = stream.write_all(&QUESTION[..5]);
        held.push(stream);
        if n.is_multiple_of(100) {
            nic.send(b"meanwhile", 1)?;
            nic.exchange(b"and back").map(drop)?;
            nic.post_fresh(2048)?;
        }
    }
    let after = vnicd.usage()?;
    ensure!(after.threads.len() == before.threads.len(), "{before:#?} {after:#?}");
    drop(held);
    drop(nic);
    let client = Client::start(vnicd.socket(), VERSION_1)?;
    drop(client);
    serves(&ns, &vnicd)
}
