//! The real program, as a process.

use std::path::PathBuf;

/// The `gaffer` program that was built beside these tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("gaffer");
    assert!(program.exists(), "{} is missing: build it with `cargo build`", program.display());
    program
}
