//! What must hold for any input from outside. Each `check` panics when it does not: a fuzzer runs them for as long as it is
//! let, and the tests run them briefly.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is what is looked for")]

pub mod archives;
pub mod constraints;
pub mod cursors;
pub mod frames;
pub mod mutations;
pub mod output;
pub mod pieces;
pub mod redactor;
pub mod renderer;
pub mod search;
pub mod specs;
pub mod spool;

/// A kind of input.
pub struct Target {
    /// Its name, also that of its directory below `corpus`.
    pub name: &'static str,
    /// Panics if something does not hold for this input.
    pub check: fn(&[u8]),
    /// Inputs to begin with, such as gaffer itself makes.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "archives", check: archives::check, seeds: archives::seeds },
    Target { name: "constraints", check: constraints::check, seeds: constraints::seeds },
    Target { name: "cursors", check: cursors::check, seeds: cursors::seeds },
    Target { name: "frames", check: frames::check, seeds: frames::seeds },
    Target { name: "output", check: output::check, seeds: output::seeds },
    Target { name: "redactor", check: redactor::check, seeds: redactor::seeds },
    Target { name: "renderer", check: renderer::check, seeds: renderer::seeds },
    Target { name: "search", check: search::check, seeds: search::seeds },
    Target { name: "specs", check: specs::check, seeds: specs::seeds },
    Target { name: "spool", check: spool::check, seeds: spool::seeds },
];
