//! Deletes output without a task: one slow scan after the start, then once a day.

use std::time::Duration;

use super::driver::{Background, Ran};
use crate::store::{Store, StoreError};

/// Number of tasks examined together, with a pause before the next batch.
const TASKS_AT_ONCE: u32 = 500;
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct Orphans {
    store: Store,
    /// The scan continues after this task.
    after: i64,
    /// Chunks that this walk deleted.
    deleted: u64,
}

impl Orphans {
    /// A walk from the beginning.
    pub fn new(store: Store) -> Orphans {
        Orphans { store, after: 0, deleted: 0 }
    }
}

impl Background for Orphans {
    const NAME: &'static str = "orphans";
    const DESCRIPTION: &'static str = "deletes output of tasks that no longer exist";

    fn period(&self) -> Duration {
        Duration::from_secs(24 * 3_600)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let seen = self.store.output_orphans_delete(self.after, TASKS_AT_ONCE).await?;
        self.deleted += seen.deleted;
        if let Some(next) = seen.next {
            self.after = next;
            return Ok(Ran { done: seen.deleted, again_after: Some(PAUSE) });
        }
        if self.deleted > 0 {
            tracing::info!(chunks = self.deleted, "deleted output of tasks that no longer exist");
        }
        (self.after, self.deleted) = (0, 0);
        Ok(Ran { done: seen.deleted, again_after: None })
    }
}
