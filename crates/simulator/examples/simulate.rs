//! Runs traces through every strategy, or makes one.
//!
//! `cargo run --release -p gaffer-domain --example simulate -- TRACE.csv MACHINES...` prints a table;
//! MACHINES are written `10x8:16GiB:100GiB`.
//!
//! `cargo run -p gaffer-domain --example simulate -- generate SHAPE SEED SUBMISSIONS` prints a trace. Those in
//! `tests/traces` are `generate heavy_tail 1 1200`, `generate bursts 2 800` and `generate mixed_sizes 3 1200`.

#![allow(clippy::print_stdout)]

use gaffer_domain::placement::Strategy;
use gaffer_protocol::trace;
use gaffer_simulator::generate::{Shape, generate};
use gaffer_simulator::{Machines, simulate, table};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["generate", shape, seed, submissions] => {
            let known = Shape::ALL.iter().find(|(name, _)| *name == shape);
            let (_, shape) = known.ok_or("there are heavy_tail, bursts and mixed_sizes")?;
            print!("{}", trace::write(&generate(*shape, seed.parse()?, submissions.parse()?)));
        }
        [path, ref machines @ ..] if !machines.is_empty() => {
            let arrivals = trace::read(&std::fs::read_to_string(path)?)?;
            let fleet: Vec<Machines> = machines.iter().map(|kind| kind.parse()).collect::<Result<_, _>>()?;
            let outcomes: Vec<_> =
                Strategy::ALL.iter().map(|strategy| simulate(&fleet, &arrivals, *strategy, 1.0)).collect();
            print!("{}", table(&outcomes));
        }
        _ => return Err("usage: simulate TRACE.csv MACHINES... | generate SHAPE SEED SUBMISSIONS".into()),
    }
    Ok(())
}
