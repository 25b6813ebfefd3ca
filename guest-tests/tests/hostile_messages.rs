//! Messages that have broken other back ends: indices, sizes and offsets at their extremes, and logs that are none; what
//! they say of a ring's size is in `hostile_sizes`. The
//! message is refused, or does no harm; the daemon goes on to serve. Tests bear the number of the fault that they come
//! from.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::dirty_log::LOG_ALL;
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, MRG_RXBUF, VERSION_1};
use guest_tests::driver::{Client, DirtyLog, GUEST_BASE, Posting, ScriptedNic};
use guest_tests::lab::eventually;
use guest_tests::{Configured, NetNs, Usage, Vnicd};
use rustix::fs::{MemfdFlags, memfd_create};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const POSTING: Posting = Posting { count: 32, len: 2048 };

// Requests (vhost-user, "Front-end message types") and header flags.
const SET_LOG_BASE: u32 = 6;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const SET_VRING_ENABLE: u32 = 18;
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

fn host() -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).arg("--queue-pairs=2").start()?;
    Ok((ns, vnicd))
}

fn serves(ns: &NetNs, vnicd: &Vnicd) -> Result<()> {
    let mut nic = ScriptedNic::start(ns, vnicd, FEATURES, 256, POSTING)?;
    nic.send(b"out", 1)?;
    nic.exchange(b"in").map(drop)
}

/// Whether a message is refused: by its answer or by the end of the connection.
fn is_refused(client: &Client, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<bool> {
    client.send(request, VERSION | NEED_REPLY, body, fds)?;
    refuses(client)
}

/// Whether the message that was sent last is refused.
fn refuses(client: &Client) -> Result<bool> {
    Ok(client.reply()?.is_none_or(|reply| reply.value().is_some_and(|value| value != 0)))
}

fn memfd(len: u64) -> Result<File> {
    let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC)?);
    file.set_len(len)?;
    Ok(file)
}

fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// CVE-2020-10723: rings that do not exist. None is taken for another one whose number has the same lower bits.
#[test]
fn cve_2020_10723_indices_that_are_cut() -> Result<()> {
    let (ns, vnicd) = host()?;
    let start = || -> Result<Client> {
        let mut client = Client::start(vnicd.socket(), FEATURES)?;
        for index in 0..2 {
            client.running_queue(index, 256)?;
        }
        Ok(client)
    };
    for request in [SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE] {
        for index in [4, 0xff, 0x100, 0x1_0000, 0x1_0001, 0x8000_0000, u32::MAX] {
            let mut body = [index.to_le_bytes(), 1u32.to_le_bytes()].concat();
            if request == SET_VRING_ADDR {
                body.resize(40, 0);
            }
            ensure!(is_refused(&start()?, request, &body, &[])?, "request {request} for ring {index:#x} was accepted");
        }
    }
    // Of these, the number is eight bits; those above the ninth mean nothing.
    let null = File::open("/dev/null")?;
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        for index in [4u64, 0xff] {
            let refused = is_refused(&start()?, request, &words(&[index]), &[null.as_fd()])?;
            ensure!(refused, "request {request} for ring {index:#x} was accepted");
        }
        for odd in [0x104, 0x200, 0x1_0000, 0x1_0001, 0x1_0000_0000, 0x1_0000_0104, u64::MAX] {
            for fds in [&[][..], &[null.as_fd()]] {
                is_refused(&start()?, request, &words(&[odd]), fds)?;
            }
        }
    }
    serves(&ns, &vnicd)
}

