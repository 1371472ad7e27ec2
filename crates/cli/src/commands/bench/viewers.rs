//! Viewers that read more slowly than a job writes: the memory that they cost the master, and how much they slow the job down.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use gaffer_domain::JobId;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::figures::{Figures, KIBIBYTES, MEBIBYTES, PERCENT};
use super::ingest::{self, Stored};
use super::load::LoadArgs;
use super::memory::MasterMemory;
use super::{Bench, in_turn};
use crate::client::Client;
use crate::failure::Failure;

/// Each takes one piece of the output, and looks at it for this long.
const LOOK: Duration = Duration::from_millis(200);
const ALONE: &str = "no viewer";

/// Measures both, beside the same job without viewers. All viewers follow the job from its beginning; they stay for a while after
/// its end, still far from the end of the output.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if the output was not stored as a whole.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let load = bench.large_writes();
    let viewers = bench.args.viewers;
    for round in bench.rounds() {
        bench.show("viewers", round);
        let (alone, viewed) = in_turn(round, run(bench, &load, 0), run(bench, &load, viewers)).await;
        let (alone, viewed) = (alone?, viewed?);
        match (alone.highest_mebibytes, viewed.highest_mebibytes) {
            (Ok(alone), Ok(viewed)) => {
                let limit = Some((ALONE, alone));
                figures.add_beside("memory of the master, highest", MEBIBYTES, viewed, limit);
                let each = (viewed - alone) * 1024.0 / f64::from(viewers);
                figures.add("memory of a viewer", KIBIBYTES, each);
            }
            (Err(failure), _) | (_, Err(failure)) => figures.note(format!("memory of the master: {failure}")),
        }
        figures.add("job slowed by viewers", PERCENT, (viewed.seconds / alone.seconds - 1.0) * 100.0);
    }
    Ok(())
}

/// One round.
struct Ran {
    seconds: f64,
    /// Of the master.
    highest_mebibytes: Result<f64, Failure>,
}

async fn run(bench: &Bench<'_>, load: &LoadArgs, viewers: u32) -> Result<Ran, Failure> {
    let installation = bench.installation;
    let work = Box::pin(async {
        let job = installation.submit(&ingest::spec(installation, "viewers", load)?).await?.id;
        // Dropped at the end, which closes their connections.
        let mut open = JoinSet::new();
        for _ in 0..viewers {
            open.spawn(view(installation.client.clone(), job));
        }
        let stored: Stored = ingest::stored(installation, job, load).await?;
        let stays = async {
            while let Some(ended) = open.join_next().await {
                ended.unwrap_or_else(|error| Err(Failure::Local(format!("a viewer failed: {error}"))))?;
            }
            Ok::<(), Failure>(())
        };
        // Most are not ready by then.
        timeout(bench.args.watch.to_std(), stays).await.unwrap_or(Ok(()))?;
        drop(open);
        Ok::<_, Failure>((job, stored.seconds))
    });
    let (done, highest_mebibytes) = MasterMemory::of(bench).highest_during(work).await;
    let (job, seconds) = done?;
    // The next round begins with as much on the disk.
    installation.delete(job).await?;
    Ok(Ran { seconds, highest_mebibytes })
}

/// Follows the output, slowly.
async fn view(client: Arc<Client>, job: JobId) -> Result<(), Failure> {
    let follow = vec![("follow", "1".to_owned())];
    let response = client.open(&["jobs", &job.to_string(), "output"], &follow, "text/plain", None).await?;
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        piece.map_err(|error| client.unreachable(&error))?;
        sleep(LOOK).await;
    }
    Ok(())
}
