//! What gaffer adds to a container: a container task from the submission to its end, beside the bare calls to the same daemon.

use std::time::Instant;

use gaffer_domain::spec::DriverKind;
use gaffer_domain::worker::WorkerState;
use gaffer_protocol::rest::{Page, Worker};
use gaffer_worker::driver::bare_container::{BareContainer, PIDS_LIMIT};
use serde_json::json;

use super::args::Measurement;
use super::figures::{Figures, MILLISECONDS, OF_REQUESTS, median};
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
    let bare = match BareContainer::new(host.as_deref(), &bench.args.image, &COMMAND).await {
        Ok(bare) => bare,
        Err(error) => return not_measured(bench, figures, &format!("{error:#}")),
    };
    if !has_worker(bench).await? {
        return not_measured(bench, figures, "the worker does not run containers");
    }
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
        Ok::<f64, Failure>(begun.elapsed().as_secs_f64() * 1e3)
    };
    let alone = async || {
        let begun = Instant::now();
        let output = bare.run().await.map_err(|error| Failure::Local(format!("{error:#}")))?;
        if output != OUTPUT {
            return Err(Failure::Local("a container did not write what it should".to_owned()));
        }
        Ok(begun.elapsed().as_secs_f64() * 1e3)
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

/// Whether a worker can run containers.
async fn has_worker(bench: &Bench<'_>) -> Result<bool, Failure> {
    let query: Query =
        vec![("driver", DriverKind::Docker.as_str().to_owned()), ("state", WorkerState::Online.to_string())];
    let page: Page<Worker> = bench.installation.client.read(&["workers"], &query).await?;
    Ok(!page.items.is_empty())
}