/// CVE-2020-10726, CVE-2021-3839, CVE-2022-0669 (a log of chains under way) and CVE-2020-10724 (cryptography), neither of
/// which this device has: sizes at their extremes, and file descriptors attached.
#[test]
fn cve_2020_10726_2021_3839_2022_0669_2020_10724_requests_of_other_devices() -> Result<()> {
    const INFLIGHT: [u32; 2] = [31, 32];
    const CRYPTO: [u32; 2] = [26, 27];
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let before = vnicd.idle_fds(1)?;
    let log = memfd(8192)?;
    let fds = [log.as_fd(); 8];
    let mut connections = 1;
    for (size, offset, queues) in [(8192, 0, 0x0001_0001), (u64::MAX, u64::MAX, u64::MAX), (0, 0, 0xffff_ffff)] {
        for request in INFLIGHT.iter().chain(&CRYPTO) {
            for count in [0, 1, 2, 8] {
                for _ in 0..4 {
                    let client = Client::start(vnicd.socket(), FEATURES)?;
                    let refused = is_refused(&client, *request, &words(&[size, offset, queues]), &fds[..count])?;
                    ensure!(refused, "request {request} with {count} fds was accepted");
                    connections += 1;
                }
            }
        }
    }
    let after = vnicd.idle_fds(connections)?;
    ensure!(after == before, "{before} file descriptors before, {after} after");
    serves(&ns, &vnicd)
}

/// CVE-2021-3839 and CVE-2022-0669 again: a thousand of those, which leave nothing behind. A refusal costs its connection a
/// pause, so several devices are asked at a time.
#[test]
fn cve_2021_3839_2022_0669_a_thousand_requests_for_a_log_that_there_is_not() -> Result<()> {
    const GET_INFLIGHT_FD: u32 = 31;
    const DEVICES: usize = 8;
    const ROUNDS: usize = 125;
    let ns = NetNs::new()?;
    let device = |n| format!("[[device]]\nname = 'd{n}'\nsocket-path = 'DIR/d{n}'\nuplink = 'discard'\n");
    let names: Vec<_> = (0..DEVICES).map(|n| format!("d{n}")).collect();
    let sockets: Vec<_> = names.iter().map(String::as_str).collect();
    let vnicd = Configured::start(&ns, &(0..DEVICES).map(device).collect::<String>(), &sockets)?;
    let log = memfd(8192)?;
    let fds = [log.as_fd(); 8];
    let gone = || vnicd.process().lines().all().iter().filter(|line| line.contains("front end gone")).count();
    // Each device has served before what is open is counted.
    sockets.iter().try_for_each(|name| Client::start(&vnicd.path(name), FEATURES).map(drop))?;
    eventually("the front ends are let go of", || Ok(gone() == DEVICES))?;
    let before = Usage::settled_fds(vnicd.process().pid())?;
    let open = || Usage::of(vnicd.process().pid()).map(|usage| usage.fds);
    for round in 0..ROUNDS {
        let (size, offset, queues) =
            [(8192, 0, 0x0001_0001), (u64::MAX, u64::MAX, u64::MAX), (0, 0, 0xffff_ffff)][round % 3];
        let ask = |name: &&str| -> Result<Client> {
            let client = Client::start(&vnicd.path(name), FEATURES)?;
            let body = words(&[size, offset, queues]);
            client.send(GET_INFLIGHT_FD, VERSION | NEED_REPLY, &body, &fds[..round % 9])?;
            Ok(client)
        };
        let clients = sockets.iter().map(ask).collect::<Result<Vec<_>>>()?;
        for client in &clients {
            ensure!(refuses(client)?, "the request was accepted in round {round}");
        }
        eventually("as many file descriptors as before", || Ok(open()? == before))
            .with_context(|| format!("{before} before, {:?} in round {round}", open()))?;
    }
    Ok(())
}

