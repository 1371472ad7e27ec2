//! How soon one task starts, is heard of and ends on an idle installation, as its client sees it.

use std::time::Instant;

use futures::StreamExt as _;
use gaffer_domain::job::JobState;
use gaffer_protocol::rest::Job;
use serde_json::{Value, json};

use super::Bench;
use super::figures::{Figures, MILLISECONDS, OF_LATENCY, millis_since};
use super::installation::{Installation, NAME};
use super::limits::{FloorLatency, Work};
use super::program::Program;
use crate::client::Query;
use crate::failure::Failure;

/// The only task of a job that does not list its tasks.
const ONLY_TASK: &str = "main";
/// How long one request waits for a start.
const START_WAIT: &str = "20s";

/// Measures it; each sample beside one of the floor program.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if a task did not complete.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let installation = bench.installation;
    // A connection to the API is kept, and both sides have their caches filled.
    until_final(installation).await?;
    for round in bench.rounds() {
        bench.show("latency", round);
        let mut samples: [Vec<f64>; 4] = Default::default();
        let mut floors: Vec<FloorLatency> = Vec::new();
        for _ in 0..bench.args.jobs {
            if let Some(limits) = bench.limits {
                floors.push(limits.floor_latency().await?);
            }
            let sample = [
                until_started(installation).await?,
                until_first_byte(installation).await?,
                until_final(installation).await?,
                whole_run(installation).await?,
            ];
            samples.iter_mut().zip(sample).for_each(|(samples, sample)| samples.push(sample));
        }
        let floor = |part: fn(&FloorLatency) -> f64| floors.iter().map(part).collect::<Vec<f64>>();
        let [started, first_byte, last] = [
            floor(|floor| floor.started_ms),
            floor(|floor| floor.first_byte_ms),
            floor(|floor| floor.final_ms),
        ];
        let measured = [
            ("submit to start", started),
            ("submit to first byte", first_byte),
            ("submit to final", last.clone()),
            ("`gaffer run true`", last),
        ];
        for ((name, floor), samples) in measured.iter().zip(&samples) {
            let limit = (!floor.is_empty()).then_some((Work::Process.floor_name(), floor.as_slice()));
            figures.add_percentiles(name, MILLISECONDS, OF_LATENCY, samples, limit);
        }
    }
    Ok(())
}

fn echo(installation: &Installation) -> Value {
    installation.spec("latency", json!({"command": ["echo", "hello"]}))
}

/// Milliseconds from before the submission until a client that waits for it hears that the job has ended.
///
/// # Errors
/// As [`measure`].
pub async fn until_final(installation: &Installation) -> Result<f64, Failure> {
    let spec = echo(installation);
    let begun = Instant::now();
    let job = installation.submit(&spec).await?.id;
    installation.completed(job).await?;
    Ok(millis_since(begun))
}

async fn until_started(installation: &Installation) -> Result<f64, Failure> {
    let spec = echo(installation);
    let begun = Instant::now();
    let job = installation.submit(&spec).await?.id;
    let query: Query = vec![("wait", START_WAIT.to_owned()), ("until", JobState::Running.to_string())];
    loop {
        // One that has ended is not waited for, so a short task is no problem.
        let job: Job = installation.client.read(&["jobs", &job.to_string()], &query).await?;
        if job.known_state() != Some(JobState::Pending) {
            break;
        }
    }
    let millis = millis_since(begun);
    installation.completed(job).await?;
    Ok(millis)
}

async fn until_first_byte(installation: &Installation) -> Result<f64, Failure> {
    let spec = echo(installation);
    let begun = Instant::now();
    let job = installation.submit(&spec).await?.id;
    let number = job.to_string();
    let path = ["jobs", number.as_str(), "tasks", ONLY_TASK, "output"];
    let response =
        installation.client.open(&path, &vec![("follow", "1".to_owned())], "text/plain", None).await?;
    let first = response.bytes_stream().next().await;
    let millis = millis_since(begun);
    match first {
        Some(Ok(bytes)) if !bytes.is_empty() => {}
        Some(Err(error)) => return Err(installation.client.unreachable(&error)),
        _ => return Err(Failure::Local(format!("job {job} has no output"))),
    }
    installation.completed(job).await?;
    Ok(millis)
}

/// Milliseconds of a whole process `gaffer run true`.
async fn whole_run(installation: &Installation) -> Result<f64, Failure> {
    let (name, label, constraint) = (format!("{NAME}run"), installation.label(), installation.constraint());
    let mut words = vec!["run", "--quiet", "--name", &name, "--label", &label];
    words.extend(constraint.iter().flat_map(|constraint| ["--constraint", constraint]));
    words.extend(["--", "true"]);
    let program = Program::new(installation, "gaffer run true", &words)?;
    installation.to_its_end(program.run()).await
}
