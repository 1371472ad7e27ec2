//! Seeds for randomised tests; a failure prints its seed.

#![allow(clippy::print_stderr)]

use std::ops::Range;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Follows one course for each seed.
pub fn each(seeds: Range<u64>, mut course: impl FnMut(StdRng)) {
    for seed in seeds {
        let _named = NamedOnFailure(seed);
        course(StdRng::seed_from_u64(seed));
    }
}

struct NamedOnFailure(u64);

impl Drop for NamedOnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this happened with seed {}", self.0);
        }
    }
}