/// CVE-2020-10722: sizes and offsets whose sum wraps around, that the file does not have, or that cannot be mapped.
#[test]
fn cve_2020_10722_logs_at_their_extremes() -> Result<()> {
    const FILE: u64 = 8192;
    let (ns, vnicd) = host()?;
    serves(&ns, &vnicd)?;
    let before = vnicd.idle_fds(1)?;
    let ranges = [
        (0, 0),
        (FILE + 1, 0),
        (4097, 4096),
        (4096, FILE),
        (4096, 1),
        (4096, u64::MAX - 4095),
        (u64::MAX, 0),
        (u64::MAX, 1),
        (u64::MAX - 4095, 4096),
        (1 << 63, 1 << 63),
        (i64::MAX as u64, 4096),
        (4096, i64::MAX as u64 & !4095),
    ];
    for (size, offset) in ranges {
        let client = Client::start(vnicd.socket(), FEATURES)?;
        let refused = is_refused(&client, SET_LOG_BASE, &words(&[size, offset]), &[memfd(FILE)?.as_fd()])?;
        ensure!(refused, "a log of {size:#x} bytes at {offset:#x} was accepted");
    }
    // Files that cannot be one, none, and too many.
    let (reader, writer) = rustix::pipe::pipe()?;
    let (null, log) = (File::open("/dev/null")?, memfd(FILE)?);
    let read_only = File::open("/proc/self/exe")?;
    let odd = [
        &[][..],
        &[null.as_fd()],
        &[reader.as_fd()],
        &[writer.as_fd()],
        &[read_only.as_fd()],
        &[log.as_fd(), log.as_fd()],
        &[log.as_fd(); 8],
    ];
    for fds in odd {
        let client = Client::start(vnicd.socket(), FEATURES)?;
        ensure!(is_refused(&client, SET_LOG_BASE, &words(&[4096, 0]), fds)?, "{fds:?} was accepted");
    }
    let after = vnicd.idle_fds(1 + ranges.len() + odd.len())?;
    ensure!(after == before, "{before} file descriptors before, {after} after");
    serves(&ns, &vnicd)
}

/// CVE-2019-14835: logs that end before guest memory does: what has no bit is not marked, or the log is refused.
#[test]
fn cve_2019_14835_logs_that_are_too_short() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        for size in [1, 8, 100] {
            let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, 64, POSTING)?;
            // Bytes behind it in the same page are not the log's.
            let file = memfd(4096)?;
            if is_refused(&nic.client, SET_LOG_BASE, &words(&[size, 0]), &[file.as_fd()])? {
                continue;
            }
            nic.client.set_features(FEATURES | format | LOG_ALL)?;
            for queue in [&nic.rx, &nic.tx] {
                nic.client.set_addresses(queue, true)?;
            }
            for n in 0..20u8 {
                nic.send(&[n; 100], 1)?;
                nic.exchange(&[n; 100]).with_context(|| format!("{name}, a log of {size} bytes"))?;
            }
            let mut bytes = [0; 4096];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
            let behind = bytes[size as usize..].iter().any(|byte| *byte != 0);
            ensure!(!behind, "{name}: something is marked behind a log of {size} bytes");
        }
    }
    serves(&ns, &vnicd)
}

/// A log whose file is cut while it is written.
#[test]
fn a_log_that_is_cut_breaks_the_device_at_most() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, 64, POSTING)?;
        let log = DirtyLog::new(GUEST_BASE + nic.client.memory.size, 0)?;
        log.share(&nic.client)?;
        nic.client.set_features(FEATURES | format | LOG_ALL)?;
        for queue in [&nic.rx, &nic.tx] {
            nic.client.set_addresses(queue, true)?;
        }
        nic.send(b"before", 1)?;
        log.cut()?;
        for n in 0..20u8 {
            nic.host_sends(&[n; 100])?;
        }
        // Marked or not, received or not: the daemon lives.
        let _ = nic.exchange(b"after");
        drop(nic);
        serves(&ns, &vnicd).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Each log is let go for the next one, while packets move.
#[test]
fn a_hundred_logs_leave_nothing_behind() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format | LOG_ALL, 64, POSTING)?;
        let before = vnicd.usage()?.fds;
        let mut last: Option<DirtyLog> = None;
        for n in 0..100u8 {
            let log = DirtyLog::new(GUEST_BASE + nic.client.memory.size, 0)?;
            log.share(&nic.client)?;
            if let Some(last) = last.replace(log) {
                last.take();
                nic.host_sends(&[n; 100])?;
                nic.expect_and_post(&[n; 100], |_| false)?;
                nic.send(&[n; 100], 1)?;
                ensure!(last.take().is_empty(), "{name}: pages are marked in a log of before");
            }
        }
        ensure!(last.is_some_and(|log| !log.take().is_empty()), "{name}: nothing is marked");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", vnicd.pid()))?;
        let logs = maps.lines().filter(|line| line.contains("memfd:dirty-log")).count();
        ensure!(logs == 1 && vnicd.usage()?.fds <= before + 1, "{name}: {logs} logs are mapped");
    }
    serves(&ns, &vnicd)
}
