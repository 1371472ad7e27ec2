//! `gaffer simulate`: simulates a workload under each placement strategy, without a master.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use gaffer_domain::placement::Strategy;
use gaffer_domain::projects::Weight;
use gaffer_domain::quantity::{Bytes, Cpu, Span, shown};
use gaffer_domain::spec::Resources;
use gaffer_domain::worker::WorkerState;
use gaffer_protocol::rest::{Page, Worker};
use gaffer_protocol::trace;
use gaffer_simulator::{Machines, Outcome, Weights, simulate, simulate_shared, table};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::out::Out;

/// What to simulate.
#[derive(Debug, Args)]
#[command(after_help = "\
A trace is a CSV file with one line per submission and this header:
  submit_seconds,duration_seconds,cpu,memory,disk,count,priority,project
cpu, memory and disk are what each of `count` equal tasks reserves.

The simulation uses the placement code of the master.

With --history, the trace is the history of the server, and the fleet its online workers unless MACHINES are given.

Examples:
  gaffer simulate --history --since 7d
  gaffer simulate --history 10x8:16GiB:100GiB --write-trace trace.csv
  gaffer simulate trace.csv 10x8:16GiB:100GiB
  gaffer simulate trace.csv 10x8:16GiB:100GiB --weight lab=300 --weight bench=100
  gaffer simulate trace.csv 4x8:16GiB:100GiB 4x4:16GiB:100GiB --strategy spread --strategy binpack --json")]
pub struct SimulateArgs {
    /// Trace file (- for standard input), then machines
    ///
    /// Machines are written NUMBERxCPUS:MEMORY:DISK, one argument for each kind. With --history there is no trace file.
    #[arg(value_name = "TRACE|MACHINES")]
    words: Vec<String>,
    /// Use the server's history as the trace
    #[arg(long)]
    history: bool,
    /// Length of the history, e.g. 7d [default: 24h]
    #[arg(long, value_name = "TIME", requires = "history")]
    since: Option<Span>,
    /// Write the server's trace to this file
    #[arg(long, value_name = "FILE", requires = "history")]
    write_trace: Option<PathBuf>,
    /// Strategy to simulate (repeatable) [default: all]
    #[arg(long = "strategy", value_name = "STRATEGY")]
    strategies: Vec<Strategy>,
    /// Processors that tasks use, as a factor of what they reserve
    ///
    /// If the tasks of a machine use more processors than it has, all of them slow down equally.
    #[arg(long, value_name = "TIMES", default_value_t = 1.0)]
    overuse: f64,
    /// Weight of a project of the trace, e.g. lab=300 (repeatable)
    ///
    /// Projects that are not named have the weight 100. Without this option, projects of the trace are users of one project.
    #[arg(long = "weight", value_name = "PROJECT=NUMBER", value_parser = weight)]
    weights: Vec<(String, Weight)>,
    /// Print one JSON object per strategy
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Usage`] for a trace that cannot be read, with line and column of the mistake.
pub async fn run(args: &SimulateArgs, out: &Out) -> Result<u8, Failure> {
    let (name, text, fleet) = if args.history { from_server(args).await? } else { from_file(&args.words)? };
    let arrivals = trace::read(&text).map_err(|mistake| Failure::Usage(format!("{name}: {mistake}")))?;
    if arrivals.is_empty() {
        return Err(Failure::Usage(format!("{name}: the trace is empty")));
    }
    let strategies = if args.strategies.is_empty() { &Strategy::ALL[..] } else { &args.strategies[..] };
    let overuse = args.overuse;
    if !(0.01..=100.0).contains(&overuse) {
        return Err(Failure::Usage(format!(
            "--overuse: expected a number from 0.01 to 100, found {overuse}"
        )));
    }
    let weights: Weights = args.weights.iter().cloned().collect();
    if let Some(name) = weights.keys().find(|name| arrivals.iter().all(|row| row.project != **name)) {
        return Err(Failure::Usage(format!("--weight: the trace has no project {}", shown(name))));
    }
    let outcome = |strategy: &Strategy| match weights.is_empty() {
        true => simulate(&fleet, &arrivals, *strategy, overuse),
        false => simulate_shared(&fleet, &arrivals, *strategy, overuse, &weights),
    };
    let outcomes: Vec<Outcome> = strategies.iter().map(outcome).collect();
    if args.json {
        let text =
            serde_json::to_string_pretty(&outcomes).map_err(|error| Failure::Local(error.to_string()))?;
        out.line(&text)?;
    } else {
        out.print(table(&outcomes).as_bytes())?;
    }
    Ok(0)
}

/// The weight of a project, such as `lab=300`.
fn weight(text: &str) -> Result<(String, Weight), String> {
    let weight = |text: &str| Weight::new(text.parse().ok()?);
    let found = text.split_once('=').and_then(|(name, number)| Some((name.to_owned(), weight(number)?)));
    found.ok_or_else(|| {
        format!("expected PROJECT=NUMBER with a number from {} to {}", Weight::MIN, Weight::MAX)
    })
}

/// A trace with its name, and the machines that it is to run on.
type Load = (String, String, Vec<Machines>);

async fn from_server(args: &SimulateArgs) -> Result<Load, Failure> {
    let client = Client::new(&config::access()?)?;
    let query: Query = args.since.map(|since| ("since", since.to_string())).into_iter().collect();
    let text = client.get(&["trace"], &query).await?.text()?;
    if let Some(path) = &args.write_trace {
        let failed = |error| Failure::Local(format!("cannot write {}: {error}", path.display()));
        fs::write(path, &text).map_err(failed)?;
    }
    let mut fleet = machines(&args.words)?;
    if fleet.is_empty() {
        fleet = workers_online(&client).await?;
    }
    if fleet.is_empty() {
        return Err(Failure::Usage(
            "no worker is online: describe the fleet, such as 4x8:16GiB:100GiB".into(),
        ));
    }
    Ok(("history".to_owned(), text, fleet))
}

async fn workers_online(client: &Client) -> Result<Vec<Machines>, Failure> {
    let mut fleet = Vec::new();
    let mut cursor = None;
    loop {
        let mut query = vec![("limit", "500".to_owned()), ("state", WorkerState::Online.to_string())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page: Page<Worker> = client.read(&["workers"], &query).await?;
        fleet.extend(page.items.iter().map(machine));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(fleet);
        }
    }
}

fn from_file(words: &[String]) -> Result<Load, Failure> {
    let [name, fleet @ ..] = words else {
        return Err(Failure::Usage("expected a trace and a fleet, or --history".into()));
    };
    let fleet = machines(fleet)?;
    if fleet.is_empty() {
        return Err(Failure::Usage("expected a fleet after the trace, such as 4x8:16GiB:100GiB".into()));
    }
    let text = read(Path::new(name));
    let text = text.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    Ok((name.clone(), text, fleet))
}

fn machines(words: &[String]) -> Result<Vec<Machines>, Failure> {
    words.iter().map(|word| word.parse().map_err(|error| Failure::Usage(format!("{error}")))).collect()
}

fn machine(worker: &Worker) -> Machines {
    let capacity = &worker.capacity;
    let capacity = Resources {
        cpu: Cpu::from_millis((capacity.cpu * 1_000.0).round() as u32),
        memory: Bytes(capacity.memory_bytes),
        disk: Bytes(capacity.disk_bytes),
    };
    Machines { count: 1, capacity }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}
