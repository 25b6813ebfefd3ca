//! Where a packed ring stands, as one word of its record.
//!
//! | bits | what they hold |
//! |--|--|
//! | 0 to 15 | the place of the next used descriptor |
//! | 16 to 31 | the place of the first one of the last burst, if there was a burst |
//! | 32 to 47 | the buffer id in it |
//! | 48 to 63 | 1: there was a burst; 2: there was none |
//!
//! The word is written just before the first descriptor of a burst, which the driver looks for, and after all others. So if
//! that one is not written, the rest of the burst is, and the word tells what is missing.

use super::place::Place;

const PUBLISHED: u64 = 1;
const STARTED: u64 = 2;

/// Where a ring stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stand {
    /// The place of the next used descriptor.
    pub(super) next: Place,
    /// The place of the first descriptor of the last burst, and the buffer id in it.
    pub(super) published: Option<(Place, u16)>,
}

impl Stand {
    /// A ring that starts.
    pub(super) fn started(next: Place) -> Self {
        Self { next, published: None }
    }
}

impl From<Stand> for u64 {
    #[inline]
    fn from(Stand { next, published }: Stand) -> Self {
        match published {
            Some((first, id)) => {
                Self::from(next.0) | Self::from(first.0) << 16 | Self::from(id) << 32 | PUBLISHED << 48
            }
            None => Self::from(next.0) | STARTED << 48,
        }
    }
}

impl TryFrom<u64> for Stand {
    type Error = ();

    /// Fails for a word that no ring has written.
    fn try_from(word: u64) -> Result<Self, ()> {
        let [next, first, id, kind] = [0, 16, 32, 48].map(|shift| (word >> shift) as u16);
        match kind.into() {
            PUBLISHED => Ok(Self { next: Place(next), published: Some((Place(first), id)) }),
            STARTED => Ok(Self::started(Place(next))),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_what_was_put_into_it() {
        let published = Stand { next: Place(0x8007), published: Some((Place(0x00ff), 0xfffe)) };
        for stand in [published, Stand::started(Place(0x8000)), Stand::started(Place(0))] {
            assert_eq!(Stand::try_from(u64::from(stand)), Ok(stand));
        }
        assert_eq!(Stand::try_from(0), Err(()));
        assert_eq!(Stand::try_from(u64::MAX), Err(()));
    }
}
