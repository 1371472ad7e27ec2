//! The arguments of `gaffer bench`: what to measure, where, and how much.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gaffer_domain::quantity::{Bytes, Span};

use crate::failure::Failure;

/// What to measure, where, and how much.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --history, the installation that client commands use is measured. The jobs of a run carry the label gaffer-bench, and are \
stopped and deleted at the end, also after Ctrl-C. The session with which lists reads the dashboard is ended. Nothing else is written.

With --history, each measurement runs in a scratch installation: database, master and worker in a temporary directory, on free \
loopback ports, removed at the end. Its database is filled with finished tasks first. Some measurements need simulated workers or \
the database itself, so they run in scratch installations only: containers, snapshot, dispatch, workers.

The limits are those of the machine on which this command runs. Rounds of a measurement and of its limit alternate; \
ratios compare values of the same round. At the end, standard error tells what is left of the run, or that nothing is.

Examples:
  gaffer bench                                   an installation, all that applies to it
  gaffer bench throughput latency --worker pi4
  gaffer bench --history 0                       a new installation
  gaffer bench --history 0,1000000 -o json       the same with a history of 1,000,000 tasks
  gaffer bench --history 0 limits                this machine alone
  gaffer bench --history 0 throughput --tasks 10000,100000
  gaffer bench --history 0,1000000 -o markdown   the table of docs/performance.md
  gaffer bench --clean                           after a run was killed

Exit codes: 0; 125 if a measurement failed or gaffer did; 2 usage; 130 after Ctrl-C.")]
pub struct BenchArgs {
    /// Measurements [default: all that apply]
    #[arg(value_enum, value_name = "MEASUREMENT")]
    pub measurements: Vec<Measurement>,
    /// Rounds of each measurement
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Tasks in each round of throughput, snapshot and dispatch
    ///
    /// Several numbers are measured one after the other by throughput and dispatch; snapshot uses the first.
    #[arg(long, value_name = "N,…", default_values_t = [10_000], value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub tasks: Vec<u32>,
    /// Samples in each round of latency, queue, lists and output
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub jobs: u32,
    /// Output of each job of ingest and viewers
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(64 << 20))]
    pub size: Bytes,
    /// Output of the job that output reads and searches
    #[arg(long, value_name = "SIZE", default_value_t = Bytes(256 << 20))]
    pub output_size: Bytes,
    /// Lines per second of follow
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub lines_per_second: u64,
    /// Slow viewers of viewers
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub viewers: u32,
    /// Image of containers
    ///
    /// It must be on this machine already and have the program echo.
    #[arg(long, value_name = "IMAGE", default_value = "busybox")]
    pub image: String,
    /// Waiting tasks of queue
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub waiting: u32,
    /// Idle workers of workers
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    pub sessions: u32,
    /// Time of follow, of idle workers, and of viewers
    ///
    /// How long follow writes lines, workers are idle, and viewers stay after the end of their job.
    #[arg(long, value_name = "TIME", default_value_t = Span::from_secs(5))]
    pub watch: Span,
    /// Finished tasks in scratch installations, e.g. 0,1000000
    ///
    /// A scratch installation for each number: its history is that many finished tasks, each with output and events, in jobs of
    /// several names, labels and states. A million takes some minutes and up to 4 GB of disk. It is refused if the disk has no room.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    pub history: Vec<u64>,
    /// Tasks of each job of the history
    ///
    /// If they do not divide the number of tasks, one more job has the rest.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "history", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub history_job_tasks: u32,
    /// Measure with or without statistics of the database
    ///
    /// Postgres plans by statistics, which it gathers a minute after a table has changed. A new installation has none, nor has one
    /// after a burst of jobs.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Statistics::Both, requires = "history")]
    pub statistics: Statistics,
    /// Only this worker runs tasks
    #[arg(long, value_name = "NAME", conflicts_with = "history")]
    pub worker: Option<String>,
    /// Maximum time of each measurement
    #[arg(long, value_name = "TIME", default_value_t = Span::from_secs(600))]
    pub timeout: Span,
    /// Skip the limits that need a database on this machine
    #[arg(long)]
    pub no_floor: bool,
    /// Directory for scratch data [default: for temporary files]
    ///
    /// On the disk whose durable commits are meant: not in memory.
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,
    /// Directory of the Postgres programs [default: search for it]
    #[arg(long, env = "GAFFER_PG_BIN", value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Remove what earlier runs have left, and measure nothing
    ///
    /// Deletes jobs of all runs, and scratch directories and containers that no run uses any more. Needed only after a run was
    /// killed. Exits with 125 if something could not be removed.
    #[arg(long, conflicts_with_all = ["measurements", "history"])]
    pub clean: bool,
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// What can be measured, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    /// This machine: starts, commits, pipe, loopback, floor program
    Limits,
    /// Tasks per second: processes that do nothing
    Throughput,
    /// One task: submit to start, first byte, final
    Latency,
    /// Output of one job: MB/s, lines/s
    Ingest,
    /// A large output: its end, lines in the middle, search
    Output,
    /// Lag of a viewer behind a job that writes lines
    Follow,
    /// Slow viewers of a growing output: memory of the master
    Viewers,
    /// Lists of jobs by each filter, pages, and the database's size
    Lists,
    /// Latency beside many tasks that no worker can run
    Queue,
    /// Container tasks beside the bare calls to Docker (scratch only)
    Containers,
    /// Throughput beside an open transaction (scratch only)
    Snapshot,
    /// Tasks per second of simulated workers (scratch only)
    Dispatch,
    /// Idle and reconnecting workers (scratch only)
    Workers,
}

