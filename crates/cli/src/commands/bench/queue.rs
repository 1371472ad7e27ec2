//! How much many waiting tasks delay others: submit to final beside tasks that no worker can run, and without them.

use std::time::Instant;

use serde_json::json;

use super::figures::{Figures, MILLISECONDS, OF_LATENCY, SECONDS};
use super::{Bench, latency};
use crate::failure::Failure;

const EMPTY: &str = "empty queue";

/// Measures it. In each round the waiting tasks come and go.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if a task did not complete.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let installation = bench.installation;
    // No worker has this label.
    let nowhere = format!("labels.{} == {}", super::installation::LABEL, installation.run());
    let fields = json!({"command": ["true"], "count": bench.args.waiting, "constraints": [nowhere]});
    let spec = installation.spec("queue", fields);
    latency::until_final(installation).await?;
    for round in bench.rounds() {
        bench.show("queue", round);
        let alone = samples(bench).await?;
        let begun = Instant::now();
        installation.submit(&spec).await?;
        figures.add(&format!("accept {} tasks", bench.args.waiting), SECONDS, begun.elapsed().as_secs_f64());
        let beside = samples(bench).await?;
        figures.add_percentiles("submit to final", MILLISECONDS, OF_LATENCY, &beside, Some((EMPTY, &alone)));
        let begun = Instant::now();
        installation.end_all().await?;
        figures.add(&format!("stop {} tasks", bench.args.waiting), SECONDS, begun.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn samples(bench: &Bench<'_>) -> Result<Vec<f64>, Failure> {
    let mut samples = Vec::new();
    for _ in 0..bench.args.jobs {
        samples.push(latency::until_final(bench.installation).await?);
    }
    Ok(samples)
}
