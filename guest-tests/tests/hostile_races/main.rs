//! CVE-2020-14374, CVE-2020-14375, CVE-2020-14376, CVE-2020-14377, CVE-2020-14378: descriptors that change while the device
//! reads them, in rings of every format and in indirect tables, of either direction.
//!
//! A chain has two pieces. Of the second one, place and length are changed all the time, each to right values and wrong
//! ones. The ring breaks, or the packet is of one of the right places and lengths, and touches nothing else.

mod racer;

use anyhow::{Context, Result, bail, ensure};
use guest_tests::driver::GUEST_BASE;
use vm_memory::{Bytes, GuestAddress};

use self::racer::{HEAD, HEAD_LEN, PATIENCE, PLACES, Racer, race};

const LENGTHS: [usize; 2] = [300, 600];
/// Bytes of memory at each place: the last one is at the end of it.
const ROOM: [usize; 3] = [1024, 1024, 300];
/// A frame that the driver sends itself, and the buffers behind the chain that changes.
const OUT: u64 = GUEST_BASE + (12 << 20);
const BEHIND: u64 = GUEST_BASE + (13 << 20);
const BEHIND_LEN: u32 = 2048;
/// Bytes of the virtio-net header, and what memory holds that nobody wrote.
const HEADER_LEN: usize = 12;
const UNTOUCHED: u8 = 0xee;
/// What the first piece holds of a frame, and bytes of a frame that the driver receives.
const FIRST: u8 = 0x11;
const SENT: usize = 700;

impl Racer<'_> {
    /// A frame that was sent from changing pieces is of one of the right places and lengths.
    fn came_back(&mut self) -> Result<()> {
        let (_, len) = self.rx.wait_used(PATIENCE).context("what was sent did not come back")?;
        let bytes = self.read(BEHIND, len as usize)?;
        let (head, second) = bytes.split_at_checked(HEAD_LEN).context("a short frame")?;
        ensure!(head[HEADER_LEN..].iter().all(|byte| *byte == FIRST), "the first piece has changed: {head:02x?}");
        let place = PLACES.iter().position(|(_, byte)| second.iter().all(|sent| sent == byte));
        let place = place.with_context(|| format!("bytes of no right place or of several: {second:02x?}"))?;
        let right = LENGTHS.contains(&second.len()) && second.len() <= ROOM[place];
        ensure!(right, "{} bytes of place {place}", second.len());
        Ok(())
    }

    /// Sends a frame, different each time: as it must come back.
    fn send(&mut self, n: u32) -> Result<Vec<u8>> {
        let frame: Vec<u8> = (0..SENT as u32).map(|i| (i ^ i >> 8).wrapping_mul(7).wrapping_add(n) as u8).collect();
        self.memory.write_slice(&[&[0; HEADER_LEN], &frame[..]].concat(), GuestAddress(OUT))?;
        self.tx.add(&[(OUT, (HEADER_LEN + SENT) as u32)], false).context("the transmit ring is full")?;
        self.tx.kick.write(1)?;
        self.tx.wait_used(PATIENCE).context("the frame was not sent")?;
        // The uplink swaps the two addresses that open a frame.
        Ok([&frame[6..12], &frame[..6], &frame[12..]].concat())
    }

    /// A frame that came in changing pieces and in what was posted behind them lies there, and nothing lies beside it.
    fn lies(&self, frame: &[u8], used: &[(u16, u32)]) -> Result<()> {
        let &[(_, first), (_, behind)] = used else { bail!("{used:?} are not two chains") };
        let second = (HEADER_LEN + SENT).checked_sub(HEAD_LEN + behind as usize).context("too much")?;
        // One used element may stand for both chains.
        let told = first as usize == HEAD_LEN + second || (first == 0 && self.rx.format().in_order);
        ensure!(told && LENGTHS.contains(&second), "{first} and {behind} bytes of {} came", HEADER_LEN + SENT);
        let head = self.read(HEAD, HEAD_LEN)?;
        let (start, rest) = frame.split_at(HEAD_LEN - HEADER_LEN);
        ensure!(head[HEADER_LEN..] == *start && head[10..HEADER_LEN] == [2, 0], "the first piece: {head:02x?}");
        let mut holds = 0;
        for ((at, _), room) in PLACES.into_iter().zip(ROOM) {
            let bytes = self.read(at, room)?;
            let is_it = second <= room && bytes[..second] == rest[..second];
            let untouched = &bytes[if is_it { second } else { 0 }..];
            ensure!(untouched.iter().all(|byte| *byte == UNTOUCHED), "something more was written at {at:#x}");
            holds += u32::from(is_it);
        }
        ensure!(holds == 1, "{holds} places hold the second piece");
        let bytes = self.read(BEHIND, BEHIND_LEN as usize)?;
        let (last, untouched) = bytes.split_at(behind as usize);
        ensure!(last == &rest[second..] && untouched.iter().all(|byte| *byte == UNTOUCHED), "what is behind");
        Ok(())
    }
}

