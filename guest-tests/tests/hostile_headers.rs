//! Virtio-net headers that have broken other back ends: in shreds, at their extremes, changing while they are read, and
//! frames that hardly are any. Tests bear the number of the fault that they come from.

use anyhow::{Context, Result, ensure};
use guest_tests::driver::GUEST_BASE;
use guest_tests::driver::target::{FEATURES, Fate, SIZE, in_each_format, in_each_format_with, while_changing};
use vm_memory::{Bytes, GuestAddress};

/// A page of shared memory that no test looks into.
const SCRAP: u64 = GUEST_BASE + (15 << 20);

/// CVE-2022-2132: headers in shreds, chains that are a header only, chains that are not even that.
#[test]
fn cve_2022_2132_headers_in_shreds() -> Result<()> {
    in_each_format(|target| {
        let at = target.nic.client.memory.allocate(4096);
        let frame = [&[0; 12][..], &target.nic.frame(b"in shreds")?].concat();
        target.nic.client.memory.map.write_slice(&frame, GuestAddress(at))?;
        let shreds = |count: u64| (0..count).map(move |n| (at + n, 1)).collect::<Vec<_>>();
        let whole = [shreds(12), vec![(at + 12, frame.len() as u32 - 12)]].concat();
        let table = target.nic.client.memory.allocate(4096);
        for buffers in [whole, shreds(frame.len() as u64)] {
            ensure!(target.attack(1, |tx| _ = tx.add(&buffers, false).expect("room"))? == Fate::Used);
            target.nic.host_receives(b"in shreds")?;
            ensure!(target.attack(1, |tx| _ = tx.add_indirect(table, &buffers, false).expect("room"))? == Fate::Used);
            target.nic.host_receives(b"in shreds")?;
        }
        for header_only in [shreds(12), vec![(at, 12)], vec![(at, 11), (at, 1)], vec![(at, 0), (at, 12), (at, 0)]] {
            ensure!(target.attack(1, |tx| _ = tx.add(&header_only, false).expect("room"))? == Fate::Used);
        }
        for less in [shreds(11), vec![(at, 11)], vec![(at, 0)], vec![(at, 0); SIZE.into()]] {
            target.breaks(&format!("{less:?}"), |tx| _ = tx.add(&less, false).expect("room"))?;
            target.breaks(&format!("{less:?}"), |tx| _ = tx.add_indirect(table, &less, false).expect("room"))?;
        }
        Ok(())
    })
}

/// CVE-2024-11614: every field of the header at its ends, with every feature that has them looked at.
#[test]
fn cve_2024_11614_headers_at_their_extremes() -> Result<()> {
    /// CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN.
    const OFFLOADS: u64 = 1 | 1 << 11 | 1 << 12 | 1 << 13;
    const EXTREMES: [u16; 4] = [0, 1, 42, 0xffff];
    in_each_format_with(FEATURES | OFFLOADS, |target| {
        let frame = target.nic.frame(&[7; 100])?;
        // Of a protocol for experiments (IEEE 802): none of these is for the host's socket.
        let frame = [&frame[..12], &[0x88, 0xb5], &frame[14..]].concat();
        let words = (0..4usize.pow(4)).map(|n| [0, 1, 2, 3].map(|place| EXTREMES[n >> (2 * place) & 3]));
        for [hdr_len, gso_size, csum_start, csum_offset] in words {
            for (flags, gso_type) in [(0, 0), (1, 0), (1, 1), (1, 4), (0, 1), (1, 5), (0xff, 0x81), (1, 0xff), (4, 3)] {
                let mut header = vec![flags, gso_type];
                for word in [hdr_len, gso_size, csum_start, csum_offset, 0xffff] {
                    header.extend(word.to_le_bytes());
                }
                target.nic.send_raw(&header, &frame, 1).with_context(|| format!("{header:x?}"))?;
            }
        }
        ensure!(!target.is_broken(), "a header broke the ring");
        Ok(())
    })
}

/// CVE-2024-11614 again: what was checked must be what is used.
#[test]
fn cve_2024_11614_headers_that_change_while_they_are_read() -> Result<()> {
    const OFFLOADS: u64 = 1 | 1 << 11;
    in_each_format_with(FEATURES | OFFLOADS, |target| {
        let at = target.nic.client.memory.allocate(4096);
        let memory = target.nic.client.memory.map.clone();
        let headers = [[0u8; 10], [1, 0, 0, 0, 0, 0, 34, 0, 6, 0], [1, 1, 54, 0, 0, 2, 0xff, 0xff, 0xff, 0xff]];
        let change = |n: u32| memory.write_slice(&headers[n as usize % 3], GuestAddress(at)).expect("it is shared");
        while_changing(change, || {
            for _ in 0..2000 {
                ensure!(target.attack(1, |tx| _ = tx.add(&[(at, 600)], false).expect("room"))? == Fate::Used);
            }
            Ok(())
        })
    })
}

/// CVE-2024-41090, CVE-2024-41091: frames shorter than an Ethernet header.
#[test]
fn cve_2024_41090_frames_shorter_than_their_header() -> Result<()> {
    in_each_format(|target| {
        for len in 0..14u32 {
            let cut = 12 + len / 2;
            for pieces in [vec![(SCRAP, 12 + len)], vec![(SCRAP, cut), (SCRAP + u64::from(cut), 12 + len - cut)]] {
                let fate = target.attack(1, |tx| _ = tx.add(&pieces, false).expect("room"))?;
                ensure!(fate == Fate::Used, "a frame of {len} bytes broke the ring");
            }
        }
        Ok(())
    })
}
