//! Removes lost workers after `GAFFER_FORGET_WORKERS`.

use std::time::Duration;

use gaffer_domain::quantity::Span;

use super::driver::{Background, Ran};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;

const SHORTEST_PERIOD: Duration = Duration::from_secs(30);
const LONGEST_PERIOD: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub struct ForgetWorkers {
    pub store: Store,
    /// Lost workers without attempts are removed after this time.
    pub after: Span,
    /// What is to be done about tasks that were for them.
    pub removed: [Wake; 2],
}

impl Background for ForgetWorkers {
    const NAME: &'static str = "forget_workers";
    const DESCRIPTION: &'static str = "removes lost workers after GAFFER_FORGET_WORKERS";

    /// Exactly enough, and rarely.
    fn period(&self) -> Duration {
        (self.after.to_std() / 100).clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let workers = self.store.workers_forget(self.after).await?;
        if workers > 0 {
            tracing::info!(workers, "removed lost workers");
            self.removed.iter().for_each(Wake::call);
        }
        Ok(Ran { done: workers, again_after: None })
    }
}
