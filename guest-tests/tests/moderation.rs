//! Interrupt moderation: in polling mode a driver is called once for several frames, but at once for what is urgent.
//!
//! A call may be held for 100 ms. What must come before or after that time is tried again when the machine stood still
//! for so long that nothing can be said.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, PACKED, VERSION_1};
use guest_tests::driver::{Calls, Client, NumberedPair, Posting, ScriptedNic, is_signalled};
use guest_tests::lab::eventually;
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

const PATIENCE: Duration = Duration::from_secs(20);
const HELD: Duration = Duration::from_millis(100);
const MODERATED: [&str; 3] = ["--mode=polling", "--coalesce-us=100000", "--coalesce-frames=8"];
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x77];

/// A driver that looks at its receive ring and is called for it, on an uplink that returns frames.
struct Driver {
    client: Client,
    pair: NumberedPair,
}

/// What a try that came to no result says.
#[derive(Debug)]
enum Try {
    Done,
    TooSlow,
}

/// Does something until the machine was fast enough for it.
fn try_often(mut attempt: impl FnMut() -> Result<Try>) -> Result<()> {
    for _ in 0..50 {
        if let Try::Done = attempt()? {
            return Ok(());
        }
    }
    bail!("the machine is too slow, 50 times");
}

/// Whether so little time has passed that no call can be due.
fn is_early(start: Instant) -> bool {
    start.elapsed() < HELD - Duration::from_millis(10)
}

impl Driver {
    /// A driver whose rings have nothing left to call for.
    fn start(vnicd: &Vnicd, features: u64) -> Result<Self> {
        let mut client = Client::start(vnicd.socket(), features)?;
        let mut pair = NumberedPair::start(&mut client, 0, 64, 32)?;
        pair.tx.set_calls(Calls::Never);
        // The first call after a ring has started always comes.
        pair.exchange(1, 1, PATIENCE)?;
        let mut driver = Self { client, pair };
        driver.settle()?;
        Ok(driver)
    }

    /// Waits until nothing is held, and wants to be called for the next frame.
    fn settle(&mut self) -> Result<()> {
        self.pair.rx.set_calls(Calls::Always);
        thread::sleep(HELD + Duration::from_millis(20));
        self.worker_is_past()?;
        while self.pair.rx.call.read().is_ok() {}
        self.pair.rx.set_calls(Calls::Always);
        Ok(())
    }

    /// The worker answers this between two rounds: what it did before, such as a call, is done.
    fn worker_is_past(&mut self) -> Result<()> {
        Ok(self.client.front.set_vring_enable(1, true)?)
    }

    /// Sends a frame and sees it come back, by looking.
    fn goes_round(&mut self, frame: &[u8]) -> Result<()> {
        self.pair.offer_frame(frame)?.context("the ring is full")?;
        eventually("the frame comes back", || Ok(self.pair.take_frame()?.is_some()))
    }

    fn calls(&mut self) -> Result<u64> {
        self.worker_is_past()?;
        Ok(self.pair.rx.call.read().unwrap_or(0))
    }
}

/// Does something on a pair of each format, without and with EVENT_IDX.
fn in_each_format(options: &[&str], test: impl Fn(&mut Driver) -> Result<()>) -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").args(options).start()?;
    for (name, format) in FORMATS {
        for event_idx in [0, EVENT_IDX] {
            let mut driver = Driver::start(&vnicd, VERSION_1 | format | event_idx)?;
            test(&mut driver).with_context(|| format!("{name}, EVENT_IDX {}", event_idx != 0))?;
        }
    }
    Ok(())
}

fn frame(rest: &[u8]) -> Vec<u8> {
    let mut frame = [&MACS[..], rest].concat();
    frame.resize(frame.len().max(80), 0);
    frame
}

/// Of no priority.
fn plain() -> Vec<u8> {
    frame(&[0x88, 0xb5])
}

fn ipv4(dscp: u8) -> Vec<u8> {
    frame(&[0x08, 0x00, 0x45, dscp << 2, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1])
}

fn vlan(priority: u8) -> Vec<u8> {
    let tag = [&[0x81, 0x00, priority << 5, 5][..], &ipv4(0)[12..]].concat();
    frame(&tag)
}

fn arp() -> Vec<u8> {
    frame(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1])
}

/// ICMPv6 of this type.
fn icmpv6(kind: u8) -> Vec<u8> {
    let header = [&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255][..], &[0xfe; 32], &[kind, 0, 0, 0]].concat();
    frame(&header)
}

/// Interrupts of the guest are moderated in polling mode (row 17 of the map): one for as many frames as are to be waited
/// for.
#[test]
fn eight_frames_bring_one_call() -> Result<()> {
    in_each_format(&MODERATED, |driver| {
        try_often(|| {
            driver.settle()?;
            let start = Instant::now();
            for _ in 0..7 {
                driver.goes_round(&plain())?;
            }
            let early = driver.calls()?;
            driver.goes_round(&plain())?;
            let calls = driver.calls()?;
            if !is_early(start) {
                return Ok(Try::TooSlow);
            }
            ensure!((early, calls) == (0, 1), "{early} calls for seven frames, then {calls} for the eighth");
            // Nothing is left to call for.
            thread::sleep(HELD + Duration::from_millis(20));
            let late = driver.calls()?;
            ensure!(late == 0, "{late} calls more");
            Ok(Try::Done)
        })
    })
}