fn what_is_sent_is_of_one_right_place(in_table: bool) -> Result<()> {
    let prepare = |racer: &mut Racer| {
        racer.fill(HEAD, 0, HEADER_LEN)?;
        racer.fill(HEAD + HEADER_LEN as u64, FIRST, HEAD_LEN - HEADER_LEN)?;
        PLACES.into_iter().zip(ROOM).try_for_each(|((at, byte), room)| racer.fill(at, byte, room))
    };
    let mut is_posted = false;
    race(false, in_table, prepare, |racer, n, second| {
        if n == 0 || !is_posted {
            racer.rx.add(&[(BEHIND, BEHIND_LEN)], true).context("the receive ring is full")?;
            racer.rx.kick.write(1)?;
        }
        racer.offer(false, second)?;
        is_posted = racer.breaks(false, |racer| match racer.tx.take_used() {
            Some((_, 0)) => Ok(true),
            Some(other) => bail!("the device wrote to a packet: {other:?}"),
            None => Ok(false),
        })?;
        if !is_posted {
            racer.came_back()?;
        }
        Ok(is_posted)
    })
}

fn what_comes_lies_in_one_right_place(in_table: bool) -> Result<()> {
    let mut waits = None;
    race(
        true,
        in_table,
        |_| Ok(()),
        |racer, n, second| {
            let places = PLACES.into_iter().zip(ROOM).map(|((at, _), room)| (at, room));
            for (at, room) in places.chain([(HEAD, HEAD_LEN), (BEHIND, BEHIND_LEN as usize)]) {
                racer.fill(at, UNTOUCHED, room)?;
            }
            racer.offer(true, second)?;
            racer.rx.add(&[(BEHIND, BEHIND_LEN)], true).context("the receive ring is full")?;
            racer.rx.kick.write(1)?;
            // One that found the ring broken comes when it is mended.
            let frame = match waits.take().filter(|_| n > 0) {
                Some(frame) => frame,
                None => racer.send(n)?,
            };
            let mut used = Vec::new();
            let broke = racer.breaks(true, |racer| {
                used.extend(racer.rx.take_used());
                Ok(used.len() == 2)
            })?;
            if broke {
                waits = Some(frame);
            } else {
                racer.lies(&frame, &used)?;
            }
            Ok(broke)
        },
    )
}

#[test]
fn cve_2020_14374_transmit_descriptors_that_change() -> Result<()> {
    what_is_sent_is_of_one_right_place(false)
}

#[test]
fn cve_2020_14374_transmit_tables_that_change() -> Result<()> {
    what_is_sent_is_of_one_right_place(true)
}

#[test]
fn cve_2020_14374_receive_descriptors_that_change() -> Result<()> {
    what_comes_lies_in_one_right_place(false)
}

#[test]
fn cve_2020_14374_receive_tables_that_change() -> Result<()> {
    what_comes_lies_in_one_right_place(true)
}
