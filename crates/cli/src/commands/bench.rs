//! `gaffer bench`: measures speed on an installation, or on scratch installations with history, beside the machine's limits.

mod dispatch;
mod figures;
mod follow;
mod ingest;
mod installation;
mod latency;
mod limits;
pub mod load;
mod processes;
mod queue;
mod report;
mod scratch;
mod throughput;
mod workers;

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use gaffer_domain::quantity::{Bytes, Span};
use gaffer_master::store::bench::history;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config;
use crate::exit;
use crate::failure::Failure;
use crate::open_files;
use crate::out::Out;
use crate::signals::{Order, Signals};
use crate::status::Status;
use figures::Figures;
use installation::Installation;
use limits::Limits;
use load::LoadArgs;
use report::{History, Outcome, Report};
use scratch::Scratch;

/// What to measure, where, and how much.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --history, the installation that client commands use is measured. The jobs of a run carry the label gaffer-bench, and are \
stopped and deleted at the end, also after Ctrl-C. Nothing else is written.

With --history, each measurement runs in a scratch installation: database, master and worker in a temporary directory, on free \
loopback ports, removed at the end. Its database is filled with finished tasks first. The measurements dispatch and workers need \
simulated workers, so they run in scratch installations only.

The limits are those of the machine on which this command runs. Rounds of a measurement and of its limit alternate; \
ratios compare values of the same round.

Examples:
  gaffer bench                                   an installation, all that applies to it
  gaffer bench throughput latency --worker pi4
  gaffer bench --history 0                       a new installation
  gaffer bench --history 0,1000000 -o json       the same with a history of 1,000,000 tasks
  gaffer bench --history 0 limits                this machine alone

Exit codes: 0; 125 if a measurement failed or gaffer did; 2 usage; 130 after Ctrl-C.")]
pub struct BenchArgs {
    /// Measurements [default: all that apply]
    #[arg(value_enum, value_name = "MEASUREMENT")]
    measurements: Vec<Measurement>,
    /// Rounds of each measurement
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Tasks in each round of throughput and dispatch
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tasks: u32,
    /// Samples in each round of latency and queue
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    jobs: u32,
    /// Output of each job of ingest
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(64 << 20))]
    size: Bytes,
    /// Lines per second of follow
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    lines_per_second: u64,
    /// Waiting tasks of queue
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    waiting: u32,
    /// Idle workers of workers
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    sessions: u32,
    /// Time that follow writes lines, and that workers are idle
    #[arg(long, value_name = "TIME", default_value_t = Span::from_secs(5))]
    watch: Span,
    /// Finished tasks in scratch installations, e.g. 0,1000000
    ///
    /// A scratch installation for each number: its history is that many finished jobs of one task, each with output and events.
    /// A million takes some minutes and 3 GB of disk.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(..=100_000_000))]
    history: Vec<u64>,
    /// Measure with or without statistics of the database
    ///
    /// Postgres plans by statistics, which it gathers a minute after a table has changed. A new installation has none, nor has one
    /// after a burst of jobs.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Statistics::Both, requires = "history")]
    statistics: Statistics,
    /// Only this worker runs tasks
    #[arg(long, value_name = "NAME", conflicts_with = "history")]
    worker: Option<String>,
    /// Maximum time of each measurement
    #[arg(long, value_name = "TIME", default_value_t = Span::from_secs(600))]
    timeout: Span,
    /// Skip the limits that need a database on this machine
    #[arg(long)]
    no_floor: bool,
    /// Directory for scratch data [default: for temporary files]
    ///
    /// On the disk whose durable commits are meant: not in memory.
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// Directory of the Postgres programs [default: search for it]
    #[arg(long, env = "GAFFER_PG_BIN", value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
}

/// What can be measured, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measurement {
    /// This machine: starts, commits, pipe, loopback, floor program
    Limits,
    /// Tasks per second: processes that do nothing
    Throughput,
    /// One task: submit to start, first byte, final
    Latency,
    /// Output of one job: MB/s, lines/s
    Ingest,
    /// Lag of a viewer behind a job that writes lines
    Follow,
    /// Latency beside many tasks that no worker can run
    Queue,
    /// Tasks per second of simulated workers (scratch only)
    Dispatch,
    /// Idle and reconnecting workers (scratch only)
    Workers,
}

