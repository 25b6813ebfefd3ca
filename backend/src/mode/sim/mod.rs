//! A worker on a virtual clock: the governor against traffic, with what rounds, packets and wake-ups cost.
//!
//! The costs are those of a model, the same on every machine and in every run.

mod bounds;
mod loads;
mod outcome;
mod properties;
mod traffic;
mod worker;

use outcome::Outcome;
use traffic::Traffic;
use worker::{Costs, Sim};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
