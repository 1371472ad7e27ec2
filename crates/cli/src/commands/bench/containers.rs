//! What gaffer adds to a container: a container task from the submission to its end, beside the bare calls to the same daemon.

use std::path::Path;
use std::time::Instant;

use gaffer_domain::spec::DriverKind;
use gaffer_domain::worker::WorkerState;
use gaffer_protocol::rest::{Page, Worker};
use gaffer_worker::driver::bare_container::{self, BareContainer, PIDS_LIMIT};
use nix::unistd::gethostname;
use serde_json::json;

use super::args::Measurement;
use super::directory::is_used;
use super::figures::{Figures, MILLISECONDS, OF_REQUESTS, median, millis_since};
use super::leftovers::Leftover;
use super::{Bench, in_turn};
use crate::client::Query;
use crate::config;
use crate::failure::Failure;

const BARE: &str = "bare calls";
const COMMAND: [&str; 2] = ["echo", "hello"];
const OUTPUT: &[u8] = b"hello\n";
/// A container takes a hundred times as long as a process, so there is one pair for so many samples of others.
const SAMPLES_PER_PAIR: u32 = 5;

/// Measures it, in pairs. Without Docker it says so, and fails only if it was asked for by name.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if a container did not do what it should.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let host = config::docker_host();
    let owner = owner(bench.scratch()?.dir());
    let bare = match BareContainer::new(host.as_deref(), &bench.args.image, &COMMAND, &owner).await {
        Ok(bare) => bare,
        Err(error) => return not_measured(bench, figures, &format!("{error:#}")),
    };
    if !has_worker(bench).await? {
        return not_measured(bench, figures, "the worker does not run containers");
    }
    bench.leftovers.add(Leftover::Containers(owner.clone()));
    let installation = bench.installation;
    let spec = installation.spec(
        "containers",
        json!({
            "image": bench.args.image,
            "command": COMMAND,
            "pull": "never",
            "network": "none",
            "pids_limit": PIDS_LIMIT,
            "resources": {"cpu": 1},
        }),
    );
    let task = async || {
        let begun = Instant::now();
        let job = installation.submit(&spec).await?.id;
        installation.completed(job).await?;
        Ok::<f64, Failure>(millis_since(begun))
    };
    let alone = async || {
        let bare = bare.clone();
        let begun = Instant::now();
        let run = async move { bare.run().await.map_err(failed) };
        let output = installation.to_its_end(run).await?;
        let millis = millis_since(begun);
        if output != OUTPUT {
            return Err(Failure::Local("a container did not write what it should".to_owned()));
        }
        Ok(millis)
    };
    // Both have been done before they count.
    in_turn(1, task(), alone()).await.0?;
    for round in bench.rounds() {
        bench.show("containers", round);
        let mut tasks = Vec::new();
        let mut alones = Vec::new();
        for pair in 0..bench.args.jobs.div_ceil(SAMPLES_PER_PAIR) {
            let (task, alone) = in_turn(pair, task(), alone()).await;
            tasks.push(task?);
            alones.push(alone?);
        }
        let differences: Vec<f64> = tasks.iter().zip(&alones).map(|(task, alone)| task - alone).collect();
        let limit = Some((BARE, alones.as_slice()));
        figures.add_percentiles("container task", MILLISECONDS, OF_REQUESTS, &tasks, limit);
        figures.add("added by gaffer, p50", MILLISECONDS, median(&differences));
    }
    Ok(())
}

fn not_measured(bench: &Bench<'_>, figures: &mut Figures, why: &str) -> Result<(), Failure> {
    if bench.args.measurements.contains(&Measurement::Containers) {
        return Err(Failure::Local(format!("not measured: {why}")));
    }
    figures.note(format!("not measured: {why}"));
    Ok(())
}

/// Removes the bare containers of an owner.
///
/// # Errors
/// [`Failure::Local`] if Docker does not answer, or refuses.
pub async fn remove(owner: &str) -> Result<(), Failure> {
    match remove_where(|found| found == owner).await? {
        Some(_) => Ok(()),
        None => {
            Err(Failure::Local("no Docker daemon answers: containers of this run may be left".to_owned()))
        }
    }
}

/// Removes bare containers of all runs on this machine that are over; returns how many there were, none if no Docker daemon answers.
///
/// # Errors
/// [`Failure::Local`] if Docker refuses.
pub async fn remove_unused() -> Result<Option<usize>, Failure> {
    remove_where(|owner| run_of(owner).is_some_and(|dir| matches!(is_used(Path::new(dir)), Ok(false)))).await
}

async fn remove_where(is_meant: impl Fn(&str) -> bool) -> Result<Option<usize>, Failure> {
    let host = config::docker_host();
    bare_container::remove_where(host.as_deref(), is_meant).await.map_err(failed)
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::Local(format!("{error:#}"))
}

/// Whose a bare container is: of the run with this directory, on this machine. Others may share the daemon.
fn owner(dir: &Path) -> String {
    format!("{}:{}", machine(), dir.display())
}

/// The directory of the run that a container belongs to; none for one of another machine.
fn run_of(owner: &str) -> Option<&str> {
    owner.strip_prefix(&machine())?.strip_prefix(':')
}

fn machine() -> String {
    gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a worker can run containers.
async fn has_worker(bench: &Bench<'_>) -> Result<bool, Failure> {
    let query: Query =
        vec![("driver", DriverKind::Docker.as_str().to_owned()), ("state", WorkerState::Online.to_string())];
    let page: Page<Worker> = bench.installation.client.read(&["workers"], &query).await?;
    Ok(!page.items.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_names_the_run_that_it_belongs_to() {
        let owner = owner(Path::new("/tmp/gaffer-bench-x"));
        assert_eq!(run_of(&owner), Some("/tmp/gaffer-bench-x"));
        assert_eq!(run_of("another machine:/tmp/gaffer-bench-x"), None);
        assert_eq!(run_of("/tmp/gaffer-bench-x"), None);
    }
}
