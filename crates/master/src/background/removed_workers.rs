//! Ends tasks that wait for a worker that was removed.

use std::time::Duration;

use gaffer_domain::task::{Rejected, TaskEvent};

use super::driver::{Background, Ran};
use crate::store::transitions::{Detail, Input};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;
use crate::write_batcher::WriteBatcherHandle;

/// The most tasks that are ended together.
const MAX_ENDED_AT_ONCE: u32 = 1_000;
/// Tasks of locked jobs are ended after this time.
const BUSY_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct RemovedWorkers {
    pub store: Store,
    pub write_batcher: WriteBatcherHandle,
    /// A worker was removed.
    pub wake: Wake,
}

impl Background for RemovedWorkers {
    const NAME: &'static str = "removed_workers";
    const DESCRIPTION: &'static str = "ends tasks that wait for a removed worker";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let found = self.store.tasks_for_removed_workers(MAX_ENDED_AT_ONCE).await?;
        if found.is_empty() {
            return Ok(Ran { done: 0, again_after: None });
        }
        let more = found.len() == MAX_ENDED_AT_ONCE as usize;
        let input = |(task, name)| {
            let event = TaskEvent::WorkerRemoved(format!("its worker {name} was removed"));
            Input { task, event, actor: "gaffer".into(), detail: Detail::None }
        };
        let inputs = found.into_iter().map(input).collect();
        let results = self.write_batcher.events(inputs).await.unwrap_or_default();
        let again_after = match (results.contains(&Err(Rejected::Busy)), more && !results.is_empty()) {
            (true, _) => Some(BUSY_WAIT),
            (false, true) => Some(Duration::ZERO),
            (false, false) => None,
        };
        Ok(Ran { done: results.iter().filter(|result| result.is_ok()).count() as u64, again_after })
    }
}
