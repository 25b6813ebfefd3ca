//! A hostile driver of a packed ring. See `vnicd_fuzz::ring`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vnicd_fuzz::ring::{Case, run};

fuzz_target!(|case: Case| run(case, true));