/// The last frames of a burst are called for, too, after the time and not before (row 17 of the map).
#[test]
fn the_last_frames_are_called_for_in_time() -> Result<()> {
    in_each_format(&MODERATED, |driver| {
        driver.settle()?;
        for count in [1, 3] {
            let start = Instant::now();
            for _ in 0..count {
                driver.goes_round(&plain())?;
            }
            ensure!(is_signalled(&driver.pair.rx.call, PATIENCE), "no call for the last of {count} frames");
            ensure!(start.elapsed() >= HELD, "called after {:?}, which is too soon", start.elapsed());
            driver.settle()?;
        }
        Ok(())
    })
}

/// Packets of high priority interrupt at once, a single priority or a range (row 17 of the map).
fn is_urgent(driver: &mut Driver, what: &str, frame: &[u8], urgent: bool) -> Result<()> {
    try_often(|| {
        driver.settle()?;
        let start = Instant::now();
        driver.goes_round(&plain())?;
        let before = driver.calls()?;
        driver.goes_round(frame)?;
        let after = driver.calls()?;
        if !is_early(start) {
            return Ok(Try::TooSlow);
        }
        ensure!((before, after) == (0, urgent.into()), "{before} calls for a plain frame, {after} for {what}");
        Ok(Try::Done)
    })
}

/// Packets of high priority, ARP and neighbour discovery may interrupt a guest while its pair polls (row 17 of the map).
#[test]
fn urgent_frames_are_called_for_at_once() -> Result<()> {
    in_each_format(&MODERATED, |driver| {
        is_urgent(driver, "ARP", &arp(), true)?;
        is_urgent(driver, "VLAN priority 7", &vlan(7), true)?;
        is_urgent(driver, "class selector 6", &ipv4(48), true)?;
        is_urgent(driver, "a neighbour solicitation", &icmpv6(135), true)?;
        is_urgent(driver, "VLAN priority 5", &vlan(5), false)?;
        is_urgent(driver, "class selector 5", &ipv4(40), false)?;
        is_urgent(driver, "an ICMPv6 echo request", &icmpv6(128), false)
    })
}

/// Which priorities interrupt is the operator's choice: a single one, or a range (row 17 of the map).
#[test]
fn urgent_priorities_are_chosen() -> Result<()> {
    for (range, urgent) in [("3", 3..=3u8), ("1-2", 1..=2)] {
        let ns = NetNs::new()?;
        let options = [&MODERATED[..], &["--urgent-priorities", range]].concat();
        let vnicd = Vnicd::builder(&ns).uplink("loopback").args(options).start()?;
        let mut driver = Driver::start(&vnicd, VERSION_1 | EVENT_IDX)?;
        for priority in 0..8 {
            let expected = urgent.contains(&priority);
            is_urgent(&mut driver, &format!("VLAN priority {priority} of {range}"), &vlan(priority), expected)?;
        }
        is_urgent(&mut driver, "ARP, always", &arp(), true)?;
    }
    Ok(())
}

/// A packet of high priority is signalled past the moderation, never past the driver's own suppression (row 17 of the
/// map).
#[test]
fn a_driver_that_polls_is_not_called_for_urgent_frames() -> Result<()> {
    in_each_format(&MODERATED, |driver| {
        driver.settle()?;
        driver.pair.rx.set_calls(Calls::Never);
        for _ in 0..5 {
            for frame in [plain(), arp(), vlan(7), icmpv6(135)] {
                driver.goes_round(&frame)?;
            }
        }
        thread::sleep(HELD + Duration::from_millis(20));
        let calls = driver.calls()?;
        ensure!(calls == 0, "{calls} calls for a driver that polls");
        // That it was not called is its own will.
        driver.pair.rx.set_calls(Calls::Always);
        driver.goes_round(&arp())?;
        ensure!(driver.calls()? == 1, "no call for a driver that wants it again");
        Ok(())
    })
}

/// A ring that stops has no call left that was held.
#[test]
fn a_ring_that_stops_is_called_for_what_was_held() -> Result<()> {
    in_each_format(&MODERATED, |driver| {
        try_often(|| {
            driver.settle()?;
            let start = Instant::now();
            driver.goes_round(&plain())?;
            let before = driver.calls()?;
            let base = driver.client.front.get_vring_base(0)?;
            let after = driver.pair.rx.call.read().unwrap_or(0);
            let is_early = is_early(start);
            driver.client.describe_queue(&driver.pair.rx)?;
            driver.client.set_base(0, base)?;
            driver.client.front.set_vring_kick(0, &driver.pair.rx.kick)?;
            driver.goes_round(&plain())?;
            if !is_early {
                return Ok(Try::TooSlow);
            }
            ensure!((before, after) == (0, 1), "{before} calls before the ring stopped, {after} when it did");
            Ok(Try::Done)
        })
    })
}