/// Which statistics the database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Statistics {
    /// First without, then with
    Both,
    /// None, as in a new installation or after a burst
    Without,
    /// Up to date
    With,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Medians and ratios
    Table,
    /// All rounds
    Json,
    /// A row for each figure, a column for each history
    Markdown,
}

impl Measurement {
    pub fn name(self) -> &'static str {
        match self {
            Measurement::Limits => "limits",
            Measurement::Throughput => "throughput",
            Measurement::Latency => "latency",
            Measurement::Ingest => "ingest",
            Measurement::Output => "output",
            Measurement::Follow => "follow",
            Measurement::Viewers => "viewers",
            Measurement::Lists => "lists",
            Measurement::Queue => "queue",
            Measurement::Containers => "containers",
            Measurement::Snapshot => "snapshot",
            Measurement::Dispatch => "dispatch",
            Measurement::Workers => "workers",
        }
    }

    /// What it needs that only a scratch installation has; none if any installation will do.
    fn need(self) -> Option<&'static str> {
        match self {
            Measurement::Dispatch | Measurement::Workers => Some("simulated workers"),
            Measurement::Containers => Some("a worker on this machine"),
            Measurement::Snapshot => Some("its own database"),
            _ => None,
        }
    }
}

impl BenchArgs {
    pub fn is_scratch(&self) -> bool {
        !self.history.is_empty()
    }

    /// What to measure.
    pub fn chosen(&self) -> Result<Vec<Measurement>, Failure> {
        let all = Measurement::value_variants();
        if !self.is_scratch()
            && let Some((one, need)) = self.measurements.iter().find_map(|one| Some((one, one.need()?)))
        {
            return Err(Failure::Usage(format!(
                "{} needs {need}, which only a scratch installation has: add --history 0",
                one.name()
            )));
        }
        let applies = |one: &&Measurement| self.is_scratch() || one.need().is_none();
        let is_chosen = |one: &&Measurement| self.measurements.is_empty() || self.measurements.contains(one);
        Ok(all.iter().filter(applies).filter(is_chosen).copied().collect())
    }

    /// Where directories of scratch data are made.
    pub fn scratch_parent(&self) -> PathBuf {
        self.scratch_dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Tasks of a measurement that takes one number.
    pub fn first_tasks(&self) -> u32 {
        self.tasks.first().copied().unwrap_or(1)
    }

    /// The states of statistics to measure with, in order.
    pub fn passes(&self) -> &'static [bool] {
        match self.statistics {
            Statistics::Both => &[false, true],
            Statistics::Without => &[false],
            Statistics::With => &[true],
        }
    }

    /// As they are typed behind `gaffer bench`.
    #[cfg(test)]
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<BenchArgs, clap::Error> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            bench: BenchArgs,
        }
        let words = std::iter::once("bench").chain(words);
        Ok(<Line as clap::Parser>::try_parse_from(words)?.bench)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(words: &[&str]) -> Result<Vec<&'static str>, String> {
        let args = BenchArgs::of_words(words.iter().copied()).map_err(|error| error.to_string())?;
        let chosen = args.chosen().map_err(|failure| failure.to_string())?;
        Ok(chosen.into_iter().map(Measurement::name).collect())
    }

    #[test]
    fn what_an_installation_does_not_have_is_for_scratch_ones() {
        let own =
            ["limits", "throughput", "latency", "ingest", "output", "follow", "viewers", "lists", "queue"];
        assert_eq!(chosen(&[]).unwrap_or_default(), own);
        assert_eq!(chosen(&["latency", "throughput"]).unwrap_or_default(), ["throughput", "latency"]);
        assert!(chosen(&["workers"]).is_err_and(|why| why.contains("--history 0")));
        assert_eq!(chosen(&["workers", "--history", "0"]).unwrap_or_default(), ["workers"]);
        assert_eq!(chosen(&["--history", "0,10"]).unwrap_or_default().len(), 13);
        assert!(chosen(&["snapshot"]).is_err_and(|why| why.contains("database")));
        assert!(chosen(&["--statistics", "with"]).is_err());
        assert!(chosen(&["--history-job-tasks", "10"]).is_err());
        assert!(chosen(&["--worker", "pi4", "--history", "0"]).is_err());
    }
}
