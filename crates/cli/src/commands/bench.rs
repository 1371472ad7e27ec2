//! `gaffer bench`: measures speed on an installation, or on scratch installations with history, beside the machine's limits.

mod args;
mod clean;
mod containers;
mod dashboard;
mod directory;
mod disk;
mod dispatch;
mod figures;
mod follow;
mod history;
mod ingest;
mod installation;
mod latency;
mod leftovers;
mod limits;
mod lists;
pub mod load;
mod memory;
mod output;
mod processes;
mod program;
mod queue;
mod report;
mod scratch;
mod snapshot;
mod throughput;
mod viewers;
mod workers;

use std::fmt::Display;
use std::time::Instant;

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
pub use args::BenchArgs;
use args::{Format, Measurement};
use directory::ScratchDirectory;
use figures::Figures;
use history::{Filled, Standing};
use installation::Installation;
use leftovers::{Leftover, Leftovers};
use limits::{Limits, Work};
use load::LoadArgs;
use report::{History, Outcome, Report};
use scratch::Scratch;

impl Measurement {
    async fn run(self, bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
        match self {
            Measurement::Limits => limits::measure(bench, figures).await,
            Measurement::Throughput => throughput::measure(bench, figures).await,
            Measurement::Latency => latency::measure(bench, figures).await,
            Measurement::Ingest => ingest::measure(bench, figures).await,
            Measurement::Output => output::measure(bench, figures).await,
            Measurement::Follow => follow::measure(bench, figures).await,
            Measurement::Viewers => viewers::measure(bench, figures).await,
            Measurement::Lists => lists::measure(bench, figures).await,
            Measurement::Queue => queue::measure(bench, figures).await,
            Measurement::Containers => containers::measure(bench, figures).await,
            Measurement::Snapshot => snapshot::measure(bench, figures).await,
            Measurement::Dispatch => dispatch::measure(bench, figures).await,
            Measurement::Workers => workers::measure(bench, figures).await,
        }
    }
}

/// What a measurement works with.
struct Bench<'a> {
    args: &'a BenchArgs,
    installation: &'a Installation,
    scratch: Option<&'a Scratch>,
    limits: Option<&'a Limits>,
    leftovers: &'a Leftovers,
    status: &'a Status<'a>,
}

impl<'a> Bench<'a> {
    fn rounds(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.args.rounds
    }

    /// Tells a person how far it is.
    fn show(&self, measurement: &str, round: u32) {
        self.status.show(&format!("{measurement}, round {round} of {}", self.args.rounds));
    }

    /// The scratch installation, for what needs one.
    fn scratch(&self) -> Result<&'a Scratch, Failure> {
        let missing = || Failure::Usage("this needs a scratch installation: add --history 0".to_owned());
        self.scratch.ok_or_else(missing)
    }

    /// Tasks per second of the floor program, and what it is called; none if it has no database.
    async fn floor(&self, tasks: u32, work: Work) -> Result<Option<(&'static str, f64)>, Failure> {
        let Some(limits) = self.limits else { return Ok(None) };
        Ok(Some((work.floor_name(), limits.floor(tasks, work).await?)))
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
    leftovers: Leftovers,
    /// A database server that is being started. That is not interrupted: nobody would remove its directory.
    starting: Option<JoinHandle<Result<Limits, Failure>>>,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if something could not be set up or removed.
pub fn run(args: &BenchArgs, out: &Out) -> Result<u8, Failure> {
    let chosen = args.chosen()?;
    if args.is_scratch() {
        disk::check(args, &chosen)?;
    }
    open_files::raise(u64::MAX);
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(local("cannot start"))?;
    let done = runtime.block_on(async {
        match args.clean {
            true => clean::run(args, out).await,
            false => Box::pin(bench(args, &chosen, out)).await,
        }
    });
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
    let removed = tokio::select! {
        removed = made.remove() => Ok(removed),
        order = signals.next() => Err(order),
    };
    status.retire();
    // Of what could not be removed in order, processes end and directories go as far as that is possible.
    let leftovers = made.leftovers.clone();
    drop(made);
    leftovers.sentences().iter().for_each(|sentence| status.note(sentence));
    let removed = match removed {
        Ok(removed) => removed,
        Err(order) => return Ok(order.exit_code()),
    };
    report.is_interrupted = matches!(measured, Ok(Some(_)));
    print(args, &report, &leftovers, out)?;
    let interrupted: Option<Order> = measured?;
    removed?;
    let has_failed = report.outcomes.iter().any(|outcome| outcome.error.is_some());
    Ok(match interrupted {
        Some(order) => order.exit_code(),
        None if has_failed => exit::GAFFER_FAILED,
        None => 0,
    })
}

fn print(args: &BenchArgs, report: &Report, leftovers: &Leftovers, out: &Out) -> Result<(), Failure> {
    match args.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&report.to_json(leftovers))
                .map_err(local("cannot write JSON"))?;
            out.line(&text)
        }
        _ if report.outcomes.is_empty() => Ok(()),
        Format::Markdown => out.print(report.to_markdown().as_bytes()),
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
    if scratch::is_in_memory(&args.scratch_parent()) {
        report
            .warnings
            .push("scratch data is in memory: commits to it are not durable, see --scratch-dir".to_owned());
    }
    if !args.is_scratch() {
        let installation = Installation::new(config::access()?, args.worker.clone(), made.leftovers.clone())?;
        let installation = made.installation.insert(installation);
        let busy = installation.check().await?.other_tasks;
        made.leftovers.add(Leftover::Jobs(installation.label()));
        if busy > 0 {
            report
                .warnings
                .push(format!("the workers have {busy} other tasks, which slow the measured ones"));
        }
        report.server = Some(installation.client.address().to_owned());
        if !args.no_floor {
            status.show("starting a database for the floor program");
            let started = Limits::alone(made.directory(args)?, args.pg_bin.clone());
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
        let scratch = Scratch::start(made.directory(args)?, args.pg_bin.as_deref())?;
        let scratch = made.scratch.insert(scratch);
        let installation = made.installation.insert(scratch.ready().await?);
        let mut filled = history::fill(scratch, installation, *tasks, args.history_job_tasks, status).await?;
        made.limits = Some(Limits::beside(scratch.database_url()?).await?);
        for has_statistics in args.passes() {
            let failed = || local("cannot prepare the scratch database");
            if *has_statistics {
                filled.database.gather_statistics().await.map_err(failed())?;
            }
            filled.database.write_out().await.map_err(failed())?;
            let history = History { tasks: *tasks, has_statistics: *has_statistics };
            all(args, chosen, Some((history, &mut filled)), report, made, status).await?;
        }
        // The next one starts from nothing.
        made.remove().await?;
    }
    Ok(())
}

