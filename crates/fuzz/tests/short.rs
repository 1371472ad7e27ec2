//! A short run of every target: what gaffer itself makes, what a fuzzer found before, and a few thousand variations of both.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use gaffer_fuzz::mutations::mutated;
use gaffer_fuzz::{TARGETS, Target};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Variations of each target.
const VARIATIONS: usize = 3_000;

/// The known inputs of a target.
fn known(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let found = paths.iter().map(|path| fs::read(path).unwrap());
    (target.seeds)().into_iter().chain(found).collect()
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let known = known(target);
    let mut rng = StdRng::seed_from_u64(1);
    for n in 0..known.len() + VARIATIONS {
        let input = match known.get(n) {
            Some(input) => input.clone(),
            None => {
                let (one, other) = (known.choose(&mut rng).unwrap(), known.choose(&mut rng).unwrap());
                mutated(&mut rng, one, other)
            }
        };
        if catch_unwind(|| (target.check)(&input)).is_err() {
            panic!("input {n} of {name} does not hold:\n{}", input.escape_ascii());
        }
    }
}

macro_rules! run_each {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            names.sort_unstable();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

run_each! { archives constraints cursors frames output redactor renderer search specs spool }
