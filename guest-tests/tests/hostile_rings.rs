//! What guests have broken other back ends with, over rings of every format. The ring is stopped with one log line, its
//! err eventfd and a count, or the packet is dropped or sent; the daemon and the other ring live on each time, and a
//! restart mends the ring. Tests bear the number of the fault that they come from; what changes while it is read is in
//! `hostile_races`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest_tests::driver::desc::{INDIRECT, NEXT, WRITE};
use guest_tests::driver::nic::{FORMATS, INDIRECT_DESC, PACKED};
use guest_tests::driver::target::{FEATURES, Fate, SIZE, in_each_format, in_each_format_with};
use guest_tests::driver::{Client, Desc, GUEST_BASE, Posting, Queue, ScriptedNic, SharedMemory, is_signalled};
use guest_tests::lab::beside;
use guest_tests::{NetNs, Vnicd};
use vhost::vhost_user::VhostUserFrontend;
use vm_memory::{Bytes, GuestAddress};

const PATIENCE: Duration = Duration::from_secs(10);
const POSTING: Posting = Posting { count: 32, len: 2048 };
/// Behind the shared memory.
const END: u64 = GUEST_BASE + (16 << 20);
/// A page of shared memory that no test looks into.
const SCRAP: u64 = GUEST_BASE + (15 << 20);

fn host() -> Result<(NetNs, Vnicd)> {
    let ns = NetNs::new()?;
    ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let vnicd = Vnicd::builder(&ns).start()?;
    Ok((ns, vnicd))
}

fn add(queue: &mut Queue, chain: &[Desc]) {
    queue.add_descs(chain).expect("the ring has room");
}

/// CVE-2018-1059: buffers that are not or not wholly in guest memory: alone, behind a good one, and in an indirect table.
#[test]
fn cve_2018_1059_buffers_beyond_memory() -> Result<()> {
    in_each_format(|target| {
        // A second region, so that there is a hole.
        let extra = SharedMemory::new(1 << 20)?;
        let mut region = target.nic.client.region();
        region.guest_phys_addr = 0x4000_0000;
        region.userspace_addr = 0x6000_0000_0000;
        region.memory_size = extra.size;
        region.mmap_handle = std::os::fd::AsRawFd::as_raw_fd(&extra.file);
        target.nic.client.front.add_mem_region(&region)?;
        let hole = region.guest_phys_addr + region.memory_size;
        let places = [
            (0, 64),
            (GUEST_BASE - 1, 64),
            (END - 63, 64),
            (END, 64),
            (hole - 1, 2),
            (hole, 1),
            (region.guest_phys_addr - 32, 64),
            (GUEST_BASE, u32::MAX),
            (u64::MAX, 1),
            (u64::MAX - 63, 64),
            (u64::MAX, u32::MAX),
        ];
        for (at, len) in places {
            let (good, bad) = (Desc::new(SCRAP, 64, NEXT), Desc::new(at, len, 0));
            let what = format!("{len} bytes at {at:#x}");
            target.breaks(&what, |tx| add(tx, &[Desc::new(at, len.max(12), 0)]))?;
            target.breaks(&format!("{what} behind others"), |tx| add(tx, &[good, bad]))?;
            target.breaks(&format!("{what} in a table"), |tx| {
                tx.write_table(SCRAP + 4096, &[Desc { next: 1, ..good }, bad]);
                add(tx, &[Desc::new(SCRAP + 4096, 32, INDIRECT)]);
            })?;
            let len = (len & !15).max(16);
            target.breaks(&format!("a table of {what}"), |tx| add(tx, &[Desc::new(at, len, INDIRECT)]))?;
        }
        target.nic.client.front.remove_mem_region(&region).map(drop).map_err(Into::into)
    })
}

/// CVE-2018-1059: each part of a ring just over the end of memory.
#[test]
fn cve_2018_1059_rings_beyond_memory() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        for part in 0..3 {
            let mut client = Client::start(vnicd.socket(), FEATURES | format)?;
            let mut queue = client.queue(1, SIZE)?;
            let inside = if format & PACKED != 0 && part > 0 { 0 } else { 16 };
            let layout = &mut queue.layout;
            *[&mut layout.desc, &mut layout.avail, &mut layout.used][part] = END - inside;
            let refused = client.start_queue(&queue).is_err();
            ensure!(refused || is_signalled(&queue.err, PATIENCE), "{name}: part {part} was accepted");
            drop(client);
            // The daemon takes the next front end when the one before has gone.
            let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, SIZE, POSTING)?;
            nic.send(b"out", 1)?;
            nic.exchange(b"in").with_context(|| format!("{name}, after part {part}"))?;
        }
    }
    Ok(())
}

/// CVE-2020-10725: a bad descriptor at each place of a batch of four: those before it are sent.
#[test]
fn cve_2020_10725_a_bad_descriptor_in_a_batch() -> Result<()> {
    in_each_format(|target| {
        let bad = [Desc::new(SCRAP, 0, 0), Desc::new(END, 64, 0), Desc::new(SCRAP, 11, 0), Desc::new(SCRAP, 64, WRITE)];
        for (bad, place) in bad.iter().flat_map(|bad| (0..4).map(move |place| (bad, place))) {
            let at = target.nic.client.memory.allocate(4 * 256);
            for n in 0..4u8 {
                let frame = [&[0; 12][..], &target.nic.frame(&[n; 9])?].concat();
                target.nic.client.memory.map.write_slice(&frame, GuestAddress(at + u64::from(n) * 256))?;
            }
            let fate = target.attack(4, |tx| {
                for n in 0..4u64 {
                    add(tx, &[if n == place { *bad } else { Desc::new(at + n * 256, 12 + 42 + 9, 0) }]);
                }
            })?;
            ensure!(fate == Fate::Broken, "{bad:?} at {place} was used");
            for n in 0..place as u8 {
                target.nic.host_receives(&[n; 9]).with_context(|| format!("before {bad:?} at {place}"))?;
            }
        }
        Ok(())
    })
}

