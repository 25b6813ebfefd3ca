//! 256 devices in one daemon.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest_tests::driver::Client;
use guest_tests::driver::nic::{EVENT_IDX, MRG_RXBUF, VERSION_1};
use guest_tests::patience::Patience;
use guest_tests::usage::Usage;
use guest_tests::{Configured, NetNs};

const DEVICES: usize = 256;
const FEATURES: u64 = VERSION_1 | MRG_RXBUF | EVENT_IDX;
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory of a device, in bytes, beyond that of its guest.
const MEMORY: u64 = 512 << 10;

fn file(devices: usize) -> String {
    (0..devices).fold("control = 'DIR/control'\n".into(), |mut file, n| {
        let _ =
            write!(file, "[[device]]\nname = 'd{n}'\nsocket-path = 'DIR/d{n}'\nuplink = 'tap=t{n}'\nqueue-pairs = 1\n");
        file
    })
}

/// Idle devices, each with a guest whose rings run: what they take is told and bounded, and none of them wakes up.
#[test]
fn many_idle_devices_take_little_and_never_wake() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let begun = Instant::now();
    let last = format!("d{}", DEVICES - 1);
    let vnicd = Configured::start(&ns, &file(DEVICES), &[&last])?;
    let started = begun.elapsed();
    let pid = vnicd.process().pid();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit of files")?;
    let limits: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    ensure!(limits[0] == limits[1], "the limit of descriptors is not raised: {files}");
    let before = Usage::of(pid)?;
    let clients = (0..DEVICES).map(|n| {
        let mut client = Client::start(&vnicd.path(&format!("d{n}")), FEATURES)?;
        let queues = (client.running_queue(0, 256)?, client.running_queue(1, 256)?);
        Ok((client, queues))
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let status = vnicd.status()?;
    let running = status["devices"].as_array().context("no devices")?.iter();
    let running = running.filter(|device| device["pairs"][0]["tx_started"] == true).count();
    ensure!(running == DEVICES, "{running} devices run");
    // They settle.
    std::thread::sleep(Duration::from_secs(1));
    let (first, _) = (Usage::of(pid)?, std::thread::sleep(Duration::from_secs(3)));
    let second = Usage::of(pid)?;
    let woken = second.since(&first).voluntary_switches;
    let each = second.rss_private_bytes / DEVICES as u64;
    println!(
        "{DEVICES} devices: listening after {started:?}; {} KiB a device with a guest, {} without, {} threads, {} descriptors; \
         {woken} wake-ups in 3 s",
        each >> 10,
        (before.rss_private_bytes / DEVICES as u64) >> 10,
        second.threads.len(),
        second.fds
    );
    ensure!(each < MEMORY, "{each} bytes a device");
    ensure!(woken == 0, "{woken} wake-ups");
    let begun = Instant::now();
    ensure!(vnicd.process().terminate()?.success());
    println!("ended after {:?}", begun.elapsed());
    drop(clients);
    ensure!(fs::read_dir(vnicd.dir())?.count() == 1, "sockets are left");
    ensure!(ns.sh("ls /sys/class/net")? == "lo\n", "TAPs are left");
    Ok(())
}

/// More busy devices than CPUs share their one worker evenly, whatever their number: it goes from one to the next, a burst each.
#[test]
fn busy_devices_share_a_worker_evenly() -> Result<()> {
    const BUSY: usize = 8;
    const PACKETS: u64 = 200_000;
    let ns = NetNs::new()?;
    let mut file = String::new();
    for n in 0..BUSY {
        let _ = write!(
            file,
            "[[device]]\nname = 'd{n}'\nsocket-path = 'DIR/d{n}'\nuplink = 'discard'\nqueue-pairs = 1\n\
             threads = 'per-cpu'\ncpus = '0'\n"
        );
    }
    let vnicd = Configured::start(&ns, &file, &[&format!("d{}", BUSY - 1)])?;
    let drivers = (0..BUSY).map(|n| {
        let mut client = Client::start(&vnicd.path(&format!("d{n}")), FEATURES)?;
        let (_rx, tx, at) =
            (client.running_queue(0, 256)?, client.running_queue(1, 256)?, client.memory.allocate(4096));
        Ok((client, tx, at, 0u64))
    });
    let mut drivers = drivers.collect::<Result<Vec<_>>>()?;
    let mut patience = Patience::new(PATIENCE);
    while drivers.iter().map(|(.., taken)| taken).sum::<u64>() < PACKETS {
        ensure!(!patience.is_over(), "{:?}", drivers.iter().map(|(.., taken)| taken).collect::<Vec<_>>());
        for (_, tx, at, taken) in &mut drivers {
            while tx.take_used().is_some() {
                *taken += 1;
            }
            while tx.add(&[(*at, 100)], false).is_some() {}
            tx.kick()?;
        }
    }
    let taken: Vec<_> = drivers.iter().map(|(.., taken)| *taken).collect();
    let even = taken.iter().sum::<u64>() / BUSY as u64;
    ensure!(taken.iter().all(|taken| (even / 2..=2 * even).contains(taken)), "{taken:?}");
    println!("{taken:?}");
    Ok(())
}
