//! The first rule that there was: drain while something can be moved, else wait, or look again if polling was asked for. The
//! worker still uses it.

use super::{Direction, Setting};

/// What a round over a queue pair saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Uplink to guest.
    pub rx: Direction,
    /// Guest to uplink.
    pub tx: Direction,
}

/// What the worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another round at once, kicks off.
    Drain,
    /// Another round soon, kicks off.
    Poll,
    /// Arm kicks and sleep.
    Wait,
}

/// Drain while a direction has work that can be moved, else wait; in polling mode, look again.
#[must_use]
pub fn decide(setting: Setting, seen: Seen) -> Decision {
    match seen {
        Seen { rx: Direction::Ready, .. } | Seen { tx: Direction::Ready, .. } => Decision::Drain,
        // Never spin on what cannot move.
        Seen { rx: Direction::Blocked, tx: Direction::Blocked } => Decision::Wait,
        _ if setting == Setting::Polling => Decision::Poll,
        _ => Decision::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direction::{Blocked, Empty, Ready};
    use super::*;

    #[test]
    fn only_what_can_be_moved_keeps_a_worker_awake() {
        for (rx, tx, decision) in [
            (Ready, Ready, Decision::Drain),
            (Ready, Blocked, Decision::Drain),
            (Empty, Ready, Decision::Drain),
            (Empty, Empty, Decision::Wait),
            (Blocked, Empty, Decision::Wait),
            (Blocked, Blocked, Decision::Wait),
        ] {
            assert_eq!(decide(Setting::Auto, Seen { rx, tx }), decision, "{rx:?} {tx:?}");
            assert_eq!(decide(Setting::Interrupt, Seen { rx, tx }), decision, "{rx:?} {tx:?}");
        }
    }
    #[test]
    fn polling_looks_again_at_what_is_empty_and_leaves_what_is_blocked() {
        for (rx, tx, decision) in [
            (Ready, Empty, Decision::Drain),
            (Empty, Empty, Decision::Poll),
            (Blocked, Empty, Decision::Poll),
            (Blocked, Blocked, Decision::Wait),
        ] {
            assert_eq!(decide(Setting::Polling, Seen { rx, tx }), decision, "{rx:?} {tx:?}");
        }
    }
}
