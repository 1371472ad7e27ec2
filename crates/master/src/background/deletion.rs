//! Deletes the tasks, output and history of deleted jobs in batches. The jobs themselves are deleted at once, except those of
//! deleted projects.

use std::time::Duration;

use super::driver::{Background, Ran};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;

/// The pause between slices, in which others have the disk.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Deletion {
    pub store: Store,
    /// Signals deletions.
    pub wake: Wake,
}

impl Background for Deletion {
    const NAME: &'static str = "deletion";
    const DESCRIPTION: &'static str =
        "deletes the jobs of deleted projects, and the tasks, output and history of deleted jobs, in batches";

    fn period(&self) -> Duration {
        Duration::from_secs(300)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        if let Some(jobs) = self.store.deleted_project_slice().await? {
            return Ok(Ran { done: jobs, again_after: Some(PAUSE) });
        }
        match self.store.deletion_slice().await? {
            Some(rows) => Ok(Ran { done: rows, again_after: Some(PAUSE) }),
            None => Ok(Ran::default()),
        }
    }
}
