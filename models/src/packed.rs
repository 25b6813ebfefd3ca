//! Places in a packed ring, and what is written there (virtio 1.3, 2.8.1 and 2.8.10).

use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::sync::atomic::{AtomicU16, Ordering};

use crate::passes;

/// Entries of the rings in the models.
pub const SIZE: u16 = 4;

/// Kicks or calls at every descriptor.
pub const ENABLE: u16 = 0;
/// None.
pub const DISABLE: u16 = 1;
/// At the place that is asked for.
pub const DESC: u16 = 2;

const F_AVAIL: u16 = 1 << 7;
const F_USED: u16 = 1 << 15;

/// An index and the wrap counter that goes with it, as an event area holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u16);

impl Place {
    /// The last entry, first time round: whoever goes on from here wraps.
    pub const START: Self = Self(SIZE - 1).with_wrap();

    const WRAP: u16 = 1 << 15;

    const fn with_wrap(self) -> Self {
        Self(self.0 | Self::WRAP)
    }

    /// Where it is in the ring.
    #[must_use]
    pub fn index(self) -> usize {
        (self.0 & !Self::WRAP).into()
    }

    fn wrap(self) -> bool {
        self.0 & Self::WRAP != 0
    }

    /// The next place.
    #[must_use]
    pub fn next(self) -> Self {
        if self.index() + 1 < usize::from(SIZE) { Self(self.0 + 1) } else { Self(!self.0 & Self::WRAP) }
    }

    /// The place before.
    #[must_use]
    pub fn previous(self) -> Self {
        if self.index() > 0 { Self(self.0 - 1) } else { Self((SIZE - 1) | (!self.0 & Self::WRAP)) }
    }

    /// Flags of a descriptor here that the driver made available.
    #[must_use]
    pub fn avail_flags(self) -> u16 {
        if self.wrap() { F_AVAIL } else { F_USED }
    }

    /// Flags of a descriptor here that the device has used.
    #[must_use]
    pub fn used_flags(self) -> u16 {
        if self.wrap() { F_AVAIL | F_USED } else { 0 }
    }

    /// Whether this place is one of those that brought a side from `old` to `new`: the comparison of split rings on
    /// indices that count on where the ring wraps.
    fn is_passed(self, new: Self, old: Self) -> bool {
        let turn = |place: Self| if place.wrap() == new.wrap() { 0 } else { SIZE };
        let number = |place: Self| (place.index() as u16).wrapping_sub(turn(place));
        passes(number(self), number(new), number(old))
    }
}

/// An event area: where one side tells the other when it wants to be woken.
#[derive(Debug)]
pub struct EventArea {
    off_wrap: AtomicU16,
    flags: AtomicU16,
}

impl EventArea {
    /// One that asks for the place behind which both sides start: they passed it long ago.
    #[must_use]
    pub fn new(flags: u16) -> Self {
        Self { off_wrap: AtomicU16::new(Place::START.previous().0), flags: AtomicU16::new(flags) }
    }

    /// Asks for nothing.
    pub fn suppress(&self) {
        self.flags.store(DISABLE, Relaxed);
    }

    /// Asks for everything.
    pub fn ask(&self) {
        self.flags.store(ENABLE, Relaxed);
    }

    /// Asks for `place`. Release: who sees that one place is asked for sees which.
    pub fn ask_for(&self, place: Place) {
        self.ask_for_in(Release, place);
    }

    /// The same in any order.
    pub fn ask_for_in(&self, order: Ordering, place: Place) {
        self.off_wrap.store(place.0, Relaxed);
        self.flags.store(DESC, order);
    }

    /// What is asked for: flags, and the place, which is looked at afterwards and only if it counts.
    #[must_use]
    pub fn read(&self) -> (u16, Option<Place>) {
        self.read_in(Acquire)
    }

    /// The same in any order.
    #[must_use]
    pub fn read_in(&self, order: Ordering) -> (u16, Option<Place>) {
        let flags = self.flags.load(order);
        (flags, (flags == DESC).then(|| Place(self.off_wrap.load(Relaxed))))
    }

    /// Whether the step from `old` to `new` is asked for. Nothing is known before the first, which is.
    #[must_use]
    pub fn wants(&self, new: Place, old: Option<Place>) -> bool {
        match (self.read(), old) {
            ((DESC, Some(place)), Some(old)) => place.is_passed(new, old),
            ((flags, _), _) => flags != DISABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_passed_across_the_end() {
        let places: Vec<Place> =
            std::iter::successors(Some(Place::START), |place| Some(place.next())).take(9).collect();
        assert_eq!(places[8], Place::START);
        for (old, new, passed) in [(0, 1, vec![0]), (0, 2, vec![0, 1]), (3, 7, vec![3, 4, 5, 6]), (4, 4, vec![])] {
            for (event, place) in places[..8].iter().enumerate() {
                assert_eq!(place.is_passed(places[new], places[old]), passed.contains(&event), "{old} {new} {event}");
                assert_eq!(place.next().previous(), *place);
            }
        }
    }
}
