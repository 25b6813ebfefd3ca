//! Goes on with a packed ring whose device ended at any point of its work, by its record.
//!
//! A burst is written in this order: the used descriptors of all its chains but the first; where the ring stands then, into
//! the record; the first one's, which the driver looks for. So a daemon that was killed has left one of three things:
//!
//! - nothing that was begun;
//! - a burst that is in the record and not shown: the first descriptor is written;
//! - used descriptors behind one that the driver still has available: the chains that they are for are all that is known
//!   of that burst. It ends with the last of them.
//!
//! What the descriptors or the record tell of is not done again. Frames for the guest of which it is not known how much was
//! written come to it as empty ones, which a driver drops.
//!
//! A front end may work on a ring that has lost its device: QEMU drops what the guest sends while the link is down. It
//! begins where it said that the ring stands, as it knows nothing better, and says afterwards where that ended. So the
//! device has to use all that is available up to where it began, and goes on where it ended.

use std::sync::Arc;

use super::chain::{DESC_SIZE, F_NEXT, F_WRITE};
use super::packed::{EVENT_SIZE, FLAGS, OFF_WRAP};
use super::place::{F_AVAIL, F_USED, Place};
use super::stand::Stand;
use super::{Access, RingLog, RingSetup};
use crate::memory::{Entries, MemoryTable};
use crate::record::RingRecord;

/// Finishes what the device of the ring that `record` tells of had begun: where the ring goes on (vhost-user,
/// `VHOST_USER_SET_VRING_BASE`). None if the record tells nothing, or if the driver has reset the ring since, or if the
/// front end, which says that the ring stands at `base`, knows better.
pub fn resume(
    table: &Arc<MemoryTable>,
    setup: &RingSetup,
    record: &RingRecord,
    base: u32,
    log: Option<&RingLog>,
) -> Option<u32> {
    let stand = Stand::try_from(record.stand()?).ok()?;
    if !was_served(table, setup) {
        return None;
    }
    let desc = table.entries(setup.desc, setup.size.into(), 16).ok()?;
    let ring = Recovered { desc, setup, log };
    let front_end = (base != record.told()).then(|| (Place::of_base(record.told()), Place::of_base(base)));
    let next = match front_end {
        None => ring.finish(stand, None, record),
        Some((began, ended)) => ring.go_on_behind(stand, began, ended, record),
    };
    next.map(Place::base)
}

/// Whether a device has served this packed ring since its driver set it up: a device leaves no zeroes in its event area. It
/// asks for kicks at a place, or for none, or says that it was there.
#[must_use]
pub fn was_served(table: &Arc<MemoryTable>, setup: &RingSetup) -> bool {
    let event = table.window(setup.used, EVENT_SIZE, 4);
    event.is_ok_and(|event| (event.load_u16(OFF_WRAP), event.load_u16(FLAGS)) != (0, 0))
}

/// A ring as its device left it.
struct Recovered<'a> {
    desc: Entries<DESC_SIZE>,
    setup: &'a RingSetup,
    log: Option<&'a RingLog>,
}

/// Whose a descriptor is, seen from a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The driver has made it available.
    Device,
    /// The device has used it.
    Driver,
    /// It was not reached yet in this round, or is available in the next one.
    Another,
}

