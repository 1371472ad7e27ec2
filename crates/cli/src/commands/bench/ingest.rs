//! How fast the output of one job is stored and acknowledged: large writes, and one write per line.

use std::time::Instant;

use futures::StreamExt as _;
use gaffer_domain::JobId;
use gaffer_protocol::rest::TaskDetail;
use serde_json::{Value, json};

use super::figures::{Figures, LINES_PER_SECOND, MEGABYTES_PER_SECOND};
use super::installation::Installation;
use super::load::{LINE_BYTES, LoadArgs};
use super::{Bench, in_turn, limits, program};
use crate::client::Query;
use crate::failure::Failure;

const PIPE: &str = "pipe";
/// What a shell exits with if there is no such program.
const NO_PROGRAM: u8 = 127;
/// Runs the load generator: this very program where it is the same machine, else the worker's.
const GENERATOR: &str = "[ -x \"$0\" ] && exec \"$0\" \"$@\"; exec gaffer \"$@\"";

/// Measures both, each beside a pipe whose reader only counts.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if the output was not stored as a whole.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let large = bench.large_writes();
    let lines = LoadArgs::lines(bench.args.size.0 / LINE_BYTES as u64, None);
    for round in bench.rounds() {
        bench.show("ingest", round);
        let (ran, pipe) =
            in_turn(round, run(bench.installation, "ingest", &large), limits::pipe(&large)).await;
        let (Stored { job, seconds }, pipe) = (ran?, pipe?);
        let megabytes = large.total_bytes() as f64 / 1e6;
        let limit = Some((PIPE, pipe / 1e6));
        figures.add_beside("large writes", MEGABYTES_PER_SECOND, megabytes / seconds, limit);
        let seconds = read_back(bench.installation, job, &large).await?;
        figures.add_beside("read back", MEGABYTES_PER_SECOND, megabytes / seconds, limit);

        let (ran, pipe) =
            in_turn(round, run(bench.installation, "ingest", &lines), limits::pipe(&lines)).await;
        let (rate, pipe, line) = (lines.total_bytes() as f64 / ran?.seconds, pipe?, LINE_BYTES as f64);
        let limit = Some((PIPE, pipe / line));
        figures.add_beside("one write per line, lines", LINES_PER_SECOND, rate / line, limit);
        let limit = Some((PIPE, pipe / 1e6));
        figures.add_beside("one write per line, bytes", MEGABYTES_PER_SECOND, rate / 1e6, limit);
    }
    Ok(())
}

/// Reads the whole output through the API; returns the seconds that it took.
async fn read_back(installation: &Installation, job: JobId, load: &LoadArgs) -> Result<f64, Failure> {
    let (client, begun) = (&installation.client, Instant::now());
    let path = ["jobs", &job.to_string(), "output"];
    let mut pieces = client.open(&path, &Query::new(), "text/plain", None).await?.bytes_stream();
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        bytes += piece.map_err(|error| client.unreachable(&error))?.len() as u64;
    }
    if bytes != load.total_bytes() {
        return Err(Failure::Local(format!("read {bytes} of {} bytes of job {job}", load.total_bytes())));
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// A job that writes this.
///
/// # Errors
/// [`Failure::Local`] if the system does not say where this program is.
pub fn spec(installation: &Installation, name: &str, load: &LoadArgs) -> Result<Value, Failure> {
    let program = program::path()?.to_string_lossy().into_owned();
    let command = ["sh".to_owned(), "-c".to_owned(), GENERATOR.to_owned(), program];
    let command: Vec<String> = command.into_iter().chain(load.words()).collect();
    Ok(installation.spec(name, json!({ "command": command })))
}

/// A job whose output is stored.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    pub job: JobId,
    /// From its start until its end with all its output was stored, by the master's clock.
    pub seconds: f64,
}

/// Runs such a job to its end.
///
/// # Errors
/// As [`measure`].
pub async fn run(installation: &Installation, name: &str, load: &LoadArgs) -> Result<Stored, Failure> {
    let job = installation.submit(&spec(installation, name, load)?).await?.id;
    stored(installation, job, load).await
}

/// Waits until such a job has ended, and checks that all of its output is stored.
///
/// # Errors
/// As [`measure`].
pub async fn stored(installation: &Installation, job: JobId, load: &LoadArgs) -> Result<Stored, Failure> {
    let ended = installation.completed(job).await;
    let task = installation.task(job).await?;
    if task.exit_code == Some(i32::from(NO_PROGRAM)) {
        let worker = task.worker.unwrap_or_default();
        return Err(Failure::Local(format!("worker {worker} has no program `gaffer` in its PATH")));
    }
    ended?;
    let path = ["jobs", &job.to_string(), "tasks", &task.address];
    let detail: TaskDetail = installation.client.read(&path, &Query::new()).await?;
    let attempt = detail.attempts.first();
    let stored = attempt.map_or(0, |attempt| attempt.output_bytes);
    if stored != load.total_bytes() {
        return Err(Failure::Local(format!("stored {stored} of {} bytes of job {job}", load.total_bytes())));
    }
    if attempt.is_some_and(|attempt| attempt.output_complete == Some(false)) {
        return Err(Failure::Local(format!("the stored output of job {job} is not what its worker read")));
    }
    let times = attempt.and_then(|attempt| attempt.started_at.zip(attempt.finished_at));
    let micros = times.and_then(|(started, finished)| (finished - started).num_microseconds());
    let seconds = micros.filter(|micros| *micros > 0).map(|micros| micros as f64 / 1e6);
    let seconds = seconds.ok_or_else(|| Failure::Local(format!("job {job} has no times")))?;
    Ok(Stored { job, seconds })
}
