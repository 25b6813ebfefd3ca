//! What happens, and how it is drawn.

use std::fmt;

use fastrand::Rng;

use crate::guest::Zone;

/// A kind of event, and how often it comes beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Daemon `a` is killed (SIGKILL) and started again.
    Kill,
    /// Daemon `a` ends in order (SIGTERM) and is started again.
    Restart,
    /// A front end loses its connection to a daemon that lives, and comes back.
    Reconnect,
    /// `ethtool -L` in a guest.
    Channels,
    /// A guest moves to a QEMU at the other daemon.
    Migrate,
    /// Memory is plugged into a guest, or taken out.
    Memory,
    /// A guest's processors stop and go on.
    Pause,
    /// A virtio-user client ends, and another one starts.
    Client,
}

/// All of them with their weights.
const KINDS: [(Kind, u32); 8] = [
    (Kind::Kill, 4),
    (Kind::Restart, 2),
    (Kind::Reconnect, 4),
    (Kind::Channels, 3),
    (Kind::Migrate, 4),
    (Kind::Memory, 3),
    (Kind::Pause, 1),
    (Kind::Client, 2),
];

/// Every kind once, in any order, to be taken from the end.
pub(super) fn each_once(random: &mut Rng) -> Vec<Kind> {
    let mut kinds = KINDS.map(|(kind, _)| kind).to_vec();
    random.shuffle(&mut kinds);
    kinds
}

/// One of them by weight.
pub(super) fn any(random: &mut Rng) -> Kind {
    let mut at = random.u32(0..KINDS.iter().map(|(_, weight)| weight).sum());
    let here = |(_, weight): &&(Kind, u32)| {
        let is_here = at < *weight;
        at = at.saturating_sub(*weight);
        is_here
    };
    KINDS.iter().find(here).map_or(Kind::Kill, |(kind, _)| *kind)
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// See [`Kind::Kill`].
    Kill,
    /// See [`Kind::Restart`].
    Restart,
    /// A guest's QEMU connects again.
    GuestReconnects(usize),
    /// A scripted client connects again.
    ClientReconnects(usize),
    /// A guest uses so many pairs.
    Channels(usize, u16),
    /// A guest migrates.
    Migrate(usize),
    /// A guest gets memory.
    Plug(usize, Zone),
    /// It loses what it got.
    Unplug(usize),
    /// A scripted client's memory table grows, or shrinks.
    ClientMemory(usize),
    /// A guest stands still for so many milliseconds.
    Pause(usize, u64),
    /// Another scripted client, with rings of the next format.
    NextClient(usize),
    /// Another testpmd.
    NextTestpmd,
}

impl Event {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kill => Kind::Kill,
            Self::Restart => Kind::Restart,
            Self::GuestReconnects(_) | Self::ClientReconnects(_) => Kind::Reconnect,
            Self::Channels(..) => Kind::Channels,
            Self::Migrate(_) => Kind::Migrate,
            Self::Plug(..) | Self::Unplug(_) | Self::ClientMemory(_) => Kind::Memory,
            Self::Pause(..) => Kind::Pause,
            Self::NextClient(_) | Self::NextTestpmd => Kind::Client,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "daemons killed",
            Self::Restart => "daemons ended in order",
            Self::Reconnect => "front ends that came back",
            Self::Channels => "ethtool -L",
            Self::Migrate => "migrations",
            Self::Memory => "memory plugged or unplugged",
            Self::Pause => "guests stopped and continued",
            Self::Client => "virtio-user clients replaced",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guest = |at: &usize| ["one", "two"][*at];
        let daemon = |at: &usize| ["a", "b"][*at];
        match self {
            Self::Kill => f.write_str("kill daemon a"),
            Self::Restart => f.write_str("end daemon a in order"),
            Self::GuestReconnects(at) => write!(f, "guest {} connects again", guest(at)),
            Self::ClientReconnects(at) => write!(f, "the client of daemon {} connects again", daemon(at)),
            Self::Channels(at, pairs) => write!(f, "guest {} uses {pairs} pairs", guest(at)),
            Self::Migrate(at) => write!(f, "migrate guest {}", guest(at)),
            Self::Plug(at, zone) => write!(f, "plug {zone:?} memory into guest {}", guest(at)),
            Self::Unplug(at) => write!(f, "unplug memory of guest {}", guest(at)),
            Self::ClientMemory(at) => write!(f, "memory of the client of daemon {}", daemon(at)),
            Self::Pause(at, ms) => write!(f, "stop guest {} for {ms} ms", guest(at)),
            Self::NextClient(at) => write!(f, "another client of daemon {}", daemon(at)),
            Self::NextTestpmd => f.write_str("another testpmd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_events_and_all_kinds_come() {
        let drawn = |seed| {
            let mut random = Rng::with_seed(seed);
            let mut kinds = each_once(&mut random);
            kinds.extend((0..500).map(|_| any(&mut random)));
            kinds
        };
        assert_eq!(drawn(5), drawn(5));
        assert_ne!(drawn(5), drawn(6));
        let drawn = drawn(5);
        for (kind, weight) in KINDS {
            let of_all: u32 = KINDS.iter().map(|(_, weight)| weight).sum();
            let (wanted, came) = (500 * weight / of_all, drawn[KINDS.len()..].iter().filter(|k| **k == kind).count());
            assert!(drawn[..KINDS.len()].contains(&kind) && came > wanted as usize / 3, "{kind}: {came} of {wanted}");
        }
    }
}
