//! Front ends that stop in the middle: of a message, before the first, or of reading answers.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::VERSION_1;
use guest_tests::driver::{Client, Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Usage, Vnicd};

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

/// A whole header, and less of the body than it promises. What came with it is let go when the patience is over, and the
/// place is free, although the front end holds its end open.
#[test]
fn half_a_body_is_not_waited_for_for_ever_and_its_file_descriptors_are_let_go() -> Result<()> {
    const SET_MEM_TABLE: u32 = 5;
    const BODY: u32 = 40;
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let before = vnicd.idle_fds(1)?;
    let ended = || vnicd.log().iter().filter(|line| line.contains("rest of a message did not come for 5 s")).count();
    let header: Vec<u8> = [SET_MEM_TABLE, 1, BODY].iter().flat_map(|word| word.to_le_bytes()).collect();
    // With the header, and with the part of the body.
    for (n, is_with_body) in [false, true].into_iter().enumerate() {
        let client = Client::connect(vnicd.socket())?;
        // One whole, so that it does not give way.
        client.send_bytes(&QUESTION, &[])?;
        ensure!(client.reply()?.is_some(), "the first message was not answered");
        let (reader, writer) = std::io::pipe()?;
        let fds = [writer.as_fd(); 8];
        let [with_header, with_body] = if is_with_body { [&[][..], &fds] } else { [&fds[..], &[]] };
        client.send_bytes(&header, with_header)?;
        client.send_bytes(&[0; BODY as usize / 2], with_body)?;
        drop(writer);
        eventually("the connection is ended", || Ok(ended() > n))?;
        client.wait_closed()?;
        // Whoever reads from a pipe waits as long as anybody can write to it, be it with a descriptor under way.
        reads_to_the_end(reader)?;
        let after = vnicd.idle_fds(2 * n + 2)?;
        ensure!(after == before, "{before} file descriptors before, {after} after");
        serves(&ns, &vnicd)?;
        vnicd.idle_fds(2 * n + 3)?;
        drop(client);
    }
    Ok(())
}

/// Waits until nobody can write to the pipe any more.
fn reads_to_the_end(mut pipe: impl Read + Send + 'static) -> Result<()> {
    let reads = std::thread::spawn(move || pipe.read(&mut [0]));
    eventually("nobody has the other end of the pipe", || Ok(reads.is_finished()))?;
    ensure!(matches!(reads.join(), Ok(Ok(0))), "something was written to the pipe");
    Ok(())
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

/// A thousand that come and hold what they have: half a message each. They cost nothing, and leave nothing behind.
#[test]
fn a_thousand_connections_are_turned_away() -> Result<()> {
    /// Room for what the allocator keeps.
    const SLACK: u64 = 1 << 20;
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let idle = vnicd.idle_fds(1)?;
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
    let counts = |usage: &Usage| (usage.fds, usage.threads.len());
    eventually("as many file descriptors and threads as before", || Ok(counts(&vnicd.usage()?) == counts(&before)))
        .with_context(|| format!("{before:#?} {:#?}", vnicd.usage()))?;
    let (before, after) = (before.rss_private_bytes, vnicd.usage()?.rss_private_bytes);
    ensure!(after <= before + SLACK, "private memory has grown from {before} to {after} bytes");
    drop(held);
    drop(nic);
    let client = Client::start(vnicd.socket(), VERSION_1)?;
    drop(client);
    serves(&ns, &vnicd)?;
    let after = vnicd.idle_fds(4)?;
    ensure!(after == idle, "{idle} file descriptors before, {after} after");
    Ok(())
}
