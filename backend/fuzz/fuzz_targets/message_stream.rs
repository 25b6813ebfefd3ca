//! A hostile front end. See `vnicd_fuzz::front_end`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vnicd_fuzz::front_end::{Case, run};

fuzz_target!(|case: Case| run(case));