/// Which statistics the database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Statistics {
    /// First without, then with
    Both,
    /// None, as in a new installation or after a burst
    Without,
    /// Up to date
    With,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Medians and ratios
    Table,
    /// All rounds
    Json,
}

impl Measurement {
    fn name(self) -> &'static str {
        match self {
            Measurement::Limits => "limits",
            Measurement::Throughput => "throughput",
            Measurement::Latency => "latency",
            Measurement::Ingest => "ingest",
            Measurement::Follow => "follow",
            Measurement::Queue => "queue",
            Measurement::Dispatch => "dispatch",
            Measurement::Workers => "workers",
        }
    }

    /// Simulated workers would get tasks of others.
    fn is_for_scratch_only(self) -> bool {
        matches!(self, Measurement::Dispatch | Measurement::Workers)
    }

    async fn run(self, bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
        match self {
            Measurement::Limits => limits::measure(bench, figures).await,
            Measurement::Throughput => throughput::measure(bench, figures).await,
            Measurement::Latency => latency::measure(bench, figures).await,
            Measurement::Ingest => ingest::measure(bench, figures).await,
            Measurement::Follow => follow::measure(bench, figures).await,
            Measurement::Queue => queue::measure(bench, figures).await,
            Measurement::Dispatch => dispatch::measure(bench, figures).await,
            Measurement::Workers => workers::measure(bench, figures).await,
        }
    }
}

impl BenchArgs {
    fn is_scratch(&self) -> bool {
        !self.history.is_empty()
    }

    /// What to measure.
    fn chosen(&self) -> Result<Vec<Measurement>, Failure> {
        let all = Measurement::value_variants();
        let impossible = self.measurements.iter().find(|one| one.is_for_scratch_only());
        if let Some(impossible) = impossible.filter(|_| !self.is_scratch()) {
            return Err(Failure::Usage(format!(
                "{} needs simulated workers, which only a scratch installation gets: add --history 0",
                impossible.name()
            )));
        }
        let applies = |one: &&Measurement| self.is_scratch() || !one.is_for_scratch_only();
        let is_chosen = |one: &&Measurement| self.measurements.is_empty() || self.measurements.contains(one);
        Ok(all.iter().filter(applies).filter(is_chosen).copied().collect())
    }

    /// The states of statistics to measure with, in order.
    fn passes(&self) -> &'static [bool] {
        match self.statistics {
            Statistics::Both => &[false, true],
            Statistics::Without => &[false],
            Statistics::With => &[true],
        }
    }
}

/// What a measurement works with.
struct Bench<'a> {
    args: &'a BenchArgs,
    installation: &'a Installation,
    scratch: Option<&'a Scratch>,
    limits: Option<&'a Limits>,
    status: &'a Status<'a>,
}

impl Bench<'_> {
    fn rounds(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.args.rounds
    }

    /// Tells a person how far it is.
    fn show(&self, measurement: &str, round: u32) {
        self.status.show(&format!("{measurement}, round {round} of {}", self.args.rounds));
    }

    fn large_writes(&self) -> LoadArgs {
        LoadArgs::large_writes(self.args.size.0)
    }
}

/// Does both, one after the other; which is first changes from round to round.
async fn in_turn<A, B>(round: u32, one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    if round % 2 == 1 {
        let one = one.await;
        (one, other.await)
    } else {
        let other = other.await;
        (one.await, other)
    }
}

/// For `map_err`: a failure of this machine, with what could not be done.
fn local<E: Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Local(format!("{what}: {error}"))
}

