//! Rings whose indices jump, whose chains loop or never end, whose wrap bits lie.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::desc::{INDIRECT, NEXT, WRITE};
use guest_tests::driver::nic::PACKED;
use guest_tests::driver::target::{FEATURES, Fate, SIZE, Target, in_each_format};
use guest_tests::driver::{AVAIL, Client, Desc, GUEST_BASE, Posting, ScriptedNic, USED, is_signalled};
use guest_tests::{NetNs, Vnicd};
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress};

const PATIENCE: Duration = Duration::from_secs(10);
/// A page of shared memory that no test looks into.
const SCRAP: u64 = GUEST_BASE + (15 << 20);
const GOOD: Desc = Desc { address: SCRAP, len: 64, flags: 0, next: 0 };

fn on_split_rings(attack: impl Fn(&mut Target) -> Result<()>) -> Result<()> {
    in_each_format(|target| if target.nic.tx.format().packed { Ok(()) } else { attack(target) })
}

fn on_packed_rings(attack: impl Fn(&mut Target) -> Result<()>) -> Result<()> {
    in_each_format(|target| if target.nic.tx.format().packed { attack(target) } else { Ok(()) })
}

/// Packets come out of the other ring: the daemon has had time to see what was done to this one.
fn the_other_ring_lives(target: &mut Target) -> Result<()> {
    target.nic.host_sends(b"meanwhile")?;
    target.nic.expect_and_post(b"meanwhile", |_| false).map(drop)
}

#[test]
fn available_indices_that_jump() -> Result<()> {
    on_split_rings(|target| {
        for jump in [SIZE + 1, 1000, 0x7fff, 0x8000, 65_535] {
            for sent in [0, 3] {
                (0..sent).try_for_each(|_| target.nic.send(b"before", 1))?;
                target.breaks(&format!("a jump by {jump} after {sent} packets"), |tx| {
                    let idx = tx.split().avail_idx.wrapping_add(jump);
                    tx.split().set_avail_idx(idx);
                })?;
            }
        }
        Ok(())
    })
}

#[test]
fn chains_that_loop_or_leave_the_table() -> Result<()> {
    on_split_rings(|target| {
        for path in [&[0, 0][..], &[5, 6, 7, 5], &[SIZE - 1, SIZE], &[0, 0xffff], &[SIZE], &[0xffff]] {
            target.breaks(&format!("a chain over {path:?}"), |tx| {
                for link in path.windows(2) {
                    tx.write_desc(link[0], Desc { flags: NEXT, next: link[1], ..GOOD });
                }
                tx.split().offer(path[0]);
            })?;
        }
        // Twice the same chain is odd, yet each time it can be sent.
        let twice = target.attack(2, |tx| {
            tx.write_desc(9, GOOD);
            (0..2).for_each(|_| tx.split().offer(9));
        })?;
        ensure!(twice == Fate::Used);
        Ok(())
    })
}

/// Every descriptor of the ring says that there is another.
#[test]
fn packed_chains_without_an_end() -> Result<()> {
    on_packed_rings(|target| {
        for sent in [0, 1, SIZE - 1] {
            (0..sent).try_for_each(|_| target.nic.send(b"before", 1))?;
            let endless = vec![Desc { flags: NEXT, ..GOOD }; SIZE.into()];
            target.breaks(&format!("an endless chain after {sent} packets"), |tx| {
                tx.add_descs(&endless).expect("room");
            })?;
        }
        // As long as the ring is allowed.
        let mut longest = vec![Desc { flags: NEXT, ..GOOD }; SIZE.into()];
        longest[usize::from(SIZE) - 1].flags = 0;
        ensure!(target.attack(1, |tx| _ = tx.add_descs(&longest).expect("room"))? == Fate::Used);
        Ok(())
    })
}

/// A chain of posted buffers that runs into those which the device has or had before: it is refused, or filled as it
/// stands.
#[test]
fn packed_chains_that_run_into_others() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    for frames in [1, 4, 20] {
        let posting = Posting { count: 4, len: 2048 };
        let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | PACKED, 8, posting)?;
        nic.exchange(b"one of four is used")?;
        for _ in 0..5 {
            nic.rx.packed().offer(Desc { flags: NEXT | WRITE, ..GOOD });
        }
        nic.rx.kick.write(1)?;
        (0..frames).try_for_each(|_| nic.host_sends(b"a reason to look"))?;
        nic.send(b"the transmit ring lives", 1)?;
        let again = Posting { count: 8, len: 2048 };
        let mut nic = {
            drop(nic);
            ScriptedNic::start(&ns, &vnicd, FEATURES | PACKED, 8, again)?
        };
        nic.exchange(b"and so does the daemon").with_context(|| format!("after {frames} frames"))?;
    }
    Ok(())
}

/// An id is the driver's to choose; whether one that no ring of this size has is given back or refused, is the device's.
#[test]
fn packed_buffers_with_ids_out_of_range() -> Result<()> {
    on_packed_rings(|target| {
        if target.nic.tx.format().in_order {
            // The driver could not tell how many of them a used one stands for.
            return Ok(());
        }
        for id in [0, SIZE, SIZE + 1, 0x7fff, 0x8000, 0xffff] {
            let fate = target.attack(2, |tx| {
                (0..2).for_each(|_| tx.packed().offer(Desc { next: id, ..GOOD }));
            })?;
            ensure!(fate == Fate::Used || id >= SIZE, "twice the id {id} broke the ring");
        }
        Ok(())
    })
}

