//! The rings against driver models, against another implementation, and against hostile drivers.

mod differential;
mod guest;
mod marks;
mod mock;
mod model;
mod packed_driver;
mod packed_events;
mod packed_hostile;
mod packed_resume;
mod race;
mod split_driver;
mod split_events;
mod split_hostile;
mod verbs;

use proptest::test_runner::Config;

/// How often a property is tried; Miri is some hundred times slower.
fn cases(cases: u32) -> Config {
    Config::with_cases(if cfg!(miri) { 3 } else { cases })
}