/// What has to be removed at the end.
#[derive(Default)]
struct Made {
    installation: Option<Installation>,
    scratch: Option<Scratch>,
    limits: Option<Limits>,
    /// A database server that is being started. That is not interrupted: nobody would remove its directory.
    starting: Option<JoinHandle<Result<Limits, Failure>>>,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if something could not be set up or removed.
pub fn run(args: &BenchArgs, out: &Out) -> Result<u8, Failure> {
    let chosen = args.chosen()?;
    open_files::raise(u64::MAX);
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(local("cannot start"))?;
    let done = runtime.block_on(bench(args, &chosen, out));
    runtime.shutdown_background();
    done
}

async fn bench(args: &BenchArgs, chosen: &[Measurement], out: &Out) -> Result<u8, Failure> {
    let mut signals = Signals::listen().map_err(local("cannot listen to signals"))?;
    let status = Status::new(out, false);
    let mut report = Report::new(args.rounds);
    let mut made = Made::default();
    let measured = tokio::select! {
        measured = measure(args, chosen, &mut report, &mut made, &status) => measured.map(|()| None),
        order = signals.next() => Ok(Some(order)),
    };
    status.show("removing what was made for the measurements");
    let left_over = made.installation.as_ref().filter(|_| !args.is_scratch()).map(Installation::left_over);
    let removed = tokio::select! {
        removed = made.remove() => removed,
        order = signals.next() => {
            left_over.iter().for_each(|left| status.note(&left.to_string()));
            return Ok(order.exit_code());
        }
    };
    status.retire();
    report.is_interrupted = matches!(measured, Ok(Some(_)));
    print(args, &report, out)?;
    let interrupted: Option<Order> = measured?;
    removed?;
    let has_failed = report.outcomes.iter().any(|outcome| outcome.error.is_some());
    Ok(match interrupted {
        Some(order) => order.exit_code(),
        None if has_failed => exit::GAFFER_FAILED,
        None => 0,
    })
}

fn print(args: &BenchArgs, report: &Report, out: &Out) -> Result<(), Failure> {
    match args.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&report.to_json()).map_err(local("cannot write JSON"))?;
            out.line(&text)
        }
        Format::Table if report.outcomes.is_empty() => Ok(()),
        Format::Table => out.print(report.to_table(out).as_bytes()),
    }
}

async fn measure(
    args: &BenchArgs,
    chosen: &[Measurement],
    report: &mut Report,
    made: &mut Made,
    status: &Status<'_>,
) -> Result<(), Failure> {
    if scratch::is_in_memory(args.scratch_dir.as_deref()) {
        report
            .warnings
            .push("scratch data is in memory: commits to it are not durable, see --scratch-dir".to_owned());
    }
    if !args.is_scratch() {
        let installation =
            made.installation.insert(Installation::new(config::access()?, args.worker.clone())?);
        let busy = installation.check().await?;
        if busy > 0 {
            report
                .warnings
                .push(format!("the workers have {busy} other tasks, which slow the measured ones"));
        }
        report.server = Some(installation.client.address().to_owned());
        if !args.no_floor {
            status.show("starting a database for the floor program");
            let started = Limits::alone(args.scratch_dir.clone(), args.pg_bin.clone());
            let started = made.starting.insert(tokio::spawn(started)).await;
            made.starting = None;
            match started.map_err(local("the start failed")).flatten() {
                Ok(limits) => made.limits = Some(limits),
                Err(failure) => report.warnings.push(format!("no floor program: {failure}")),
            }
        }
        return all(args, chosen, None, report, made, status).await;
    }
    for tasks in &args.history {
        status.show("starting a scratch installation");
        let scratch = Scratch::start(args.scratch_dir.as_deref(), args.pg_bin.as_deref())?;
        let installation = made.scratch.insert(scratch).ready().await?;
        let mut database = fill(made, &installation, *tasks, status).await?;
        made.installation = Some(installation);
        for has_statistics in args.passes() {
            let failed = || local("cannot prepare the scratch database");
            if *has_statistics {
                database.gather_statistics().await.map_err(failed())?;
            }
            database.write_out().await.map_err(failed())?;
            let database_bytes = database.size_bytes().await.map_err(failed())?;
            let history = History { tasks: *tasks, has_statistics: *has_statistics, database_bytes };
            all(args, chosen, Some(history), report, made, status).await?;
        }
        // The next one starts from nothing.
        made.remove().await?;
    }
    Ok(())
}