/// CVE-2020-10725 among posted buffers; which of those before it are still filled, is the device's affair.
#[test]
fn cve_2020_10725_a_bad_receive_buffer_in_a_batch() -> Result<()> {
    let (ns, vnicd) = host()?;
    for (name, format) in FORMATS {
        for bad in [Desc::new(SCRAP, 0, WRITE), Desc::new(END, 2048, WRITE), Desc::new(SCRAP, 2048, 0)] {
            for place in 0..4 {
                let none = Posting { count: 0, len: 0 };
                let mut nic = ScriptedNic::start(&ns, &vnicd, FEATURES | format, SIZE, none)?;
                for n in 0..4 {
                    add(&mut nic.rx, &[if n == place { bad } else { Desc::new(SCRAP + 4096 * n, 2048, WRITE) }]);
                }
                nic.rx.kick.write(1)?;
                (0..4).try_for_each(|_| nic.host_sends(b"a reason to look"))?;
                ensure!(is_signalled(&nic.rx.err, PATIENCE), "{name}: {bad:?} at {place} was used");
                nic.send(b"the transmit ring lives", 1).with_context(|| name.to_owned())?;
            }
        }
    }
    Ok(())
}

/// Indirect tables of a wrong length, too long, nested, in chains (libvhost-user 85805ee887).
#[test]
fn libvhost_user_85805ee887_indirect_tables_that_are_none() -> Result<()> {
    in_each_format(|target| {
        let table = target.nic.client.memory.allocate(4096);
        let entries = vec![Desc { next: 1, ..Desc::new(SCRAP, 64, NEXT) }; usize::from(SIZE)];
        target.nic.tx.write_table(table, &entries);
        for len in [0, 1, 8, 15, 17, 24, 16 * (u32::from(SIZE) + 1), 0x1_0000, u32::MAX - 15, u32::MAX] {
            target.breaks(&format!("a table of {len} bytes"), |tx| add(tx, &[Desc::new(table, len, INDIRECT)]))?;
        }
        let in_chain = [Desc::new(table, 16, INDIRECT | NEXT), Desc::new(SCRAP, 64, 0)];
        target.breaks("a table that has a descriptor behind it", |tx| add(tx, &in_chain))?;

        // Behind a descriptor, a split ring may have a table. Nested, a split ring may not have one; in a packed ring's
        // table the flag means nothing.
        let packed = target.nic.tx.format().packed;
        target.nic.tx.write_table(table, &[Desc::new(SCRAP, 64, 0)]);
        let behind = [Desc::new(SCRAP, 64, NEXT), Desc::new(table, 16, INDIRECT)];
        let fate = target.attack(1, |tx| add(tx, &behind))?;
        ensure!(fate == if packed { Fate::Broken } else { Fate::Used }, "a table behind a descriptor: {fate:?}");
        target.nic.tx.write_table(table, &[Desc::new(table + 2048, 16, INDIRECT)]);
        let fate = target.attack(1, |tx| add(tx, &[Desc::new(table, 16, INDIRECT)]))?;
        ensure!(packed || fate == Fate::Broken, "a nested table was used");
        Ok(())
    })
}

#[test]
fn indirect_tables_that_were_not_agreed_on() -> Result<()> {
    in_each_format_with(FEATURES & !INDIRECT_DESC, |target| {
        target.nic.tx.write_table(SCRAP, &[Desc::new(SCRAP + 64, 64, 0)]);
        target.breaks("a table", |tx| add(tx, &[Desc::new(SCRAP, 16, INDIRECT)]))
    })
}

/// CVE-2019-3900: a ring full of buffers that hold nothing, over and over, keeps nobody else from being served.
#[test]
fn cve_2019_3900_rings_full_of_nothing() -> Result<()> {
    in_each_format(|target| {
        target.breaks("nothing", |tx| (0..SIZE).for_each(|_| add(tx, &[Desc::new(SCRAP, 0, 0)])))?;

        let spare = target.nic.client.queue(3, SIZE)?;
        let mut tx = std::mem::replace(&mut target.nic.tx, spare);
        let flood = |stop: &AtomicBool| {
            let mut chains = 0;
            while !stop.load(Ordering::Relaxed) {
                while tx.add(&[(SCRAP, 12)], false).is_some() {
                    chains += 1;
                }
                tx.kick.write(1)?;
                while tx.take_used().is_some() {}
            }
            while tx.wait_used(Duration::from_millis(200)).is_ok() {}
            Ok((tx, chains))
        };
        let (tx, chains) = beside(flood, || {
            (0..200u8).try_for_each(|n| {
                target.nic.host_sends(&[n; 50])?;
                target.nic.expect_and_post(&[n; 50], |_| false).map(drop)
            })
        })?;
        ensure!(chains > 500, "{chains} chains are no flood");
        target.nic.tx = tx;
        // Afterwards it is as quiet as before.
        let spent = target.vnicd.spends_in(Duration::from_millis(200))?;
        ensure!(spent.cpu <= Duration::from_millis(60), "the daemon spins: {spent:?}");
        Ok(())
    })
}
