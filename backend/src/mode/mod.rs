//! When a worker sleeps and when it looks again: decided from what it saw, apart from the loop that sees it.
//!
//! Three words are used everywhere in one sense. *Waiting*: kicks armed, worker asleep. *Draining*: woken, kicks off,
//! bursts until a round finds nothing more to move. *Polling*: kicks stay off across empty rounds.

#![forbid(unsafe_code)]

/// Who chooses the mode of a queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// The governor, by what it sees.
    #[default]
    Auto,
    /// It is interrupt mode.
    Interrupt,
    /// It is polling mode.
    Polling,
}

/// What one direction of a queue pair was like at the end of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Work was left that could be moved now.
    Ready,
    /// Nothing was left.
    #[default]
    Empty,
    /// What is left cannot be moved until something else happens: no receive buffers, uplink full or gone, ring not
    /// running. Never backlog.
    Blocked,
}

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
    use super::Direction::{Blocked, Empty, Ready};
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
        }
    }
}