/// Writes the history of a scratch installation.
async fn fill(
    made: &mut Made,
    installation: &Installation,
    tasks: u64,
    status: &Status<'_>,
) -> Result<history::History, Failure> {
    let failed = || local("cannot fill the scratch database");
    let Some(scratch) = &made.scratch else {
        return Err(Failure::Local("no scratch installation".to_owned()));
    };
    let url = scratch.database_url()?;
    let mut database = history::History::connect(&url).await.map_err(failed())?;
    database.hold_statistics().await.map_err(failed())?;
    if tasks > 0 {
        let spec = json!({"name": "history", "command": ["echo", "hello"]});
        let job = installation.submit(&spec).await?.id;
        installation.completed(job).await?;
        let show = |done| status.show(&format!("history: {done} of {tasks} finished tasks"));
        // The first one counts, too.
        database.copy_job(job.0, tasks - 1, show).await.map_err(failed())?;
    }
    made.limits = Some(Limits::beside(url).await?);
    Ok(database)
}

/// Runs all measurements on one installation.
async fn all(
    args: &BenchArgs,
    chosen: &[Measurement],
    history: Option<History>,
    report: &mut Report,
    made: &Made,
    status: &Status<'_>,
) -> Result<(), Failure> {
    let Some(installation) = &made.installation else { return Ok(()) };
    let limits = made.limits.as_ref();
    let bench = Bench { args, installation, scratch: made.scratch.as_ref(), limits, status };
    for measurement in chosen {
        // In the report from the beginning, so that an interrupted run shows its finished rounds.
        let name = measurement.name();
        report.outcomes.push(Outcome {
            measurement: name,
            history,
            figures: Figures::default(),
            seconds: 0.0,
            error: None,
        });
        let Some(outcome) = report.outcomes.last_mut() else { return Ok(()) };
        let begun = Instant::now();
        let run = measurement.run(&bench, &mut outcome.figures);
        let ended = timeout(args.timeout.to_std(), run).await;
        outcome.seconds = begun.elapsed().as_secs_f64();
        match ended {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) if matches!(failure, Failure::Local(_)) => {
                outcome.error = Some(failure.to_string())
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => outcome.error = Some(format!("not finished after {}", args.timeout)),
        }
        // Whatever it left would slow the next one down.
        installation.end_all().await?;
    }
    // The next ones begin with the same number of jobs.
    status.show("deleting jobs");
    installation.delete_all().await
}

impl Made {
    /// Removes everything, also if something cannot be removed; returns the first failure.
    async fn remove(&mut self) -> Result<(), Failure> {
        let mut removed = Ok(());
        if let Some(starting) = self.starting.take() {
            self.limits = starting.await.ok().and_then(Result::ok);
        }
        if let Some(limits) = self.limits.take() {
            removed = removed.and(limits.stop().await);
        }
        let installation = self.installation.take();
        if let Some(scratch) = self.scratch.take() {
            // Its jobs go with it.
            return removed.and(scratch.stop().await);
        }
        if let Some(installation) = installation {
            removed = removed.and(installation.delete_all().await);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn chosen(words: &[&str]) -> Result<Vec<&'static str>, String> {
        let words = std::iter::once(&"bench").chain(words);
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let chosen = line.bench.chosen().map_err(|failure| failure.to_string())?;
        Ok(chosen.into_iter().map(Measurement::name).collect())
    }

    #[test]
    fn simulated_workers_are_for_scratch_installations() {
        let own = ["limits", "throughput", "latency", "ingest", "follow", "queue"];
        assert_eq!(chosen(&[]).unwrap_or_default(), own);
        assert_eq!(chosen(&["latency", "throughput"]).unwrap_or_default(), ["throughput", "latency"]);
        assert!(chosen(&["workers"]).is_err_and(|why| why.contains("--history 0")));
        assert_eq!(chosen(&["workers", "--history", "0"]).unwrap_or_default(), ["workers"]);
        assert_eq!(chosen(&["--history", "0,10"]).unwrap_or_default().len(), 8);
        assert!(chosen(&["--statistics", "with"]).is_err());
        assert!(chosen(&["--worker", "pi4", "--history", "0"]).is_err());
    }

    #[tokio::test]
    async fn which_of_two_is_measured_first_changes() {
        let order = RefCell::new(Vec::new());
        let measure = async |name| order.borrow_mut().push(name);
        for round in 1..=3 {
            in_turn(round, measure("one"), measure("other")).await;
        }
        assert_eq!(*order.borrow(), ["one", "other", "other", "one", "one", "other"]);
    }
}
