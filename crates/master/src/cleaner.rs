//! Removes output that belongs to nothing any more: a slow walk over all of it after the start, and once a day.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError};

/// So many tasks are looked at together, with a pause before the next ones: nobody waits for this.
const TASKS_AT_ONCE: u32 = 500;
const PAUSE: Duration = Duration::from_millis(250);
const INTERVAL: Duration = Duration::from_secs(24 * 3_600);
const RETRY: Duration = Duration::from_secs(60);

/// Walks over the output now and then, until the master goes down.
pub async fn run(store: Store, shutdown: CancellationToken) {
    loop {
        let walk = async {
            match clean(&store, PAUSE).await {
                Ok(0) => INTERVAL,
                Ok(chunks) => {
                    tracing::info!(chunks, "deleted output of tasks that are gone");
                    INTERVAL
                }
                Err(error) => {
                    tracing::warn!(%error, "could not look for output of tasks that are gone");
                    RETRY
                }
            }
        };
        let walk_and_wait = async { tokio::time::sleep(walk.await).await };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = walk_and_wait => {}
        }
    }
}

/// Walks over the output once. Returns how many chunks were deleted.
///
/// # Errors
/// When the database does not answer.
pub async fn clean(store: &Store, pause: Duration) -> Result<u64, StoreError> {
    let (mut deleted, mut after) = (0, 0);
    loop {
        let seen = store.output_orphans_delete(after, TASKS_AT_ONCE).await?;
        deleted += seen.deleted;
        match seen.next {
            Some(next) => after = next,
            None => return Ok(deleted),
        }
        tokio::time::sleep(pause).await;
    }
}
