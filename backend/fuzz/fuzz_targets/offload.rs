//! Frames and virtio-net headers of a hostile guest, which it changes while they are read. See `vnicd_fuzz::offload`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vnicd_fuzz::offload::{Case, run};

fuzz_target!(|case: Case| run(&case));