/// Calls are held in polling mode only: what was held when an uplink that goes down ends that mode is called for (rows 14
/// and 17 of the map).
#[test]
fn a_mode_that_ends_leaves_no_call_held() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(MODERATED).control().start()?;
    let mut watch = vnicd.watch()?;
    for (name, format) in FORMATS {
        let features = VERSION_1 | EVENT_IDX | format;
        ns.sh("ip link set tap0 up")?;
        let size = if format & PACKED != 0 { 65 } else { 64 };
        let mut nic = ScriptedNic::start(&ns, &vnicd, features, size, Posting { count: 60, len: 2048 })?;
        try_often(|| {
            ns.sh("ip link set tap0 up && ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:77 dev tap0")?;
            watch.wait_for("nic0/0", "polling")?;
            thread::sleep(HELD + Duration::from_millis(20));
            while nic.rx.take_used().is_some() {}
            nic.rx.set_calls(Calls::Always);
            while nic.rx.call.read().is_ok() {}
            let start = Instant::now();
            nic.host_sends(b"held")?;
            eventually("the frame comes", || Ok(nic.rx.take_used().is_some()))?;
            let early = nic.rx.call.read().unwrap_or(0);
            ns.sh("ip link set tap0 down")?;
            watch.wait_for("nic0/0", "interrupt")?;
            let late = nic.rx.call.read().unwrap_or(0);
            if !is_early(start) {
                return Ok(Try::TooSlow);
            }
            ensure!((early, late) == (0, 1), "{early} calls while the mode was polling, {late} when it ended");
            Ok(Try::Done)
        })
        .with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// In polling mode the NIC may interrupt for other purposes than packets, and no mode holds these back (row 18 of the map):
/// a broken ring is told of at once, with the call that was held.
#[test]
fn errors_are_never_held() -> Result<()> {
    let ns = NetNs::new()?;
    let vnicd = Vnicd::builder(&ns).uplink("loopback").args(MODERATED).start()?;
    for (name, format) in FORMATS {
        for event_idx in [0, EVENT_IDX] {
            try_often(|| {
                let mut driver = Driver::start(&vnicd, VERSION_1 | format | event_idx)?;
                let start = Instant::now();
                driver.goes_round(&plain())?;
                let before = driver.calls()?;
                // A buffer that lies nowhere.
                driver.pair.rx.add(&[(1 << 40, 2048)], true).context("the ring is full")?;
                // The others are used up before it is met.
                for _ in 0..32 {
                    driver.pair.offer_frame(&plain())?.context("the ring is full")?;
                }
                ensure!(is_signalled(&driver.pair.rx.err, PATIENCE), "nobody told of a broken ring");
                if !is_early(start) {
                    return Ok(Try::TooSlow);
                }
                let calls = driver.calls()?;
                ensure!(before == 0 && calls > 0, "{before} calls before the ring broke, {calls} when it did");
                Ok(Try::Done)
            })
            .with_context(|| format!("{name}, EVENT_IDX {}", event_idx != 0))?;
        }
    }
    Ok(())
}

/// Messages wake a worker that rests between two looks (row 18 of the map): memory comes and goes at once.
#[test]
fn messages_are_never_held() -> Result<()> {
    const ROUNDS: u32 = 30;
    /// What each message would take if it waited for the next look.
    const REST: Duration = Duration::from_secs(1);
    let ns = NetNs::new()?;
    let options = ["--mode=polling", "--poll-interval-us=1000000", "--coalesce-us=100000"];
    let vnicd = Vnicd::builder(&ns).uplink("loopback").args(options).start()?;
    for (name, format) in FORMATS {
        let mut driver = Driver::start(&vnicd, VERSION_1 | format)?;
        let (file, region) = {
            let file = driver.client.memory.plug(0x4000_0000, 1 << 20)?;
            let handle = std::os::fd::AsRawFd::as_raw_fd(&file);
            let region = vhost::VhostUserMemoryRegionInfo {
                guest_phys_addr: 0x4000_0000,
                memory_size: 1 << 20,
                userspace_addr: 0x6000_0000_0000,
                mmap_offset: 0,
                mmap_handle: handle,
            };
            (file, region)
        };
        let start = Instant::now();
        for _ in 0..ROUNDS {
            driver.client.front.add_mem_region(&region)?;
            driver.client.front.remove_mem_region(&region)?;
        }
        let took = start.elapsed();
        ensure!(took < REST * ROUNDS / 2, "{name}: {} changes of memory took {took:?}", 2 * ROUNDS);
        drop(file);
        driver.pair.exchange(4, 4, PATIENCE)?;
    }
    Ok(())
}
