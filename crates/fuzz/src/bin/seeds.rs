//! Writes the inputs that a target begins with: seeds TARGET DIRECTORY.

use std::path::PathBuf;
use std::process::ExitCode;

use gaffer_fuzz::TARGETS;

#[expect(clippy::print_stderr, reason = "it is a program")]
fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(dir)) = (args.next(), args.next().map(PathBuf::from)) else {
        eprintln!("usage: seeds TARGET DIRECTORY");
        return ExitCode::from(2);
    };
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("there is no target {name}");
        return ExitCode::from(2);
    };
    for (index, seed) in (target.seeds)().iter().enumerate() {
        if let Err(error) = std::fs::write(dir.join(format!("seed-{index}")), seed) {
            eprintln!("cannot write to {}: {error}", dir.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
