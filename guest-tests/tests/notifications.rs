//! Who tells whom, and when: kicks as the device asks for them, calls as the driver does, in every format's own words.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::nic::{EVENT_IDX, FORMATS, PACKED, VERSION_1};
use guest_tests::driver::{Calls, Kicks, Posting, ScriptedNic};
use guest_tests::lab::{beside, eventually};
use guest_tests::{NetNs, Vnicd};
use vhost::vhost_user::VhostUserFrontend;
use vm_memory::{Bytes, GuestAddress};

const PATIENCE: Duration = Duration::from_secs(10);
const POSTING: Posting = Posting { count: 4, len: 2048 };

/// Does something on a NIC of each format, without and with EVENT_IDX. Small rings: much happens at their ends.
fn in_each_format(test: impl Fn(&mut ScriptedNic) -> Result<()>) -> Result<()> {
    with_entries(4, test)
}

fn with_entries(entries: u16, test: impl Fn(&mut ScriptedNic) -> Result<()>) -> Result<()> {
    with_options(&[], entries, test)
}

fn with_options(options: &[&str], entries: u16, test: impl Fn(&mut ScriptedNic) -> Result<()>) -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).args(options).start()?;
    for (name, format) in FORMATS {
        for event_idx in [0, EVENT_IDX] {
            let size = if format & PACKED != 0 { entries + 1 } else { entries };
            let mut nic = ScriptedNic::start(&ns, &vnicd, VERSION_1 | event_idx | format, size, POSTING)?;
            test(&mut nic).with_context(|| format!("{name}, EVENT_IDX {}", event_idx != 0))?;
        }
    }
    Ok(())
}

/// Sends a datagram, by a kick if the device wants one, and polls for the end of it.
fn send_polling(nic: &mut ScriptedNic, at: u64, payload: &[u8]) -> Result<bool> {
    let bytes = [&[0; 12][..], &nic.frame(payload)?].concat();
    nic.client.memory.map.write_slice(&bytes, GuestAddress(at))?;
    nic.tx.add(&[(at, bytes.len() as u32)], false).context("the ring is full")?;
    let kicked = nic.tx.kick()?;
    nic.host_receives(payload)?;
    eventually("the chain is used", || Ok(nic.tx.take_used().is_some()))?;
    Ok(kicked)
}

/// The worker answers this between two rounds: what it did before, such as a call, is done.
fn worker_is_past(nic: &mut ScriptedNic) -> Result<()> {
    Ok(nic.client.front.set_vring_enable(1, true)?)
}

#[test]
fn a_device_that_sleeps_asks_for_the_next_kick() -> Result<()> {
    in_each_format(|nic| {
        for n in 0..50u8 {
            nic.send(&[n; 60], 1)?;
            // What a packed ring's device asks for is where the ring stands; of a split one, the available index.
            let next = nic.tx.base() as u16;
            let asked = if nic.tx.format().event_idx { Kicks::At(next) } else { Kicks::Always };
            eventually("the device sleeps", || Ok(nic.tx.kicks() == asked))?;
            nic.exchange(&[n; 60])?;
            nic.post_fresh(2048)?;
        }
        Ok(())
    })
}

/// It says so in its flags or leaves its event behind; how soon, is its own affair.
#[test]
fn a_device_that_is_at_work_is_not_kicked() -> Result<()> {
    const BACKLOG: u16 = 200;
    with_entries(256, |nic| {
        let at = nic.client.memory.allocate(4096);
        // Of a protocol for experiments (IEEE 802), which the host drops.
        nic.client.memory.map.write_slice(&[0x88, 0xb5], GuestAddress(at + 24))?;
        let (mut kicked, mut spared) = (0, 0);
        eventually("packets that need no kick", || {
            for n in 0..256 {
                nic.tx.add(&[(at, 1500)], false).context("the ring is full")?;
                if n >= BACKLOG {
                    *(if nic.tx.kick()? { &mut kicked } else { &mut spared }) += 1;
                    std::thread::sleep(Duration::from_micros(1));
                }
            }
            for _ in 0..256 {
                nic.tx.wait_used(PATIENCE)?;
            }
            Ok(spared >= 20)
        })?;
        ensure!(kicked > 0, "no packet was kicked for");
        Ok(())
    })
}

#[test]
fn a_device_that_polls_is_not_kicked() -> Result<()> {
    const COUNT: usize = 400;
    with_options(&["--mode=polling"], 64, |nic| {
        let at = nic.client.memory.allocate(4096);
        let mut kicks = 0;
        for n in 0..COUNT {
            kicks += usize::from(send_polling(nic, at, &[n as u8; 60])?);
        }
        // The first ones come before it polls. An event that stays behind is passed again each second time around a
        // packed ring.
        ensure!(kicks <= 10, "{kicks} kicks for {COUNT} packets");
        Ok(())
    })
}