/// Runs all measurements on one installation.
async fn all(
    args: &BenchArgs,
    chosen: &[Measurement],
    mut history: Option<(History, &mut Filled)>,
    report: &mut Report,
    made: &Made,
    status: &Status<'_>,
) -> Result<(), Failure> {
    let Some(installation) = &made.installation else { return Ok(()) };
    let limits = made.limits.as_ref();
    let (scratch, leftovers) = (made.scratch.as_ref(), &made.leftovers);
    let bench = Bench { args, installation, scratch, limits, leftovers, status };
    for measurement in chosen {
        // In the report from the beginning, so that an interrupted run shows its finished rounds.
        let before = standing(&mut history).await?;
        report.outcomes.push(Outcome {
            measurement: measurement.name(),
            history: history.as_ref().map(|(history, _)| *history),
            before,
            after: None,
            figures: Figures::default(),
            seconds: 0.0,
            error: None,
        });
        let Some(outcome) = report.outcomes.last_mut() else { return Ok(()) };
        let begun = Instant::now();
        let run = measurement.run(&bench, &mut outcome.figures);
        let ended = timeout(args.timeout.to_std(), run).await;
        outcome.seconds = begun.elapsed().as_secs_f64();
        outcome.after = standing(&mut history).await?;
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
    installation.delete_all().await?;
    match &mut history {
        Some((_, filled)) => filled.deletion_done(args.timeout.to_std()).await,
        None => Ok(()),
    }
}

/// What is in the database of a scratch installation now.
async fn standing(history: &mut Option<(History, &mut Filled)>) -> Result<Option<Standing>, Failure> {
    match history {
        Some((_, filled)) => filled.standing().await.map(Some),
        None => Ok(None),
    }
}

impl Made {
    /// A new directory for scratch data, which is told of if it stays.
    fn directory(&self, args: &BenchArgs) -> Result<ScratchDirectory, Failure> {
        let dir = ScratchDirectory::make(&args.scratch_parent())?;
        self.leftovers.add(Leftover::Directory(dir.path().to_owned()));
        Ok(dir)
    }

    /// Removes everything, also if something cannot be removed; returns the first failure.
    async fn remove(&mut self) -> Result<(), Failure> {
        let mut removed = Ok(());
        if let Some(starting) = self.starting.take() {
            self.limits = starting.await.ok().and_then(Result::ok);
        }
        if let Some(limits) = self.limits.take() {
            removed = removed.and(limits.stop().await);
        }
        removed = removed.and(self.remove_containers().await);
        let installation = self.installation.take();
        if let Some(scratch) = self.scratch.take() {
            // Its jobs and sessions go with it.
            return removed.and(scratch.stop().await);
        }
        if let Some(installation) = installation {
            removed = removed.and(installation.sign_out().await);
            let deleted = installation.delete_all().await;
            if deleted.is_ok() {
                self.leftovers.remove(&Leftover::Jobs(installation.label()));
            }
            removed = removed.and(deleted);
        }
        removed
    }

    /// Removes what was made on the machine's Docker, once nothing is being made there any more.
    async fn remove_containers(&self) -> Result<(), Failure> {
        for leftover in self.leftovers.left() {
            let Leftover::Containers(label) = &leftover else { continue };
            let settled = match &self.installation {
                Some(installation) => installation.settled().await,
                None => Ok(()),
            };
            containers::remove(label).await?;
            settled?;
            self.leftovers.remove(&leftover);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

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
