//! The target that `TRANSHUME_FUZZ_TARGET` named when this was compiled, under libFuzzer. Chosen at
//! compile time, so that a program holds the code of its target alone: after every input libFuzzer
//! looks at the counters of all code there is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transhume_fuzz::{Target, target};

const TARGET: Target = target(env!("TRANSHUME_FUZZ_TARGET"));

fuzz_target!(|data: &[u8]| (TARGET.check)(data));