#[test]
fn a_driver_that_polls_is_not_called() -> Result<()> {
    in_each_format(|nic| {
        let at = nic.client.memory.allocate(4096);
        // The first call after a ring started always comes.
        nic.send(b"first", 1)?;
        nic.exchange(b"first")?;
        nic.post_fresh(2048)?;
        worker_is_past(nic)?;
        nic.tx.set_calls(Calls::Never);
        nic.rx.set_calls(Calls::Never);
        for queue in [&nic.tx, &nic.rx] {
            let _ = queue.call.read();
        }
        for n in 0..30u8 {
            send_polling(nic, at, &[n; 60])?;
            nic.exchange(&[n; 60])?;
            nic.post_fresh(2048)?;
        }
        worker_is_past(nic)?;
        ensure!(nic.tx.call.read().is_err(), "a call for sent packets");
        ensure!(nic.rx.call.read().is_err(), "a call for received packets");
        Ok(())
    })
}

#[test]
fn a_driver_that_wants_every_call_gets_it() -> Result<()> {
    in_each_format(|nic| {
        let at = nic.client.memory.allocate(4096);
        for n in 0..30u8 {
            nic.tx.set_calls(Calls::Always);
            nic.rx.set_calls(Calls::Always);
            for queue in [&nic.tx, &nic.rx] {
                let _ = queue.call.read();
            }
            send_polling(nic, at, &[n; 60])?;
            worker_is_past(nic)?;
            ensure!(nic.tx.call.read().is_ok(), "no call for sent packet {n}");
            nic.host_sends(&[n; 60])?;
            eventually("a call for a received packet", || Ok(nic.rx.call.read().is_ok()))?;
            nic.expect_and_post(&[n; 60], |_| false)?;
        }
        Ok(())
    })
}

#[test]
fn a_driver_is_called_at_the_event_that_it_named() -> Result<()> {
    in_each_format(|nic| {
        if !nic.tx.format().event_idx {
            return Ok(());
        }
        let at = nic.client.memory.allocate(4096);
        nic.send(b"the first call always comes", 1)?;
        worker_is_past(nic)?;
        for round in 0..40u8 {
            let more = round % 4;
            nic.tx.set_calls(Calls::After(more.into()));
            let _ = nic.tx.call.read();
            for n in 0..more {
                send_polling(nic, at, &[round, n])?;
            }
            worker_is_past(nic)?;
            ensure!(nic.tx.call.read().is_err(), "round {round}: called {more} packets too early or earlier");
            send_polling(nic, at, &[round, more])?;
            worker_is_past(nic)?;
            ensure!(nic.tx.call.read().is_ok(), "round {round}: no call after {more} packets");
        }
        Ok(())
    })
}

/// Calls are decided for a burst as a whole: one that passes the event brings a call, wherever in it the event lies.
#[test]
fn an_event_inside_of_a_burst_is_seen() -> Result<()> {
    in_each_format(|nic| {
        let at = nic.client.memory.allocate(4096);
        let bytes = [&[0; 12][..], &nic.frame(b"one of a burst")?].concat();
        nic.client.memory.map.write_slice(&bytes, GuestAddress(at))?;
        nic.send(b"the first call always comes", 1)?;
        for round in 0..30 {
            for event in 0..4 {
                nic.tx.set_calls(Calls::After(event));
                let _ = nic.tx.call.read();
                for _ in 0..4 {
                    nic.tx.add(&[(at, bytes.len() as u32)], false).context("the ring is full")?;
                }
                nic.tx.kick.write(1)?;
                for _ in 0..4 {
                    nic.host_receives(b"one of a burst")?;
                    eventually("the chain is used", || Ok(nic.tx.take_used().is_some()))?;
                }
                worker_is_past(nic)?;
                ensure!(nic.tx.call.read().is_ok(), "round {round}: no call for a burst of 4 that has event {event}");
            }
        }
        Ok(())
    })
}

/// A kick is an edge and is not read: a worker that is at work has nothing of a driver that kicks without end, not one
/// system call a round.
#[test]
fn kicks_without_end_are_never_read() -> Result<()> {
    in_each_format(|nic| {
        let kick = nic.tx.kick.try_clone()?;
        let flood = |stop: &AtomicBool| {
            let mut kicks = 0;
            while !stop.load(Ordering::Relaxed) {
                kick.write(1)?;
                kicks += 1;
            }
            Ok(kicks)
        };
        let traffic = || {
            (0..100u8).try_for_each(|n| {
                nic.send(&[n; 60], 1)?;
                nic.host_sends(&[n; 60])?;
                nic.expect_and_post(&[n; 60], |_| false).map(drop)
            })
        };
        let written = beside(flood, traffic)?;
        let left = kick.read().context("somebody has read the kicks")?;
        ensure!(left >= written, "{left} kicks are left of {written}");
        Ok(())
    })
}

/// A call that comes late is found by waiting for it: the driver sleeps in between.
#[test]
fn nothing_is_missed_by_a_driver_that_sleeps() -> Result<()> {
    in_each_format(|nic| {
        for n in 0..200u8 {
            nic.host_sends(&[n; 60])?;
            nic.send(&[n; 60], 1 + usize::from(n) % 3)?;
            ensure!(nic.tx.take_used().is_none(), "something is used that was not offered");
            nic.expect_and_post(&[n; 60], |_| false)?;
            ensure!(nic.rx.wait_used(Duration::ZERO).is_err(), "a frame that was not sent");
        }
        Ok(())
    })
}