impl Recovered<'_> {
    /// Finishes what was begun before `limit`, beyond which another has worked. Says where the ring stands then; nothing
    /// if it does not look like this ring.
    fn finish(&self, stand: Stand, limit: Option<Place>, record: &RingRecord) -> Option<Place> {
        let Stand { next, published } = stand;
        let in_ring = |place: Place| place.index() < self.setup.size;
        if !in_ring(next) {
            return None;
        }
        if let Some((first, id)) = published.filter(|(first, _)| in_ring(*first))
            && self.owner(first) == Owner::Device
        {
            self.show(first, next, id);
        }
        let Some((end, id)) = self.unrecorded(next, limit) else { return Some(next) };
        record.set_stand(Stand { next: end, published: Some((next, id)) }.into());
        self.show(next, end, id);
        Some(end)
    }

    /// Finishes what the device had begun, where the front end has used what it found from `began` to `ended`. Says where
    /// the ring stands then; nothing if that is not what it looks like.
    fn go_on_behind(&self, stand: Stand, began: Place, ended: Place, record: &RingRecord) -> Option<Place> {
        let size = self.setup.size;
        if began.index() >= size || ended.index() >= size {
            return None;
        }
        if began.since(stand.next, size) < size.into() {
            let next = self.finish(stand, Some(began), record)?;
            self.use_all(next, began)?;
        } else {
            // Where one used descriptor stands for many, the others look as if they were available still.
            let next = self.finish(stand, None, record)?;
            if next.since(ended, size) < next.since(began, size) {
                return Some(next);
            }
        }
        // It may have used the first chain of a burst that the device was about to show.
        Some(self.used_end(ended, ended, None).unwrap_or(ended))
    }

    /// Uses all chains from `next` to `end`, where the front end began; none if that is not how the ring looks.
    fn use_all(&self, next: Place, end: Place) -> Option<()> {
        if next != end && self.owner(end) != Owner::Driver {
            return None;
        }
        let (mut chains, mut at) = (Vec::new(), next);
        while at != end {
            let (id, behind) = self.chain(at, Some(end))?;
            chains.push((at, id));
            at = behind;
        }
        // The first one last: the driver looks at no other before it.
        for (place, id) in chains.into_iter().rev() {
            self.store(place, id);
        }
        Some(())
    }

    /// Where the burst that begins at `first` ends, if there are used descriptors behind one that is available, and the
    /// id of its first chain.
    fn unrecorded(&self, first: Place, limit: Option<Place>) -> Option<(Place, u16)> {
        let (id, second) = self.chain(first, None)?;
        Some((self.used_end(first, second, limit)?, id))
    }

    /// Where the last chain ends of which there is a used descriptor at `at` or behind it, at most once round from `first`.
    fn used_end(&self, first: Place, mut at: Place, limit: Option<Place>) -> Option<Place> {
        let mut last = None;
        while at.since(first, self.setup.size) < self.setup.size.into() && Some(at) != limit {
            match self.owner(at) {
                Owner::Driver => last = Some(at),
                Owner::Device => {}
                Owner::Another => break,
            }
            at = at.after(1, self.setup.size);
        }
        let last = last?;
        // The rest of its chain lies behind it as the driver left it, and ends with the buffer's id, as any chain does.
        let behind = last.after(1, self.setup.size);
        Some(self.chain(behind, None).filter(|(id, _)| *id == self.second(last).id).map_or(behind, |(_, end)| end))
    }

    /// The buffer id of the chain at `first`, and the place behind it; none if no chain is available there. If the front end
    /// began at `began`, in the middle of the chain, it took the rest for a chain, which has the same id.
    fn chain(&self, first: Place, began: Option<Place>) -> Option<(u16, Place)> {
        let mut at = first;
        for _ in 0..self.setup.size {
            let desc = self.second(at);
            if Some(at) == began {
                return Some((desc.id, at));
            }
            if desc.owner(at) != Owner::Device {
                return None;
            }
            at = at.after(1, self.setup.size);
            if desc.flags & F_NEXT == 0 {
                return Some((desc.id, at));
            }
        }
        None
    }

    /// Shows the driver the burst from `first` to `end`, the first chain of which has this id.
    fn show(&self, first: Place, end: Place, id: u16) {
        let writes = self.setup.access == Access::Write;
        let mut at = first.after(1, self.setup.size);
        while writes && at != end {
            let desc = self.second(at);
            if desc.owner(at) == Owner::Driver {
                self.store(at, desc.id);
            }
            at = at.after(1, self.setup.size);
        }
        self.store(first, id);
    }

    /// Writes a used descriptor of which nothing was written.
    fn store(&self, place: Place, id: u16) {
        let write = if self.setup.access == Access::Write { F_WRITE } else { 0 };
        let flags = place.used_flags() | write;
        let rest = u64::from(id) << 32 | u64::from(flags) << 48;
        self.desc.view().store_second_release(place.index().into(), rest);
        if let Some(log) = self.log {
            log.pages().mark(self.setup.desc + u64::from(place.index()) * DESC_SIZE as u64, DESC_SIZE as u64);
        }
    }

    fn owner(&self, place: Place) -> Owner {
        self.second(place).owner(place)
    }

    fn second(&self, place: Place) -> Second {
        let word = self.desc.view().load_second_acquire(place.index().into());
        Second { id: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }
}

/// What the second word of a descriptor tells, but for the length.
#[derive(Clone, Copy, Debug)]
struct Second {
    id: u16,
    flags: u16,
}

impl Second {
    fn owner(self, place: Place) -> Owner {
        match self.flags & (F_AVAIL | F_USED) {
            flags if flags == place.avail_flags() => Owner::Device,
            flags if flags == place.used_flags() => Owner::Driver,
            _ => Owner::Another,
        }
    }
}