/// Places that the ring does not have: the message, the start of the ring, or the ring is refused.
#[test]
fn packed_bases_out_of_range() -> Result<()> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    for half in [u32::from(SIZE), 0x7fff, 0x8000 | u32::from(SIZE), 0xffff] {
        let mut client = Client::start(vnicd.socket(), FEATURES | PACKED)?;
        let tx = client.queue(1, SIZE)?;
        client.describe_queue(&tx)?;
        let started = client.set_base(1, half << 16 | half);
        let started = started.and_then(|()| Ok(client.front.set_vring_kick(1, &tx.kick)?));
        ensure!(started.is_err() || is_signalled(&tx.err, PATIENCE), "a ring started at {half:#x}");
    }
    let posting = Posting { count: 8, len: 2048 };
    ScriptedNic::start(&ns, &vnicd, FEATURES | PACKED, SIZE, posting)?.send(b"the daemon lives", 1)
}

/// What is not offered at the place where the device looks is not offered.
#[test]
fn packed_descriptors_with_wrong_wrap_bits_are_not_seen() -> Result<()> {
    on_packed_rings(|target| {
        for round in 0..u16::from(u8::MAX) {
            let (slot, bits) = target.nic.tx.packed().next_slot();
            let wrong = [AVAIL ^ USED ^ bits, 0, AVAIL | USED][usize::from(round) % 3];
            target.nic.tx.packed().write_slot(slot, Desc { flags: wrong, ..GOOD });
            // The one after it is offered rightly; it is none without the first.
            let ahead = (slot + 1) % SIZE;
            let there = if ahead == 0 { AVAIL ^ USED ^ bits } else { bits };
            target.nic.tx.packed().write_slot(ahead, Desc { flags: there, ..GOOD });
            target.nic.tx.kick.write(1)?;
            the_other_ring_lives(target)?;
            ensure!(!target.is_broken(), "the ring is broken");
            let used = target.nic.tx.packed().flags(ahead) & (AVAIL | USED);
            ensure!(used == there, "round {round}: a descriptor was used that was not offered");
            // In its place now, both are seen.
            let fate = target.attack(2, |tx| (0..2).for_each(|_| _ = tx.add(&[(SCRAP, 64)], false).expect("room")))?;
            ensure!(fate == Fate::Used);
        }
        Ok(())
    })
}

#[test]
fn packed_rings_of_random_descriptors() -> Result<()> {
    const ROUNDS: u32 = 400;
    on_packed_rings(|target| {
        let mut state = 0x1234_5678u32;
        let mut below = move |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % n
        };
        let mut broken = 0;
        for round in 0..ROUNDS {
            for _ in 0..1 + below(8) {
                let desc = Desc {
                    address: if below(10) == 0 { below(1 << 30).into() } else { SCRAP + u64::from(below(4096)) },
                    len: [0, 12, 64, 160, 2000, below(1 << 20)][below(6) as usize],
                    flags: [0, 0, 0, NEXT, WRITE, INDIRECT, NEXT | INDIRECT, 0x7f7f][below(8) as usize],
                    next: below(1 << 16) as u16,
                };
                let slot = below(SIZE.into()) as u16;
                match below(10) {
                    0 => target.nic.tx.packed().change_flags(slot, |flags| flags ^ AVAIL),
                    1 => target.nic.tx.packed().change_flags(slot, |flags| flags ^ USED),
                    2 => target.nic.tx.packed().write_slot(slot, desc),
                    3 => target.nic.tx.packed().flip_wrap(),
                    _ => target.nic.tx.packed().offer(desc),
                }
            }
            target.nic.tx.kick.write(1)?;
            the_other_ring_lives(target)?;
            // Where the device waits for a descriptor that never comes, nothing happens any more.
            if target.is_broken() || round % 4 == 3 {
                broken += u32::from(target.restart()?);
            }
        }
        ensure!(broken > ROUNDS / 10, "{broken} of {ROUNDS} rounds broke the ring: they hardly tried");
        target.restart().map(drop)
    })
}

/// Whatever stands where the driver says when it wants to be called.
#[test]
fn event_areas_full_of_nonsense() -> Result<()> {
    in_each_format(|target| {
        let layout = target.nic.tx.layout;
        let memory = target.nic.client.memory.map.clone();
        let packed = target.nic.tx.format().packed;
        let used_event = layout.avail + 4 + u64::from(SIZE) * 2;
        for flags in [0u16, 1, 2, 3, 0xfffc, 0xffff] {
            for event in [0u16, SIZE, 0x7fff, 0x8000, 0x8000 | SIZE, 0xffff] {
                let (flags_at, event_at) =
                    if packed { (layout.avail + 2, layout.avail) } else { (layout.avail, used_event) };
                memory.write_obj(flags, GuestAddress(flags_at))?;
                memory.write_obj(event, GuestAddress(event_at))?;
                let fate = target.attack(3, |tx| (0..3).for_each(|_| _ = tx.add(&[(SCRAP, 64)], false)))?;
                ensure!(fate == Fate::Used, "flags {flags:#x}, event {event:#x}");
            }
        }
        target.restart().map(drop)
    })
}
