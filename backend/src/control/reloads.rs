//! Readings of the configuration that were asked for, by a signal or over the control socket, and what became of them.

use std::cell::RefCell;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Configuration;

/// What a reading of the configuration changed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Devices that were added.
    pub added: Vec<String>,
    /// Devices that were removed.
    pub removed: Vec<String>,
    /// Devices that were opened anew, with other options.
    pub changed: Vec<String>,
    /// Devices that could not be opened, and why: they are not there.
    pub failed: Vec<(String, String)>,
    /// Options that are taken at the next start.
    pub later: Vec<String>,
}

/// What is known of a reading.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was not done yet.
    Asked,
    /// It was done.
    Reloaded(Reloaded),
    /// Nothing was changed, for this reason.
    Refused(String),
}

/// Asks whoever changes devices, on the same thread, to do so soon. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Reloads(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    asked: u64,
    done: u64,
    last: Option<Outcome>,
    configuration: Configuration,
}

impl Reloads {
    /// Asks for one, and gives its number.
    pub fn ask(&self) -> u64 {
        let mut state = self.0.borrow_mut();
        state.asked += 1;
        state.asked
    }

    /// Whether one was asked for that was not done.
    #[must_use]
    pub fn are_asked(&self) -> bool {
        let state = self.0.borrow();
        state.asked > state.done
    }

    /// All that were asked for are done, with this outcome.
    pub fn done(&self, outcome: Outcome) {
        let mut state = self.0.borrow_mut();
        (state.done, state.last) = (state.asked, Some(outcome));
    }

    /// This is the configuration from now on.
    pub fn take(&self, configuration: Configuration) {
        self.0.borrow_mut().configuration = configuration;
    }

    /// The configuration that was taken last.
    pub(super) fn configuration(&self) -> Configuration {
        self.0.borrow().configuration.clone()
    }

    /// What became of number `number`; of one that was followed by others, what became of these.
    pub(super) fn outcome(&self, number: u64) -> Outcome {
        let state = self.0.borrow();
        state.last.clone().filter(|_| number <= state.done).unwrap_or(Outcome::Asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_that_of_all_who_asked_before() {
        let reloads = Reloads::default();
        assert!(!reloads.are_asked());
        let (first, second) = (reloads.ask(), reloads.ask());
        assert!(reloads.are_asked() && reloads.outcome(first) == Outcome::Asked);
        reloads.done(Outcome::Refused("line 3".into()));
        assert!(!reloads.are_asked() && reloads.outcome(first) == reloads.outcome(second));
        let third = reloads.ask();
        assert_eq!(reloads.outcome(third), Outcome::Asked);
        reloads.done(Outcome::Reloaded(Reloaded::default()));
        assert_eq!(reloads.outcome(third), Outcome::Reloaded(Reloaded::default()));
    }
}
