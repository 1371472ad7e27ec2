//! `gaffer simulate`: what would have become of a load under each strategy, in no time and without a master.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use gaffer_domain::placement::Strategy;
use gaffer_domain::simulate::{Machines, Outcome, simulate, table, trace};

use crate::failure::Failure;
use crate::out::Out;

/// What to simulate.
#[derive(Debug, Args)]
#[command(after_help = "\
A trace is a CSV file with a line for each submission, and this line above them:
  submit_seconds,duration_seconds,cpu,memory,disk,count,priority,project
where cpu, memory and disk are what one of `count` equal tasks reserves.

The tasks are placed by the same functions that place real ones.

Examples:
  gaffer simulate trace.csv 10x8:16GiB:100GiB
  gaffer simulate trace.csv 4x8:16GiB:100GiB 4x4:16GiB:100GiB --strategy spread --strategy binpack --json")]
pub struct SimulateArgs {
    /// The trace; - for standard input
    trace: PathBuf,
    /// The fleet: NUMBERxCPUS:MEMORY:DISK for each kind of machine
    #[arg(value_name = "MACHINES", required = true)]
    fleet: Vec<Machines>,
    /// Only with this strategy. May be repeated [default: each]
    #[arg(long = "strategy", value_name = "STRATEGY")]
    strategies: Vec<Strategy>,
    /// Print JSON: an object for each strategy
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// [`Failure::Usage`] for a trace that cannot be read, with line and column of the mistake.
pub fn run(args: &SimulateArgs, out: &Out) -> Result<u8, Failure> {
    let name = args.trace.display();
    let text = read(&args.trace).map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    let arrivals = trace::read(&text).map_err(|mistake| Failure::Usage(format!("{name}: {mistake}")))?;
    let strategies = if args.strategies.is_empty() { &Strategy::ALL[..] } else { &args.strategies[..] };
    let outcomes: Vec<Outcome> =
        strategies.iter().map(|strategy| simulate(&args.fleet, &arrivals, *strategy)).collect();
    if args.json {
        let text =
            serde_json::to_string_pretty(&outcomes).map_err(|error| Failure::Local(error.to_string()))?;
        out.line(&text)?;
    } else {
        out.print(table(&outcomes).as_bytes())?;
    }
    Ok(0)
}

fn read(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}
